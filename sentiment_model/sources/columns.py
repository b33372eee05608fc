"""Which column of a dump holds what."""

from dataclasses import dataclass

import polars as pl
from polars.datatypes import DataTypeClass

from sentiment_model.config import Columns, LabelledColumns, Preset, ReviewFiles
from sentiment_model.errors import SourceError
from sentiment_model.text.reviews import Batch


@dataclass(frozen=True)
class Mapping:
    """A column mapping, and the values of its label column that mean that there is no label."""

    columns: Columns
    unlabelled: tuple[str, ...] = ()

    @property
    def group(self) -> str | None:
        """The column with the group, where reviews are read to learn from."""
        return self.columns.group if isinstance(self.columns, LabelledColumns) else None


PRESETS: dict[Preset, Mapping] = {
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
    # https://huggingface.co/datasets/stanfordnlp/imdb: Parquet; its unsupervised split is labelled -1.
    "hf-imdb": Mapping(Columns(text="text", label="label"), unlabelled=("-1",)),
}


def mapping_of(config: ReviewFiles) -> Mapping:
    """Return the preset's mapping, or else the configuration's own."""
    return PRESETS[config.preset] if config.preset else Mapping(config.columns)


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
        return pl.col(head).str.json_path_match("$" + "".join(f"['{part}']" for part in path))
    expression = pl.col(head)
    for part in path:
        if not isinstance(dtype, pl.Struct) or part not in (fields := dtype.to_schema()):
            return None
        expression, dtype = expression.struct.field(part), fields[part]
    return expression


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
            f"{', '.join(map(repr, batch.columns)) or 'none'}; name the column with the text, or where these are no "
            "names but the first review, all columns in files.column_names"
        )
    dtype = batch.frame.select(expression).dtypes[0]
    if dtype.is_nested():
        raise SourceError(f"column {name!r} of {file} holds {dtype}; name a field inside it, such as {name}.text")
    return expression
