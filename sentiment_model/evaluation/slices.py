"""Slices of the test reviews: groups in which a good average can hide a failure."""

import polars as pl

from sentiment_model.text.scripts import SCRIPTS, main_scripts

# English words that turn a statement round, as whole tokens or as the ending n't.
_NEGATION = r"(?i)\b(?:not|no|never|neither|nor|nothing|nobody|nowhere|none|cannot|hardly|without)\b|n't\b"
_SCRIPTS = pl.Enum(SCRIPTS)
_MIN_SCRIPT_ROWS = 100


def slice_names(n_tokens: pl.Expr, n_unknown: pl.Expr, text: pl.Expr) -> dict[str, pl.Expr]:
    """Return, by kind of slice, an expression that names each review's slice; null where it is in none of that kind.

    All but the source are of an enumeration whose order is that of reading. Scripts with few reviews are one slice with
    all that has no letter, and reviews of one script alone are not sliced by it.

    Args:
        n_tokens: tokens of the review, before truncation.
        n_unknown: how many of them are not in the vocabulary.
        text: the normalised text.
    """
    unknown_share = n_unknown / pl.max_horizontal(n_tokens, 1)
    return {
        "source": pl.col("source"),
        "length": _first(
            {"under 50 tokens": n_tokens < 50, "50 to 199 tokens": n_tokens < 200, "200 to 399 tokens": n_tokens < 400},
            otherwise="400 tokens and more",
        ),
        "unknown tokens": _first(
            {"none": unknown_share == 0, "under 2 %": unknown_share < 0.02, "2 to 5 %": unknown_share < 0.05},
            otherwise="5 % and more",
        ),
        "script": text.map_batches(_scripts, return_dtype=_SCRIPTS),
        "negation": _first({"with": text.str.contains(_NEGATION)}, otherwise="without"),
    }


def _scripts(texts: pl.Series) -> pl.Series:
    scripts = main_scripts(texts).fill_null(SCRIPTS[-1])
    counts = scripts.value_counts().filter(pl.col("count") >= _MIN_SCRIPT_ROWS)
    named = counts["script"].filter(counts["script"] != SCRIPTS[-1])
    if len(named) < 2:
        return pl.repeat(None, len(texts), dtype=_SCRIPTS, eager=True)
    return scripts.set(~scripts.is_in(named.implode()), SCRIPTS[-1])


def _first(conditions: dict[str, pl.Expr], otherwise: str) -> pl.Expr:
    """Return the name of the first condition that holds."""
    names = pl.coalesce(*(pl.when(condition).then(pl.lit(name)) for name, condition in conditions.items()))
    return names.fill_null(otherwise).cast(pl.Enum([*conditions, otherwise]))
