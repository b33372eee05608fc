"""Tokenize: normalised text to token ids, with a vocabulary of the training reviews."""

from typing import Any

import polars as pl

from sentiment_model.clean import SPLITS
from sentiment_model.config import TokenizeConfig
from sentiment_model.parts import PartWriter
from sentiment_model.store import DatasetWriter, Stage
from sentiment_model.vocabulary import UNKNOWN_ID, Vocabulary, tokens_of

TOKENIZE = Stage("tokenize", 1)

TOKEN_SCHEMA = pl.Schema(
    {
        "review_id": pl.String(),
        "source": pl.String(),
        "label": pl.Int8(),
        "ids": pl.List(pl.Int32()),
        "n_tokens": pl.Int32(),  # before truncation
        "n_unknown": pl.Int32(),  # before truncation
    }
)
_BATCH_ROWS = 20_000


def write_tokens(writer: DatasetWriter, reviews: pl.LazyFrame, config: TokenizeConfig) -> dict[str, Any]:
    """Write the vocabulary (role `vocabulary`) and the token ids of each split (role: the split's name).

    Args:
        writer: where to write.
        reviews: cleaned reviews.
        config: size of the vocabulary and length of the reviews.

    Returns:
        counts: tokens in the vocabulary, and for each split its reviews, tokens, the share of unknown tokens and the
        share of reviews that were cut.

    Raises:
        QualityError: no token of the training reviews is frequent enough.
    """
    vocabulary = Vocabulary.fit(reviews.filter(pl.col("split") == "train"), config)
    vocabulary.save(writer.file("vocabulary.parquet", role="vocabulary"))
    counts: dict[str, Any] = {"vocabulary": len(vocabulary)}
    for split in SPLITS:
        rows = tokens = unknown = cut = 0
        with PartWriter(writer, split, TOKEN_SCHEMA) as part:
            batches = reviews.filter(pl.col("split") == split).collect_batches(
                chunk_size=_BATCH_ROWS, maintain_order=True
            )
            for batch in batches:
                encoded = encode(batch, vocabulary, config.max_tokens).select(TOKEN_SCHEMA.names())
                part.write(encoded)
                rows += encoded.height
                tokens += int(encoded["n_tokens"].sum())
                unknown += int(encoded["n_unknown"].sum())
                cut += int((encoded["n_tokens"] > config.max_tokens).sum())
        counts[split] = {
            "reviews": rows,
            "tokens": tokens,
            "unknown_share": unknown / max(1, tokens),
            "cut_share": cut / max(1, rows),
        }
    return counts


def encode(frame: pl.DataFrame, vocabulary: Vocabulary, max_tokens: int, text_column: str = "text") -> pl.DataFrame:
    """Add the token ids of a column of normalised text.

    Args:
        frame: any frame with the text column, without nulls in it.
        vocabulary: the tokens that have an id.
        max_tokens: longer reviews keep their first and last half of this many tokens; the verdict of a review is
            mostly at its start or its end.
        text_column: the column.

    Returns:
        the frame with `ids` (list of Int32), `n_tokens` and `n_unknown` (Int32, both before truncation) added.
    """
    known = vocabulary.table
    ids = pl.element().replace_strict(known["token"], known["id"], default=UNKNOWN_ID, return_dtype=pl.Int32)
    tail = max_tokens // 2
    return (
        frame.with_columns(ids=tokens_of(pl.col(text_column)).list.eval(ids))
        .with_columns(
            n_tokens=pl.col("ids").list.len().cast(pl.Int32),
            n_unknown=pl.col("ids").list.count_matches(UNKNOWN_ID).cast(pl.Int32),
        )
        .with_columns(
            ids=pl.when(pl.col("n_tokens") <= max_tokens)
            .then("ids")
            .otherwise(pl.concat_list(pl.col("ids").list.head(max_tokens - tail), pl.col("ids").list.tail(tail)))
        )
    )
