"""Batches with a source's own columns to reviews with the one schema."""

import math

import polars as pl

from sentiment_model.classes import WHOLE, fold
from sentiment_model.config import IngestConfig
from sentiment_model.errors import QualityError
from sentiment_model.sources.columns import column, mapping_of
from sentiment_model.sources.files import fault, reject, usable_text
from sentiment_model.text.reviews import REVIEW_SCHEMA, Batch
from sentiment_model.text.spreadsheets import unguarded

_MICROSECONDS = pl.Datetime("us", "UTC")


def to_reviews(batch: Batch, config: IngestConfig) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Turn a batch into reviews.

    A label decides where there is one, else the rating; with neither, the review is unlabelled. A review without a
    label whose rating lies between those of two classes is left out, as one with a label to be dropped is.
    Beside a label, a rating that is no number does no harm and becomes null.

    Returns:
        the reviews (:data:`REVIEW_SCHEMA`), the rows for quarantine, and how many reviews were left out.

    Raises:
        SourceError: there is no text column, or it holds no text.
        QualityError: nobody said which ratings are of which class.
    """
    batch, text = usable_text(batch, config)
    if _is_of_ours(batch):
        text = unguarded(text)
    if batch.origin.is_empty():
        return REVIEW_SCHEMA.to_frame(), batch.rejects, 0
    mapping = mapping_of(config)
    columns, missing = mapping.columns, list(map(fold, config.missing_labels))
    table = pl.DataFrame(
        [
            *batch.origin,
            text,
            _value(batch, columns.review_id).alias("review_id"),
            _blank_as_null(_value(batch, columns.label), *mapping.unlabelled, *missing).alias("given"),
            _blank_as_null(_value(batch, columns.rating), *missing).alias("stars"),
            _group(_column(batch, mapping.group)).alias("group"),
            moment(_column(batch, columns.written_at)).alias("written_at"),
        ]
    )
    given, stars = pl.col("given"), pl.col("stars")
    judged = _judge(table, config)
    rejects = reject(batch, judged["fault"], text).rejects
    usable = judged.filter(pl.col("fault").is_null())
    is_unlabelled = given.is_null() & stars.is_null()
    reviews = usable.filter(is_unlabelled | pl.col("label").is_not_null())
    made_id = pl.format("{}:{}", "file", "row")
    identified = pl.when(pl.col("review_id") == "").then(made_id).otherwise(pl.col("review_id").fill_null(made_id))
    return (
        reviews.with_columns(review_id=identified).select(REVIEW_SCHEMA.names()).cast(REVIEW_SCHEMA),
        rejects,
        len(usable) - len(reviews),
    )


def _is_of_ours(batch: Batch) -> bool:
    """Tell whether the file is one of reviews to label, as scoring writes it, and not the whole scores."""
    return {"row_id", "text", "label"}.issubset(batch.columns) and "source_row" not in batch.columns


def _judge(table: pl.DataFrame, config: IngestConfig) -> pl.DataFrame:
    """Add the `rating`, the class as `label`, and the `fault` of reviews with the columns `given` and `stars`."""
    given, stars, rating, ranges = pl.col("given"), pl.col("stars"), pl.col("rating"), config.ranges()
    by_rating, number = given.is_null() & stars.is_not_null(), stars.cast(pl.Float64(), strict=False)
    table = table.with_columns(rating=pl.when(number.is_finite()).then(number))
    if ranges is None:
        if table.select((by_rating & rating.is_not_null()).any()).item():
            raise QualityError(
                f"nothing says which ratings mean {', '.join(config.classes)}; set ratings to a range for each, in the "
                "order of the classes, as --ingest.ratings 1-2,4-5"
            )
        ranges = ()
    rated = pl.lit(None, pl.Int8)
    for place, (low, high) in enumerate(ranges):
        rated = pl.when(rating.is_between(low, high)).then(pl.lit(place, pl.Int8)).otherwise(rated)
    spelled = {value: place for place, values in enumerate(config.spellings()) for value in map(fold, values)}
    named = given.replace_strict(spelled, default=None, return_dtype=pl.Int8)
    is_unknown = given.is_not_null() & named.is_null() & ~given.is_in(list(map(fold, config.dropped_labels)))
    lowest, highest = (ranges[0].low, ranges[-1].high) if ranges else (-math.inf, math.inf)
    outside = (
        f"rating {{}} is not from {lowest:g} to {highest:g}; set ratings to the ranges of the source, as "
        "--ingest.ratings 1-4,7-10, or name it in missing_labels"
    )
    unknown = "label {} means none of {}; name it in labels, dropped_labels or missing_labels"
    return table.with_columns(
        label=pl.when(given.is_null()).then(rated).otherwise(named),
        fault=pl.when(is_unknown)
        .then(fault("unknown_label", pl.format(unknown, given, pl.lit(", ".join(config.classes)))))
        .when(by_rating & rating.is_null())
        .then(fault("unknown_rating", pl.format("rating {} is no number", stars)))
        .when(by_rating & ~rating.is_between(lowest, highest))
        .then(fault("rating_out_of_range", pl.format(outside, stars))),
    )


def _column(batch: Batch, name: str | None) -> pl.Series:
    found = column(batch.frame, name) if name else None
    if found is None:
        return pl.repeat(None, len(batch.origin), dtype=pl.String(), eager=True)
    return batch.frame.select(found).to_series()


def _value(batch: Batch, name: str | None) -> pl.Series:
    return _as_text(_column(batch, name))


def _as_text(series: pl.Series) -> pl.Series:
    if series.dtype.is_nested():
        return pl.Series([None] * len(series), dtype=pl.String())
    return series.cast(pl.String(), strict=False)


def _group(values: pl.Series) -> pl.Series:
    """Return names of groups, which are the same whatever their spelling: half of a group is a group that is known."""
    if values.dtype.is_float():
        values = values.set(~values.is_finite(), None)
    return _blank_as_null(_as_text(values))


def _blank_as_null(values: pl.Series, *others: str) -> pl.Series:
    """Fold values as :func:`sentiment_model.classes.fold` does, and make blank ones and others null."""
    folded = values.str.normalize("NFC").str.strip_chars().str.to_lowercase().str.replace(WHOLE, "$1")
    return folded.set(folded.is_in(["", *others]), None)


def moment(values: pl.Series) -> pl.Series:
    """Read times as UTC: dates, ISO 8601 (time and offset may be missing), or Unix time.

    The size of a Unix time tells its unit, from seconds to nanoseconds; that is right for 1973 to 5138. What
    cannot be read becomes null: a review without a date is still a review.
    """
    if isinstance(values.dtype, pl.Date | pl.Datetime):
        zone = getattr(values.dtype, "time_zone", None)
        times = values.cast(pl.Datetime("us", zone))
        return times.dt.convert_time_zone("UTC") if zone else times.dt.replace_time_zone("UTC")
    if values.dtype.is_nested():
        return pl.Series([None] * len(values), dtype=_MICROSECONDS)
    text = pl.col("text")
    number = text.cast(pl.Float64(), strict=False)
    magnitude = number.abs()
    microseconds = (
        pl.when(magnitude < 1e11)
        .then(number * 1e6)
        .when(magnitude < 1e14)
        .then(number * 1e3)
        .when(magnitude < 1e17)
        .then(number)
        .when(magnitude < 1e19)
        .then(number / 1e3)
    )
    iso = (
        text.str.replace(r"^(\d{4}-\d{2}-\d{2})$", "${1}T00:00:00")
        .str.replace(r"^(\d{4}-\d{2}-\d{2}) +", "${1}T")
        .str.replace(r"(T\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)$", "${1}Z")
        .str.replace(r"(T\d{2}:\d{2})(Z|[+-]\d{2}:?\d{2})$", "${1}:00${2}")
    )
    return (
        pl.DataFrame({"text": values.cast(pl.String(), strict=False).str.strip_chars()})
        .select(
            pl.coalesce(
                microseconds.cast(pl.Int64()).cast(_MICROSECONDS),
                iso.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False),
            )
        )
        .to_series()
    )
