"""Clean: normalised text, every text once, and a split in which no text is on two sides.

A review's side is a function of its normalised text and the salt, so it never changes when more data arrives.
"""

import hashlib
from typing import Any

import polars as pl

from sentiment_model.config import CleanConfig
from sentiment_model.errors import QualityError
from sentiment_model.normalise import normalise
from sentiment_model.reviews import QUARANTINE_SCHEMA, RAW_CHARACTERS
from sentiment_model.store import DatasetWriter, Stage

CLEAN = Stage("clean", 1)

SPLITS = ("train", "validation", "test", "unlabelled")
_LABELLED = SPLITS[:3]
_ROW_GROUP = 50_000


def text_hash(text: pl.Expr, salt: str) -> pl.Expr:
    """Return 16 bytes that name a text, whatever its letter case, the same on every machine.

    polars' own hash is faster, but differs between its versions. Letter case does not count, because the network does
    not see it either.
    """

    def hashes(texts: pl.Series) -> pl.Series:
        key = salt.encode()
        values = [hashlib.blake2b(text.lower().encode(), digest_size=16, key=key).digest() for text in texts.to_list()]
        return pl.Series(values, dtype=pl.Binary)

    return text.map_batches(hashes, return_dtype=pl.Binary, is_elementwise=True)


def write_cleaned(
    writer: DatasetWriter, reviews: pl.LazyFrame, test: pl.LazyFrame | None, config: CleanConfig
) -> dict[str, Any]:
    """Write the cleaned reviews (role `part`) and those without text (role `quarantine`), and return the counts.

    The parts have the review schema with normalised text, plus `split` (one of :data:`SPLITS`) and `text_hash`, in the
    order of the input. Of equal texts the first is kept, a labelled one before an unlabelled one. A text with both
    labels is removed. A text of the test set is nowhere else.

    Args:
        writer: where to write.
        reviews: reviews in the review schema.
        test: a test set of its own, in the same schema; None holds out a share of the reviews.
        config: shares and sources of the split.

    Raises:
        QualityError: train, validation or test would lack one of the two labels.
    """
    normalised = writer.folder / "normalised.parquet"  # an intermediate, so that text is normalised once
    frames = [reviews.with_columns(named=pl.lit(False))]
    if test is not None:
        frames.append(test.with_columns(named=pl.lit(True)))
    (
        pl.concat(frames)
        .with_columns(text=normalise(pl.col("text")))
        .with_columns(text_hash=text_hash(pl.col("text"), config.salt))
        .sink_parquet(normalised, maintain_order=True, row_group_size=_ROW_GROUP)
    )
    rows = pl.scan_parquet(normalised).with_row_index("row")
    empty = pl.col("text") == ""
    _sink_quarantine(rows.filter(empty), writer)
    decided = _decide(rows.filter(~empty), config, own_test=test is not None)
    (
        rows.filter(~empty)
        .join(decided.lazy().select("row", "split"), on="row", how="inner", maintain_order="left")
        .drop("row", "named")
        .sink_parquet(writer.file("part-00000.parquet"), maintain_order=True, row_group_size=_ROW_GROUP)
    )
    counts = _count(rows, pl.scan_parquet(writer.folder / "part-00000.parquet"), decided)
    normalised.unlink()
    _check(counts)
    return counts


def _decide(rows: pl.LazyFrame, config: CleanConfig, *, own_test: bool) -> pl.DataFrame:
    """Return a line for each distinct text: `row` to keep (null for a contradiction), `split`, and what is dropped."""
    labelled = pl.col("label").is_not_null()
    in_test = labelled & (pl.col("named") | pl.col("source").is_in(config.test_only_sources))
    texts = (
        rows.select("row", "label", "text_hash", in_test=in_test)
        .group_by("text_hash")
        .agg(
            rows=pl.len(),
            test_rows=pl.col("in_test").sum(),
            labels=pl.col("label").n_unique() - pl.col("label").has_nulls().cast(pl.UInt32),
            test_labels=pl.col("label").filter("in_test").n_unique(),
            first=pl.col("row").min(),
            first_labelled=pl.col("row").filter(pl.col("label").is_not_null()).min(),
            first_test=pl.col("row").filter("in_test").min(),
        )
        .collect(engine="streaming")
    )
    # Eight bytes of the hash, read as a number in [0, 1).
    fraction = pl.col("text_hash").bin.slice(0, 8).bin.reinterpret(dtype=pl.UInt64, endianness="big") / 2.0**64
    test_share = 0.0 if own_test else config.test_share
    held_out = config.validation_share + test_share
    return texts.with_columns(
        contradictory=pl.when(pl.col("test_rows") > 0).then(pl.col("test_labels") > 1).otherwise(pl.col("labels") > 1),
        split=pl.when(pl.col("test_rows") > 0)
        .then(pl.lit("test"))
        .when(pl.col("first_labelled").is_null())
        .then(pl.lit("unlabelled"))
        .when(fraction < config.validation_share)
        .then(pl.lit("validation"))
        .when(fraction < held_out)
        .then(pl.lit("test"))
        .otherwise(pl.lit("train")),
    ).with_columns(
        row=pl.when(~pl.col("contradictory")).then(pl.coalesce("first_test", "first_labelled", "first")),
        also_in_test=pl.when(pl.col("test_rows") > 0).then(pl.col("rows") - pl.col("test_rows")).otherwise(0),
    )


def _sink_quarantine(rows: pl.LazyFrame, writer: DatasetWriter) -> None:
    rows.select(
        file=pl.col("source"),
        row=pl.lit(None, pl.Int64),
        reason=pl.lit("empty_after_normalisation"),
        detail=pl.format("review {} holds markup or white space only", "review_id"),
        raw=pl.col("text").str.slice(0, RAW_CHARACTERS),
    ).cast(QUARANTINE_SCHEMA).sink_parquet(writer.file("quarantine.parquet", role="quarantine"))


def _count(rows: pl.LazyFrame, kept: pl.LazyFrame, decided: pl.DataFrame) -> dict[str, Any]:
    contradictory = pl.col("contradictory")
    relevant = pl.col("rows") - pl.col("also_in_test")
    dropped = decided.select(
        also_in_test=pl.col("also_in_test").sum(),
        contradictions=relevant.filter(contradictory).sum(),
        duplicates=(relevant - 1).filter(~contradictory).sum(),
    ).row(0, named=True)
    totals = rows.select(rows_in=pl.len(), empty=(pl.col("text") == "").sum()).collect().row(0, named=True)
    table = kept.group_by("split", "label").len().collect(engine="streaming")
    sizes = {(split, label): count for split, label, count in table.iter_rows()}
    counts = {
        "rows_in": totals["rows_in"],
        "rows": table["len"].sum(),
        "quarantined": totals["empty"],
        **{name: int(count) for name, count in dropped.items()},
        "splits": {
            **{
                split: {"positive": sizes.get((split, 1), 0), "negative": sizes.get((split, 0), 0)}
                for split in _LABELLED
            },
            "unlabelled": sizes.get(("unlabelled", None), 0),
        },
    }
    accounted = sum(counts[name] for name in ("rows", "quarantined", "also_in_test", "contradictions", "duplicates"))
    if accounted != counts["rows_in"]:
        raise RuntimeError(
            f"{counts['rows_in']} rows came in, but {accounted} are accounted for; this is a defect of the program"
        )
    return counts


def _check(counts: dict[str, Any]) -> None:
    for split in _LABELLED:
        sizes = counts["splits"][split]
        if missing := [label for label, size in sizes.items() if not size]:
            raise QualityError(
                f"the {split} split has no {' and no '.join(missing)} reviews (of {counts['rows']:,} distinct ones "
                f"from {counts['rows_in']:,} rows); add reviews of both labels, or change the shares and sources of "
                "the split"
            )
