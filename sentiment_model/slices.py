"""Slices of the test reviews: groups in which a good average can hide a failure."""

import polars as pl

# English words that turn a statement round, as whole tokens or as the ending n't.
_NEGATION = r"(?i)\b(?:not|no|never|neither|nor|nothing|nobody|nowhere|none|cannot|hardly|without)\b|n't\b"


def slice_names(n_tokens: pl.Expr, n_unknown: pl.Expr, text: pl.Expr) -> dict[str, pl.Expr]:
    """Return, by kind of slice, an expression that names each review's slice.

    Args:
        n_tokens: tokens of the review, before truncation.
        n_unknown: how many of them are not in the vocabulary.
        text: the normalised text.
    """
    unknown_share = n_unknown / pl.max_horizontal(n_tokens, 1)
    return {
        "source": pl.col("source"),
        "length": pl.when(n_tokens < 50)
        .then(pl.lit("under 50 tokens"))
        .when(n_tokens < 200)
        .then(pl.lit("50 to 199 tokens"))
        .when(n_tokens < 400)
        .then(pl.lit("200 to 399 tokens"))
        .otherwise(pl.lit("400 tokens and more")),
        "unknown tokens": pl.when(unknown_share == 0)
        .then(pl.lit("none"))
        .when(unknown_share < 0.02)
        .then(pl.lit("under 2 %"))
        .when(unknown_share < 0.05)
        .then(pl.lit("2 to 5 %"))
        .otherwise(pl.lit("5 % and more")),
        "negation": pl.when(text.str.contains(_NEGATION)).then(pl.lit("with")).otherwise(pl.lit("without")),
    }
