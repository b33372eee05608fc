"""Clean: normalised text, every text once, and a split in which no text is on two sides."""

import hashlib
from typing import Any

import polars as pl

from sentiment_model.classes import Classes
from sentiment_model.config import CleanConfig
from sentiment_model.errors import QualityError
from sentiment_model.store.datasets import DatasetWriter, Stage
from sentiment_model.store.parts import PartWriter
from sentiment_model.text.normalise import normalise
from sentiment_model.text.reviews import QUARANTINE_SCHEMA, RAW_CHARACTERS, REVIEW_SCHEMA
from sentiment_model.text.sides import LABELLED, SPLITS, Sides, sides

CLEAN = Stage("clean", 5)

CLEAN_SCHEMA = pl.Schema({**REVIEW_SCHEMA, "split": pl.String(), "text_hash": pl.Binary()})


def text_hash(text: pl.Expr, salt: str) -> pl.Expr:
    """Return 16 bytes that name a text whatever its letter case, the same on every machine; null for no text.

    polars' own hash is faster, but differs between its versions. Letter case does not count, as tokens have none.
    """
    key = hashlib.sha256(salt.encode()).digest()

    def digest(text: str | None) -> bytes | None:
        return hashlib.blake2b(text.lower().encode(), digest_size=16, key=key).digest() if text else None

    def digests(texts: pl.Series) -> pl.Series:
        return pl.Series([digest(text) for text in texts], dtype=pl.Binary)

    return text.map_batches(digests, return_dtype=pl.Binary, is_elementwise=True)


def write_cleaned(
    writer: DatasetWriter,
    reviews: pl.LazyFrame,
    test: pl.LazyFrame | None,
    unlabelled: pl.LazyFrame | None,
    classes: Classes,
    config: CleanConfig,
) -> dict[str, Any]:
    """Write the cleaned reviews (role `part`) and those without text (role `quarantine`).

    The parts have the review schema with normalised text, plus `split` (one of :data:`SPLITS`) and `text_hash`, in
    the order of the input. Of equal texts the first is kept, a labelled one rather than an unlabelled one. A text
    with more than one label is removed. A text that the test has from its own sources is kept there and dropped
    elsewhere. What is kept is then split, see :func:`sentiment_model.text.sides.sides`.

    The reviews are read three times: for the hashes, which decide what becomes of each row, for groups and dates, and
    to be written. Memory grows by about 100 bytes with each distinct text, whatever its length, and 24 with each row.

    Args:
        writer: where to write.
        reviews: reviews in the review schema.
        test: a test set of its own in the same schema, whose labelled reviews are then the test together with
            those of `config.test_only_sources`; None holds out a share of the reviews too.
        unlabelled: more reviews in the same schema, whose labels are not read, or None.
        classes: those of the labels.
        config: kind, shares and sources of the split.

    Returns:
        counts: `rows_in`, and where they went: `rows` (and those by split and label), `quarantined`, `duplicates`,
        `contradictions` (rows whose text has several labels), `also_in_test`, and `on_no_side` (unlabelled reviews of
        what is held out, and undated ones in a split by time); and how the rows were split.

    Raises:
        QualityError: train, validation or test would lack a class, or the reviews cannot be split so.
    """
    if unlabelled is not None:
        reviews = pl.concat([reviews, unlabelled.with_columns(label=pl.lit(None, pl.Int8))])
    rows = _prepare(reviews, test, config)
    texts = _decide(rows)
    split, facts = _split(texts, rows, config, own_test=test is not None)
    texts = texts.with_columns(split)
    counts = _count(texts, classes) | facts
    _check(counts)
    kept = texts.drop_nulls(["kept_row", "split"])
    # The split of every row, in the order of the rows; null where it is dropped.
    splits = pl.repeat(None, counts["rows_in"], dtype=pl.Enum(SPLITS), eager=True).alias("split")
    splits = splits.scatter(kept["kept_row"], kept["split"])
    read = written = quarantined = 0
    with (
        PartWriter(writer, "part", CLEAN_SCHEMA) as part,
        PartWriter(writer, "quarantine", QUARANTINE_SCHEMA) as quarantine,
    ):
        for batch in rows.collect_batches(maintain_order=True):
            split = splits[read : read + batch.height].cast(pl.String)
            reviews_kept = batch.with_columns(split).drop_nulls("split").select(CLEAN_SCHEMA.names())
            rejects = _rejects(batch.filter(pl.col("text_hash").is_null()))
            part.write(reviews_kept)
            quarantine.write(rejects)
            read += batch.height
            written += reviews_kept.height
            quarantined += rejects.height
    if (read, written, quarantined) != (counts["rows_in"], counts["rows"], counts["quarantined"]):
        raise RuntimeError(
            f"{read} rows were read, {written} written and {quarantined} quarantined, which differs from {counts}; "
            "this is a defect of the program"
        )
    return counts


def _prepare(reviews: pl.LazyFrame, test: pl.LazyFrame | None, config: CleanConfig) -> pl.LazyFrame:
    """Return all rows with the text normalised, its hash, the `original` text, and what is `held_out` as test."""
    frames = [reviews.with_columns(held_out=pl.col("source").is_in(list(config.test_only_sources)))]
    if test is not None:
        frames.append(test.with_columns(held_out=pl.lit(True)))
    return (
        pl.concat(frames)
        .with_columns(original=pl.col("text"), text=normalise(pl.col("text")))
        .with_columns(text_hash=text_hash(pl.col("text"), config.salt))
    )


def _decide(rows: pl.LazyFrame) -> pl.DataFrame:
    """Decide what becomes of each text.

    Returns:
        a line for each distinct text, and one (with a null `text`) for those that are empty: `rows` (how many have
        the text), `relevant_rows` (without those dropped because a held-out review has it), `kept_row` (the number
        of the row to keep; null for none), its `label`, and whether it `is_test` by its source.
    """
    row, label = pl.col("row"), pl.col("label")
    is_test = label.is_not_null() & pl.col("held_out")
    texts = (
        rows.with_row_index("row")
        .select(
            text=hash_number(pl.col("text_hash")),
            row=row,
            labelled_row=pl.when(label.is_not_null()).then(row),
            test_row=pl.when(is_test).then(row),
            label=label,
            test_label=pl.when(is_test).then(label),
        )
        .group_by("text")
        .agg(
            pl.col("row", "labelled_row", "test_row").min(),
            pl.col("label", "test_label").min(),
            max_label=label.max(),
            max_test_label=pl.col("test_label").max(),
            rows=pl.len(),
            test_rows=pl.col("test_row").count(),
        )
        .collect(engine="streaming")
    )
    in_test = pl.col("test_row").is_not_null()
    usable = pl.col("text").is_not_null() & (
        pl.when(in_test)
        .then(pl.col("test_label") == pl.col("max_test_label"))
        .otherwise(label.is_null() | (label == pl.col("max_label")))
    )
    return texts.select(
        "text",
        "rows",
        relevant_rows=pl.when(in_test).then("test_rows").otherwise("rows"),
        kept_row=pl.when(usable).then(pl.coalesce("test_row", "labelled_row", "row")),
        label=pl.coalesce("test_label", "label"),
        is_test=in_test,
    )


def _split(texts: pl.DataFrame, rows: pl.LazyFrame, config: CleanConfig, *, own_test: bool) -> Sides:
    """Return the side of each text, null for those that are not kept, and how they were split."""
    of_rows = rows.select("group", "written_at").collect(engine="streaming")
    kept = texts.drop_nulls("kept_row")
    found = kept.hstack(of_rows[kept["kept_row"]])
    groups = found.select(pl.col("group").drop_nulls().unique())
    places = groups.with_columns(group_place=_place(hash_number(text_hash(pl.col("group"), config.salt))))
    reviews = found.join(places, on="group", how="left", maintain_order="left").with_columns(
        text_place=_place(pl.col("text"))
    )
    split, facts = sides(reviews, config, own_test=own_test)
    placed = kept.select("text").with_columns(split)
    return Sides(texts.join(placed, on="text", how="left", maintain_order="left")["split"], facts)


def hash_number(digest: pl.Expr) -> pl.Expr:
    """Return 16 bytes as a number."""
    return digest.bin.reinterpret(dtype=pl.UInt128, endianness="big")


def _place(number: pl.Expr) -> pl.Expr:
    """Return a hash as a number from 0 to 1."""
    return number.cast(pl.Float64) / 2.0**128


def _rejects(empty: pl.DataFrame) -> pl.DataFrame:
    return empty.select(
        file="source",
        row=pl.lit(None),
        reason=pl.lit("empty_after_normalisation"),
        detail=pl.format("review {} has no text besides markup, white space and invisible characters", "review_id"),
        raw=pl.col("original").str.slice(0, RAW_CHARACTERS),
    ).cast(QUARANTINE_SCHEMA)


def _count(texts: pl.DataFrame, classes: Classes) -> dict[str, Any]:
    empty, usable = pl.col("text").is_null(), pl.col("kept_row").is_not_null()
    kept = usable & pl.col("split").is_not_null()
    rows, relevant = pl.col("rows"), pl.col("relevant_rows")
    counts = texts.select(
        rows_in=rows.sum(),
        rows=kept.sum(),
        quarantined=rows.filter(empty).sum(),
        duplicates=(relevant - 1).filter(kept).sum(),
        contradictions=relevant.filter(~usable & ~empty).sum(),
        on_no_side=relevant.filter(usable & ~kept).sum(),
        also_in_test=(rows - relevant).filter(~empty).sum(),
    ).row(0, named=True)
    groups = texts.filter(kept).group_by("split", "label").len()
    sizes = {(split, label): size for split, label, size in groups.iter_rows()}
    labelled = {
        split: {name: sizes.get((split, label), 0) for label, name in enumerate(classes.names)} for split in LABELLED
    }
    return {**counts, "splits": {**labelled, "unlabelled": sizes.get(("unlabelled", None), 0)}}


def _check(counts: dict[str, Any]) -> None:
    """Raise where the splits cannot train and test a classifier."""
    for split in LABELLED:
        sizes = counts["splits"][split]
        if all(sizes.values()):
            continue
        found, missing = ([name for name in sizes if bool(sizes[name]) is there] for there in (True, False))
        kind = f"only {found[0]}" if len(found) == 1 else f"no {' or '.join(missing)}" if found else "no"
        raise QualityError(
            f"{split} has {kind} reviews: of {counts['rows_in']:,} rows, "
            f"{sum(sum(counts['splits'][name].values()) for name in LABELLED):,} distinct labelled reviews are left "
            f"({counts['splits']['unlabelled']:,} are unlabelled, {counts['contradictions']:,} contradictory, "
            f"{counts['quarantined']:,} without text); add reviews of every class, or change the shares, salt and "
            "sources of the split"
        )
