"""Split: a large text file copied to Parquet parts, which many workers can read at once.

Compressed files, and CSV with its quoted line breaks, can only be read from their start. One pass over such a file
costs a fraction of scoring it, and is made once: the parts are a dataset like any other.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import polars as pl

from sentiment_model.config import ScoringRun
from sentiment_model.sources.files import SourceFile, read_batches
from sentiment_model.sources.jsonl import WrongGuessError
from sentiment_model.sources.records import origin, read_ahead
from sentiment_model.store.datasets import Dataset, DatasetWriter, Stage
from sentiment_model.store.parts import PartWriter
from sentiment_model.text.reviews import QUARANTINE_SCHEMA, Batch

SPLIT = Stage("split", 3)

SplitRecipe = tuple[dict[str, str], dict[str, Any], Callable[[DatasetWriter], dict[str, Any]]]

ROW = "__row"
"""Column with the number of the row in the file."""

_ROW_BYTES = 1000  # of a review and its other columns, more or less
_COMPRESSION_RATIO = 3
_BATCH_ROWS = 4096  # of every run, for where parts end depends on it
_AHEAD = 4  # batches, about as many as are written in one go


def split_rows(file: SourceFile) -> float:
    """Return about how many rows a text file has, by its size."""
    return file.location.size * (_COMPRESSION_RATIO if file.compression else 1) / _ROW_BYTES


def split_recipes(files: Mapping[str, SourceFile], run: ScoringRun) -> dict[str, SplitRecipe]:
    """Return what to make of the large text files among some files: those of about two shards or more.

    Args:
        files: the files by key, which names their content too.
        run: how they are read and cut.

    Returns:
        by key, the inputs, the parameters and the writer of the stage :data:`SPLIT`.
    """
    reading = run.files.model_dump(mode="json", exclude={"path", "max_bad_share", "missing_values"})
    parameters = {**reading, "shard_rows": run.shard_rows}
    return {
        key: ({file.name: key}, parameters, partial(_write_split, file=file, run=run))
        for key, file in files.items()
        if file.format != "parquet" and split_rows(file) >= 2 * run.shard_rows
    }


def _write_split(writer: DatasetWriter, file: SourceFile, run: ScoringRun) -> dict[str, Any]:
    """Copy a file into Parquet parts of at most `shard_rows` rows, all columns and their row numbers kept.

    Rows that cannot be parsed go to the quarantine (role `quarantine`).

    Returns:
        the number of `rows` and of `quarantined` rows.

    Raises:
        SourceError: the file cannot be read, or changed meanwhile.
    """
    try:
        counts = _copy(writer, file, run, guess_types=True)
    except WrongGuessError:
        for name in writer.roles:
            (writer.folder / name).unlink(missing_ok=True)
        writer.roles.clear()
        counts = _copy(writer, file, run, guess_types=False)
    file.location.check_unchanged()
    return counts


def _copy(writer: DatasetWriter, file: SourceFile, run: ScoringRun, *, guess_types: bool) -> dict[str, int]:
    rows = quarantined = 0
    batch_rows = min(_BATCH_ROWS, run.shard_rows)
    with ExitStack() as stack:
        quarantine = stack.enter_context(PartWriter(writer, "quarantine", QUARANTINE_SCHEMA))
        part: PartWriter | None = None
        for batch in read_ahead(read_batches(file, run.files, batch_rows, guess_types=guess_types), _AHEAD):
            quarantine.write(batch.rejects)
            quarantined += len(batch.rejects)
            rows += len(batch.origin)
            table = batch.frame.with_columns(batch.origin["row"].alias(ROW))
            if part is None:
                part = stack.enter_context(PartWriter(writer, "part", table.schema, part_rows=run.shard_rows))
            part.write(table)
        if part is None:
            stack.enter_context(PartWriter(writer, "part", pl.Schema({ROW: pl.Int64()})))
    return {"rows": rows, "quarantined": quarantined}


def read_part(split: Dataset, part: int, file: SourceFile, batch_rows: int) -> Iterator[Batch]:
    """Yield the records of a part."""
    path = split.files("part")[part]
    frame = pl.scan_parquet(path, glob=False)
    columns = tuple(name for name in frame.collect_schema().names() if name != ROW)
    for rows in frame.collect_batches(chunk_size=batch_rows, maintain_order=True):
        for batch in rows.iter_slices(batch_rows):
            yield Batch(batch.drop(ROW), origin(file.name, batch[ROW]), QUARANTINE_SCHEMA.to_frame(), columns)


def read_rejects(split: Dataset, batch_rows: int) -> Iterator[pl.DataFrame]:
    """Yield the rows that could not be parsed, with :data:`QUARANTINE_SCHEMA`."""
    for rows in split.scan("quarantine").collect_batches(chunk_size=batch_rows, maintain_order=True):
        yield from rows.iter_slices(batch_rows)
