"""Batches with a source's own columns to reviews with the one schema."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import polars as pl

from sentiment_model.classes import WHOLE, Range, fold
from sentiment_model.config import IngestConfig
from sentiment_model.errors import QualityError, SourceError
from sentiment_model.sources.columns import Labels, column, labels_of, mapping_of
from sentiment_model.sources.dates import moment
from sentiment_model.sources.files import fault, reject, usable_text
from sentiment_model.sources.ratings import read_ratings
from sentiment_model.text.reviews import REVIEW_SCHEMA, Batch
from sentiment_model.text.spreadsheets import unguarded

_MOST_LABELS = 1000  # that are counted by name: the column may turn out to be one of texts
_NO_RATINGS = (0.0, -1.0)  # what dumps write where nobody rated, if the scale starts above


@dataclass
class Seen:
    """What labels, ratings and dates were found, used or not.

    Attributes:
        rated: how many reviews have no label, and a rating that is a number.
        outside: how many of these are not on the scale of the classes' ratings.
        unrated: how many of them have 0 or -1, below that scale, which is taken for no rating.
        low: the lowest rating of these; infinite where there is none.
        high: the highest one.
        scales: how many are written out of another scale, by its highest rating.
        labels: how many have a label, by label.
        dates: how many reviews have a date.
        unread_dates: how many of these cannot be read.
        unread_date: the first such.
    """

    rated: int = 0
    outside: int = 0
    unrated: int = 0
    low: float = math.inf
    high: float = -math.inf
    scales: Counter[float] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    dates: int = 0
    unread_dates: int = 0
    unread_date: str | None = None

    def add(self, other: "Seen") -> None:
        """Add what was found elsewhere."""
        self.rated += other.rated
        self.outside += other.outside
        self.unrated += other.unrated
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.scales.update(other.scales)
        for label, count in other.labels.items():
            if label in self.labels or len(self.labels) < _MOST_LABELS:
                self.labels[label] += count
        self.dates += other.dates
        self.unread_dates += other.unread_dates
        self.unread_date = self.unread_date or other.unread_date


@dataclass(frozen=True)
class Unified:
    """What became of a batch.

    Attributes:
        reviews: with :data:`REVIEW_SCHEMA`.
        rejects: the rows for quarantine.
        left_out: how many reviews were left out.
        seen: what was found in them.
    """

    reviews: pl.DataFrame
    rejects: pl.DataFrame
    left_out: int
    seen: Seen


def to_reviews(batch: Batch, config: IngestConfig) -> Unified:
    """Turn a batch into reviews.

    A label decides where there is one, else the rating; with neither, the review is unlabelled. A review without a
    label whose rating lies between those of two classes is left out, as one with a label to be dropped is.
    Beside a label, a rating that is no number does no harm and becomes null.

    Raises:
        SourceError: there is no text column, it holds no text, or a column with labels or ratings is nested.
        QualityError: nobody said which ratings are of which class.
    """
    batch, text = usable_text(batch, config)
    if _is_of_ours(batch):
        text = unguarded(text)
    if batch.origin.is_empty():
        return Unified(REVIEW_SCHEMA.to_frame(), batch.rejects, 0, Seen())
    mapping, labels = mapping_of(config), labels_of(config)
    columns = mapping.columns
    missing = set(map(fold, config.missing_values))
    stars = _blank_as_null(_value(batch, columns.rating), missing.union(map(fold, mapping.missing_values)))
    dates = _column(batch, columns.written_at)
    table = pl.DataFrame(
        [
            *batch.origin,
            text,
            _known(_value(batch, columns.review_id), missing).alias("review_id"),
            _blank_as_null(_value(batch, columns.label), labels.missing).alias("given"),
            stars.alias("stars"),
            *read_ratings(stars),
            _group(_column(batch, mapping.group), missing).alias("group"),
            moment(dates).alias("written_at"),
        ]
    )
    judged = _judge(table, config, labels)
    rejects = reject(batch, judged["fault"], text).rejects
    usable = judged.filter(pl.col("fault").is_null())
    is_unlabelled = pl.col("given").is_null() & (pl.col("stars").is_null() | pl.col("unrated"))
    reviews = usable.filter(is_unlabelled | pl.col("label").is_not_null())
    made_id = pl.format("{}:{}", "file", "row")
    seen = _seen(judged)
    _see_dates(seen, _known(_as_text(dates), missing), table["written_at"])
    return Unified(
        reviews.with_columns(review_id=pl.col("review_id").fill_null(made_id))
        .select(REVIEW_SCHEMA.names())
        .cast(REVIEW_SCHEMA),
        rejects,
        len(usable) - len(reviews),
        seen,
    )


def _is_of_ours(batch: Batch) -> bool:
    """Tell whether the file is one of reviews to label, as scoring writes it, and not the whole scores."""
    return {"row_id", "text", "label"}.issubset(batch.columns) and "source_row" not in batch.columns


def _judge(table: pl.DataFrame, config: IngestConfig, labels: Labels) -> pl.DataFrame:
    """Tell what reviews are, by the columns `given`, `stars`, `number` and `scale`.

    Added are the class as `label`, the `rating`, the `fault`, and whether the rating decides (`rated`) or would if
    it were one (`unrated`), and whether it is not on the scale (`outside`).
    """
    given, stars, number, scale = (pl.col(name) for name in ("given", "stars", "number", "scale"))
    by_rating, ranges = given.is_null() & stars.is_not_null(), config.ranges()
    if ranges is None:
        if table.select((by_rating & number.is_not_null()).any()).item():
            raise QualityError(
                f"nothing says which ratings mean {', '.join(config.classes)}; set ratings to a range for each, in the "
                "order of the classes, as --ingest.ratings 1-2,4-5"
            )
        ranges = (Range(-math.inf, math.inf),)
    lowest, highest = ranges[0].low, ranges[-1].high
    unrated = number.is_in(_NO_RATINGS) & (number < lowest) & scale.is_null()
    table = table.with_columns(
        unrated=unrated.fill_null(value=False),
        of_another_scale=(scale != highest).fill_null(value=False),
        rated=by_rating & number.is_not_null(),
    ).with_columns(rating=pl.when(~pl.col("unrated")).then(number))
    rating = pl.col("rating")
    placed = pl.lit(None, pl.Int8)
    for place, (low, high) in enumerate(ranges):
        placed = pl.when(rating.is_between(low, high)).then(pl.lit(place, pl.Int8)).otherwise(placed)
    named = given.replace_strict(labels.classes, default=None, return_dtype=pl.Int8)
    is_unknown = given.is_not_null() & named.is_null() & ~given.is_in(list(labels.dropped))
    is_truth = stars.is_in(["true", "false"])
    other_scale = (
        f"rating {{}} is not out of {highest:g}, the highest rating of the classes; set ratings to the ranges of the "
        "source"
    )
    outside = (
        f"rating {{}} is not from {lowest:g} to {highest:g}; set ratings to the ranges of the source, as "
        "--ingest.ratings 1-4,7-10, or name it in missing_values"
    )
    unknown = "label {} means none of {}; name it in labels, dropped_labels or missing_values"
    return table.with_columns(
        label=pl.when(given.is_null()).then(placed).otherwise(named),
        outside=pl.col("rated")
        & ~pl.col("unrated")
        & (pl.col("of_another_scale") | ~rating.is_between(lowest, highest)),
        fault=pl.when(is_unknown)
        .then(fault("unknown_label", pl.format(unknown, given, pl.lit(", ".join(config.classes)))))
        .when(by_rating & number.is_null() & is_truth)
        .then(fault("unknown_rating", pl.format("rating {} is a label; name its column in columns.label", stars)))
        .when(by_rating & number.is_null())
        .then(
            fault(
                "unknown_rating",
                pl.format("rating {} is no number; if it means none, name it in missing_values", stars),
            )
        )
        .when(by_rating & pl.col("of_another_scale"))
        .then(fault("rating_out_of_range", pl.format(other_scale, stars)))
        .when(by_rating & ~rating.is_between(lowest, highest))
        .then(fault("rating_out_of_range", pl.format(outside, stars))),
    )


def _seen(judged: pl.DataFrame) -> Seen:
    rated = judged.filter("rated")
    own = rated.filter(~pl.col("of_another_scale"))["number"]
    other = rated.filter("of_another_scale")["scale"].value_counts()
    labels = judged["given"].drop_nulls().value_counts().head(_MOST_LABELS)
    seen = Seen(
        rated=len(rated),
        outside=int(rated["outside"].sum()),
        unrated=int(rated["unrated"].sum()),
        scales=Counter(dict(other.iter_rows())),
        labels=Counter(dict(labels.iter_rows())),
    )
    if len(own):
        seen.low, seen.high = own.sort()[[0, -1]]
    return seen


def _see_dates(seen: Seen, dates: pl.Series, read: pl.Series) -> None:
    unread = dates.filter(read.is_null()).drop_nulls()
    seen.dates = dates.count()
    seen.unread_dates = len(unread)
    seen.unread_date = unread[0] if len(unread) else None


def _column(batch: Batch, name: str | None) -> pl.Series:
    found = column(batch.frame, name) if name else None
    if found is None:
        return pl.repeat(None, len(batch.origin), dtype=pl.String(), eager=True)
    values = batch.frame.select(found).to_series()
    if values.dtype.is_nested():
        raise SourceError(
            f"column {name!r} of {batch.origin['file'][0]} holds {values.dtype}; name a field inside it, such as "
            f"{name}.value"
        )
    return values


def _value(batch: Batch, name: str | None) -> pl.Series:
    return _as_text(_column(batch, name))


def _as_text(series: pl.Series) -> pl.Series:
    return series.cast(pl.String(), strict=False)


def _group(values: pl.Series, missing: Iterable[str]) -> pl.Series:
    """Return names of groups, which are the same whatever their spelling: half of a group is a group that is known."""
    if values.dtype.is_float():
        values = values.set(~values.is_finite(), None)
    return _blank_as_null(_as_text(values), missing)


def _known(values: pl.Series, missing: Iterable[str]) -> pl.Series:
    """Return values as they are written, and null for those that mean nothing."""
    return values.set(_blank_as_null(values, missing).is_null(), None)


def _blank_as_null(values: pl.Series, missing: Iterable[str]) -> pl.Series:
    """Fold values as :func:`sentiment_model.classes.fold` does, and make blank and missing ones null."""
    folded = values.str.normalize("NFC").str.strip_chars().str.to_lowercase().str.replace(WHOLE, "$1")
    return folded.set(folded.is_in(["", *missing]), None)
