"""Which column of a dump holds what, and what its values mean."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl
from polars.datatypes import DataTypeClass

from sentiment_model.classes import fold
from sentiment_model.config import Columns, IngestConfig, LabelledColumns, Preset, ReviewFiles
from sentiment_model.errors import SourceError
from sentiment_model.sources.records import options
from sentiment_model.text.reviews import Batch


@dataclass(frozen=True)
class Mapping:
    """What the columns of a dump hold.

    Attributes:
        columns: which column holds what.
        labels: the class that a value of the label column means; where this class is not among those to tell apart,
            reviews with the value are left out.
        missing_values: what else stands for no label and no rating, beside the configuration's own.
        column_names: names of the columns, where a file has no header.
        encoding: of a text file, where it is not found out.
    """

    columns: Columns
    labels: dict[str, str] = field(default_factory=dict)
    missing_values: tuple[str, ...] = ()
    column_names: tuple[str, ...] | None = None
    encoding: str | None = None

    @property
    def group(self) -> str | None:
        """The column with the group, where reviews are read to learn from."""
        return self.columns.group if isinstance(self.columns, LabelledColumns) else None


PRESETS: dict[Preset, Mapping] = {
    # https://nijianmo.github.io/amazon (2018; that of 2014 has the same fields): JSON Lines.
    "amazon-reviews-2018": Mapping(
        LabelledColumns(text="reviewText", rating="overall", written_at="unixReviewTime", group="asin")
    ),
    # https://amazon-reviews-2023.github.io: JSON Lines; the title is not joined to the text.
    "amazon-reviews-2023": Mapping(
        LabelledColumns(text="text", rating="rating", written_at="timestamp", group="parent_asin")
    ),
    # https://business.yelp.com/data/resources/open-dataset: JSON Lines in yelp_academic_dataset_review.json.
    "yelp": Mapping(
        LabelledColumns(text="text", rating="stars", review_id="review_id", written_at="date", group="business_id")
    ),
    # The Play Console's monthly export, UTF-16 CSV.
    "google-play": Mapping(
        Columns(
            text="Review Text",
            rating="Star Rating",
            review_id="Review Link",
            written_at="Review Last Update Date and Time",
        )
    ),
    # https://pypi.org/project/google-play-scraper: what `reviews` returns, of one app, as CSV or JSON.
    "google-play-scraper": Mapping(
        Columns(text="content", rating="score", review_id="reviewId", written_at="at"),
    ),
    # https://pypi.org/project/app-store-scraper: its `reviews`, of one app, as CSV or JSON; Apple's store.
    "app-store-scraper": Mapping(Columns(text="review", rating="rating", written_at="date")),
    # https://partner.steamgames.com/doc/store/getreviews: the objects of `reviews`, one a line; they name no game.
    "steam": Mapping(
        LabelledColumns(
            text="review",
            label="voted_up",
            review_id="recommendationid",
            written_at="timestamp_created",
            group="author.steamid",
        ),
        labels={"true": "positive", "1": "positive", "false": "negative", "0": "negative"},
    ),
    # https://www.kaggle.com/datasets/andrewmvd/steam-reviews: dataset.csv.
    "kaggle-steam": Mapping(
        LabelledColumns(text="review_text", label="review_score", group="app_id"),
        labels={"1": "positive", "-1": "negative"},
    ),
    # https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html: JSON Lines; a review without a rating has 0.
    "goodreads": Mapping(
        LabelledColumns(
            text="review_text", rating="rating", review_id="review_id", written_at="date_added", group="book_id"
        ),
        missing_values=("0",),
    ),
    # http://help.sentiment140.com/for-students: CSV without a header; of the training file no tweet is neutral.
    "sentiment140": Mapping(
        LabelledColumns(text="text", label="target", review_id="id", written_at="date", group="user"),
        labels={"0": "negative", "2": "neutral", "4": "positive"},
        column_names=("target", "id", "date", "flag", "user", "text"),
        encoding="cp1252",
    ),
    # https://huggingface.co/datasets/stanfordnlp/imdb: Parquet; its unsupervised split is labelled -1.
    "hf-imdb": Mapping(Columns(text="text", label="label"), missing_values=("-1",)),
    # https://www.kaggle.com/datasets/lakshmi25npathi/imdb-dataset-of-50k-movie-reviews: IMDB Dataset.csv.
    "kaggle-imdb": Mapping(Columns(text="review", label="sentiment")),
}


def mapping_of(config: ReviewFiles) -> Mapping:
    """Return the preset's mapping, or else the configuration's own."""
    return PRESETS[config.preset] if config.preset else Mapping(config.columns)


class Labels(NamedTuple):
    """What the folded values of a label column mean: the number of a class, to be left out, or no label."""

    classes: dict[str, int]
    dropped: frozenset[str]
    missing: frozenset[str]


def labels_of(config: IngestConfig) -> Labels:
    """Return what the values of the label column mean; the configuration goes before the preset.

    The names of the classes, and what the configuration says of labels, go before the usual marks of missing values.
    """
    mapping = mapping_of(config)
    names = {fold(name): number for number, name in enumerate(config.classes)}
    spelled = {value: number for number, values in enumerate(config.spellings()) for value in map(fold, values)}
    dropped = set(map(fold, config.dropped_labels))
    of_preset = {fold(value): names.get(fold(name)) for value, name in mapping.labels.items()}
    if config.labels is None and any(number is not None for number in of_preset.values()):
        said = set(map(fold, config.missing_values)) | dropped | set(names)
        of_preset = {value: number for value, number in of_preset.items() if value not in said}
        spelled = names | {value: number for value, number in of_preset.items() if number is not None}
        dropped |= {value for value, number in of_preset.items() if number is None}
    missing = set(map(fold, (*config.missing_values, *mapping.missing_values))) - set(spelled) - dropped
    return Labels(spelled, frozenset(dropped), frozenset(missing))


def is_marker(text: pl.Series, markers: Iterable[str]) -> pl.Series:
    """Tell which texts are one of the markers, apart from letter case and the space around."""
    known = [marker.strip().lower() for marker in markers]
    # Lower case of a text is no shorter, so what is longer than all markers need not be looked at.
    start = text.str.strip_chars().str.head(max(map(len, known), default=0) + 1).str.to_lowercase()
    return start.is_in(known).fill_null(value=False)


def top_level(name: str) -> set[str]:
    """Return the columns that a name may refer to: itself and, where it is dotted, what it reaches into."""
    return {name, name.partition(".")[0]}


def has_column(batch: Batch, name: str) -> bool:
    """Tell whether the batch's file has a column that the name may refer to."""
    return not top_level(name).isdisjoint(batch.columns)


def column(frame: pl.DataFrame, name: str) -> pl.Expr | None:
    """Return the column of this name, or the nested field that its dots reach, in a struct or in JSON text.

    Returns:
        the expression, or None where the table has no such column.
    """
    if name in frame.columns:
        return pl.col(name)
    head, *path = name.split(".")
    if not path or head not in frame.columns:
        return None
    dtype: pl.DataType | DataTypeClass = frame.schema[head]
    if dtype == pl.String():
        quoted = [part.replace("'", r"\'") for part in path]
        return pl.col(head).str.json_path_match("$" + "".join(f"['{part}']" for part in quoted))
    expression = pl.col(head)
    for part in path:
        if not isinstance(dtype, pl.Struct) or part not in (fields := dtype.to_schema()):
            return None
        expression, dtype = expression.struct.field(part), fields[part]
    return expression


def _advice(batch: Batch) -> str:
    """Return what to do where a file has no column with the text."""
    for name, values in batch.frame.to_dict().items():
        first = values.drop_nulls().head(1)
        if values.dtype == pl.String() and first.str.contains(r"^\s*\[\s*\{").any():
            return f"its column {name!r} holds a list of objects: write each of these as a line of its own"
    advice = "name the column with the text"
    if len(batch.columns) == 1 and not re.fullmatch(r"[\w\s]+", batch.columns[0]):
        advice += f", or what stands between several columns in {options('delimiter')}"
    return f"{advice}, or where these are no names but the first review, all columns in {options('column-names')}"


def text_column(batch: Batch, name: str) -> pl.Expr:
    """Return the column with the text.

    Raises:
        SourceError: there is none, or it holds no text.
    """
    file = batch.origin["file"][0]
    expression = column(batch.frame, name)
    if expression is None:
        raise SourceError(
            f"text column missing: {file} has no column {name!r}, it has "
            f"{', '.join(map(repr, batch.columns)) or 'none'}; {_advice(batch)}"
        )
    dtype = batch.frame.select(expression).dtypes[0]
    if dtype.is_nested():
        raise SourceError(f"column {name!r} of {file} holds {dtype}; name a field inside it, such as {name}.text")
    return expression
