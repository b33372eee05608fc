"""Scores as CSV: for spreadsheets, and for people who label."""

import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from sentiment_model.classes import Classes
from sentiment_model.config import ScoringRun
from sentiment_model.models.answers import distance_from_another_label, probability_columns
from sentiment_model.store.objects import Objects

_FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"
"""What makes a spreadsheet take a text for a formula, see OWASP's page on CSV injection."""


def export(
    objects: Objects, name: str, paths: Sequence[str], run: ScoringRun, text: str, classes: Classes
) -> tuple[str | None, str | None]:
    """Write the files that a run asks for; return the paths or URLs of the CSV and of the reviews to label.

    Args:
        objects: the table of scores.
        name: name of the files.
        paths: the Parquet files of the scores; where there are none, nothing is written.
        run: what is asked for.
        text: the column with the text.
        classes: what the model tells apart.
    """
    return (
        write_csv(objects, f"csv/{name}.csv", paths) if run.csv and paths else None,
        write_to_label(objects, f"to-label/{name}.csv", paths, text, classes, run.threshold, run.to_label)
        if run.to_label and paths
        else None,
    )


def write_csv(objects: Objects, path: str, paths: Sequence[str]) -> str:
    """Write the rows of Parquet files as one CSV file; return its path or URL.

    A text or a column's name that a spreadsheet would take for a formula gets an apostrophe in front. Nested columns
    become JSON.

    Args:
        objects: the table of scores.
        path: the file below it.
        paths: the Parquet files, whose columns may differ.
    """
    return _write(objects, path, _harmless(_all(paths)))


def write_to_label(
    objects: Objects, path: str, paths: Sequence[str], text: str, classes: Classes, threshold: float, rows: int
) -> str:
    """Write the reviews whose label is least certain; return the file's path or URL.

    Of two classes, these are closest to the threshold; of more, their two most probable classes are closest together.
    The file has the columns `row_id`, `text`, those of the probabilities, and an empty `label`. With labels filled in
    it is a source to train on; rows whose label is still empty are unlabelled reviews.

    Args:
        objects: the table of scores.
        path: the file below it.
        paths: the Parquet files of the scores.
        text: their column with the text.
        classes: what the model tells apart.
        threshold: of two classes, the probability from which a review is of the second.
        rows: how many.
    """
    columns = probability_columns(classes)
    nearest = _all(paths).select("row_id", pl.col(text).cast(pl.String).alias("text"), *columns)
    nearest = nearest.bottom_k(rows, by=distance_from_another_label(classes, threshold))
    return _write(objects, path, _harmless(nearest.with_columns(label=pl.lit(""))))


def _all(paths: Sequence[str]) -> pl.LazyFrame:
    return pl.concat([pl.scan_parquet(path, glob=False) for path in paths], how="diagonal_relaxed")


def _harmless(frame: pl.LazyFrame) -> pl.LazyFrame:
    columns = []
    for name, dtype in frame.collect_schema().items():
        column = pl.col(name)
        if dtype.is_nested():
            column = pl.struct(column.alias("value")).struct.json_encode().str.slice(9).str.strip_suffix("}")
        elif dtype == pl.Binary():
            column = column.bin.encode("base64")
        elif dtype != pl.String():
            columns.append(column.alias(_harmless_name(name)))
            continue
        guarded = pl.when(column.str.contains(_FORMULA)).then(pl.concat_str(pl.lit("'"), column)).otherwise(column)
        columns.append(guarded.alias(_harmless_name(name)))
    return frame.select(columns)


def _harmless_name(name: str) -> str:
    return f"'{name}" if re.match(_FORMULA, name) else name


def _write(objects: Objects, path: str, frame: pl.LazyFrame) -> str:
    staged = f"_staged/csv-{uuid.uuid4().hex[:12]}/rows.csv"
    with TemporaryDirectory(prefix="sentiment-") as folder:
        local = Path(folder, "rows.csv")
        frame.sink_csv(local)
        objects.upload(staged, local)
    objects.move(staged, path)
    return f"{objects.url}/{path}"
