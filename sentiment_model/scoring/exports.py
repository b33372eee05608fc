"""Scores as CSV: for spreadsheets, and for people who label."""

import base64
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec
import polars as pl
from polars.datatypes import DataTypeClass
from polars.exceptions import PanicException

from sentiment_model.classes import Classes
from sentiment_model.config import ScoringRun
from sentiment_model.models.answers import distance_from_another_label, probability_columns
from sentiment_model.redaction import redacted
from sentiment_model.scoring.names import RENAMED, stored_name
from sentiment_model.sources.columns import column
from sentiment_model.store.objects import Objects, first_line
from sentiment_model.text.spreadsheets import guarded

_MOMENT = "%Y-%m-%dT%H:%M:%S%.f"


class Exports(NamedTuple):
    """What was exported.

    Attributes:
        csv: path or URL of the scores as CSV, or None.
        to_label: path or URL of the reviews to label, or None.
        faults: why what was asked for could not be written, by what it is.
    """

    csv: str | None
    to_label: str | None
    faults: dict[str, str]


class _Group(NamedTuple):
    """Files of scores, one after the other, with the same columns.

    Attributes:
        rows: of all of them.
        schema: of these.
        metadata: of each file, as far as it is about columns.
    """

    rows: pl.LazyFrame
    schema: pl.Schema
    metadata: dict[str, str]


def export(objects: Objects, name: str, paths: Sequence[str], run: ScoringRun, text: str, classes: Classes) -> Exports:
    """Write the files that a run asks for.

    The scores are published by then, so that nothing that goes wrong here is raised.

    Args:
        objects: the table of scores.
        name: name of the files.
        paths: the Parquet files of the scores; where there are none, nothing is written.
        run: what is asked for.
        text: the column with the text.
        classes: what the model tells apart.
    """
    faults: dict[str, str] = {}

    def written(what: str, write: Callable[[], str]) -> str | None:
        try:
            return write()
        except (Exception, PanicException) as error:
            faults[what] = redacted(first_line(error))
            return None

    csv = to_label = None
    if run.csv and paths:
        csv = written("CSV", lambda: write_csv(objects, f"csv/{name}.csv", paths))
    if run.to_label and paths:
        to_label = written(
            "reviews to label",
            lambda: write_to_label(objects, f"to-label/{name}.csv", paths, text, classes, run.threshold, run.to_label),
        )
    return Exports(csv, to_label, faults)


def write_csv(objects: Objects, path: str, paths: Sequence[str]) -> str:
    """Write the rows of Parquet files as one CSV file; return its path or URL.

    A text or a column's name that a spreadsheet would take for a formula gets an apostrophe in front. Times are ISO
    8601, nested columns JSON, and bytes are text where they are UTF-8, else Base64.

    Args:
        objects: the table of scores.
        path: the file below it.
        paths: the Parquet files, whose columns and their types may differ.
    """
    return _write(objects, path, [_readable(group.rows, group.schema) for group in _groups(paths)])


def write_to_label(
    objects: Objects, path: str, paths: Sequence[str], text: str, classes: Classes, threshold: float, rows: int
) -> str:
    """Write the reviews whose label is least certain; return the file's path or URL.

    Of two classes, these are closest to the threshold; of more, their two most probable classes are closest together.
    The file has the columns `row_id`, `text`, an empty `label`, and those of the probabilities. With labels filled in
    it is a source to train on; rows whose label is still empty are unlabelled reviews.

    Args:
        objects: the table of scores.
        path: the file below it.
        paths: the Parquet files of the scores.
        text: the column of the input with the text.
        classes: what the model tells apart.
        threshold: of two classes, the probability from which a review is of the second.
        rows: how many.

    Raises:
        ValueError: a file has no such column.
    """
    # Excel leaves out the last column of rows that are empty there, so that it must be one which is full.
    columns = ["row_id", "text", "label", *probability_columns(classes)]
    found = [group.rows.with_columns(_text(group, text).alias("text"), label=pl.lit("")) for group in _groups(paths)]
    nearest = pl.concat([rows.select(columns) for rows in found], how="vertical_relaxed")
    nearest = nearest.bottom_k(rows, by=distance_from_another_label(classes, threshold))
    return _write(objects, path, [_readable(nearest, nearest.collect_schema())])


def _text(group: _Group, name: str) -> pl.Expr:
    stored = stored_name(name, group.metadata, group.schema)
    found = column(group.schema.to_frame(), stored)
    if found is None:
        raise ValueError(f"no column {stored!r} in the scores, which have {', '.join(group.schema)}")
    return _as_text(found, group.schema.to_frame().select(found).dtypes[0])


def _groups(paths: Sequence[str]) -> Iterator[_Group]:
    def columns(path: str) -> tuple[tuple[tuple[str, pl.DataType], ...], str | None]:
        schema = pl.scan_parquet(path, glob=False, hive_partitioning=False).collect_schema()
        return tuple(schema.items()), pl.read_parquet_metadata(path).get(RENAMED)

    for (schema, names), alike in groupby(paths, columns):
        rows = pl.scan_parquet(list(alike), glob=False, hive_partitioning=False)
        yield _Group(rows, pl.Schema(schema), {} if names is None else {RENAMED: names})


def _readable(rows: pl.LazyFrame, schema: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """Return every column as text that people can read, and no spreadsheet takes for a formula.

    Text is what columns have in common whose types differ from file to file.
    """
    columns = [_as_text(pl.col(name), dtype) for name, dtype in schema.items()]
    is_free = [not (dtype.is_numeric() or dtype.is_temporal()) for dtype in schema.values()]
    columns = [guarded(text) if free else text for text, free in zip(columns, is_free, strict=True)]
    names = pl.Series(list(schema)).to_frame("name").select(guarded(pl.col("name"))).to_series()
    return rows.select(text.alias(name) for text, name in zip(columns, names, strict=True))


def _as_text(values: pl.Expr, dtype: pl.DataType | DataTypeClass) -> pl.Expr:
    if dtype.is_nested():
        if _has_bytes(dtype):  # which polars has no JSON for
            return values.map_batches(_json, return_dtype=pl.String(), is_elementwise=True)
        json = pl.struct(values.alias("value")).struct.json_encode().str.slice(len('{"value":')).str.strip_suffix("}")
        return pl.when(values.is_not_null()).then(json)
    if dtype == pl.Binary():
        return values.map_batches(_decoded, return_dtype=pl.String(), is_elementwise=True)
    if isinstance(dtype, pl.Datetime):
        return values.dt.to_string(_MOMENT + ("%:z" if dtype.time_zone else ""))
    if isinstance(dtype, pl.Duration):
        return values.dt.to_string("iso")
    return values.cast(pl.String())


def _has_bytes(dtype: pl.DataType | DataTypeClass) -> bool:
    if isinstance(dtype, pl.Struct):
        return any(_has_bytes(field.dtype) for field in dtype.fields)
    return _has_bytes(dtype.inner) if isinstance(dtype, pl.List | pl.Array) else dtype == pl.Binary()


def _json(values: pl.Series) -> pl.Series:
    texts = [None if value is None else msgspec.json.encode(_with_text(value)).decode() for value in values.to_list()]
    return pl.Series(values.name, texts, pl.String())


def _with_text(value: Any) -> Any:
    """Return a nested value with its bytes as text."""
    if isinstance(value, dict):
        return {name: _with_text(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_text(inner) for inner in value]
    return _decode(value) if isinstance(value, bytes) else value


def _decoded(values: pl.Series) -> pl.Series:
    return pl.Series(values.name, [None if value is None else _decode(value) for value in values], pl.String())


def _decode(value: bytes) -> str:
    try:
        if b"\0" not in value:  # which is UTF-8, and no text
            return value.decode()
    except UnicodeDecodeError:
        pass
    return base64.b64encode(value).decode()


def _write(objects: Objects, path: str, frames: Sequence[pl.LazyFrame]) -> str:
    """Write tables of text as one CSV file, with the byte-order mark by which Excel knows UTF-8."""
    staged = f"_staged/csv-{uuid.uuid4().hex[:12]}/rows.csv"
    with TemporaryDirectory(prefix="sentiment-") as folder:
        local = Path(folder, "rows.csv")
        pl.concat(frames, how="diagonal").sink_csv(local, include_bom=True)
        objects.upload(staged, local)
    objects.move(staged, path)
    return f"{objects.url}/{path}"
