"""Parquet, a few pages at a time."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sentiment_model.errors import FileAccessError, SourceError
from sentiment_model.sources.records import BATCH_BYTES, decode, distinct, origin
from sentiment_model.store.objects import first_line
from sentiment_model.text.reviews import Batch, Fault, quarantined

_ROWS_AT_ONCE = 64


def read_parquet(
    file: str,
    content: BinaryIO,
    batch_rows: int,
    only: Collection[str] | None,
    row_groups: tuple[int, int] | None = None,
    first_row: int = 1,
) -> Iterator[Batch]:
    """Yield batches of a Parquet file; its types are kept, dictionaries decoded.

    Arrow unpacks each page whole, so that memory is bounded as far as the writer's pages are small: by default 1 MiB.

    Args:
        file: name of the file.
        content: the file, which must be able to seek.
        batch_rows: most records of a batch; fewer where the rows are large on average, as stored.
        only: columns to read; None for all.
        row_groups: the first row group to read and the one after the last; None for all.
        first_row: number of the first of these rows.

    Raises:
        SourceError: the file is damaged.
    """
    with _damage_reported(file):
        parquet = pq.ParquetFile(content, pre_buffer=False, buffer_size=1 << 20)
        columns = tuple(distinct(parquet.schema_arrow.names))
        metadata = parquet.metadata
        size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        rows = max(1, min(batch_rows, BATCH_BYTES * max(1, metadata.num_rows) // max(1, size)))
        wanted = [name for name in columns if only is None or name in only]
        position = first_row
        groups = range(*(row_groups or (0, metadata.num_row_groups)))
        for arrow in _batches(parquet, rows, groups, None if only is None else wanted):
            frame, bad = _to_polars(file, arrow)
            number = pl.int_range(position, position + arrow.num_rows, eager=True, dtype=pl.Int64())
            fault = Fault("undecodable", "a string is not UTF-8")
            yield Batch(
                frame.filter(~bad),
                origin(file, number.filter(~bad)),
                quarantined((file, row, fault) for row in number.filter(bad)),
                columns,
            )
            position += arrow.num_rows


def _batches(
    parquet: pq.ParquetFile, rows: int, groups: Iterable[int], columns: list[str] | None
) -> Iterator[pa.RecordBatch]:
    """Yield batches of `rows` rows, fewer where they are large: a long text that is stored once may stand in each.

    They are read a few rows at a time, since Arrow fills whatever number of rows it is asked for.
    """
    pieces: list[pa.RecordBatch] = []
    missing, size = rows, 0
    for stored in parquet.iter_batches(min(rows, _ROWS_AT_ONCE), groups, columns=columns):
        piece = _without_dictionaries(stored)
        while len(piece):
            pieces.append(piece[:missing])
            piece = piece[missing:]
            missing -= len(pieces[-1])
            size += pieces[-1].nbytes
            if not missing or size >= BATCH_BYTES:
                yield pa.concat_batches(pieces)
                pieces, missing, size = [], rows, 0
    if pieces:
        yield pa.concat_batches(pieces)


def _without_dictionaries(arrow: pa.RecordBatch) -> pa.RecordBatch:
    for place, field in enumerate(arrow.schema):
        if pa.types.is_dictionary(field.type):
            arrow = arrow.set_column(place, field.name, arrow.column(place).dictionary_decode())
    return arrow


def row_group_rows(file: str, content: BinaryIO) -> list[int]:
    """Return the number of rows of each row group of a Parquet file.

    Raises:
        SourceError: the file is damaged.
    """
    with _damage_reported(file):
        metadata = pq.ParquetFile(content).metadata
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


@contextmanager
def _damage_reported(file: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        if isinstance(error, OSError) and error.errno:  # of the system; Arrow's own about a file's content has none
            raise FileAccessError(f"cannot read {file}: {error}") from error
        raise SourceError(f"{file} is no Parquet file or is damaged: {first_line(error)}") from error


def _to_polars(file: str, arrow: pa.RecordBatch) -> tuple[pl.DataFrame, pl.Series]:
    """Return the table, and which rows hold a string that is not UTF-8: Arrow does not check it."""
    series = []
    bad = pl.repeat(False, arrow.num_rows, eager=True)
    for name, stored in zip(distinct(arrow.schema.names), arrow.columns, strict=True):
        column = stored if (held := _held(stored.type)) == stored.type else _cast(file, name, stored, held)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise
            binary = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
            raw = pl.Series(name, column.view(binary), pl.Binary())
            decoded = decode(raw)
            bad = bad | (raw.is_not_null() & decoded.is_null())
            series.append(decoded)
        else:
            series.append(_series(file, name, column))
    return pl.DataFrame(height=arrow.num_rows).with_columns(series), bad


def _held(dtype: pa.DataType) -> pa.DataType:
    """Return the type that polars has for values of another: decimals of more than 38 digits become strings."""
    if isinstance(dtype, pa.BaseExtensionType):
        return _held(dtype.storage_type)
    if pa.types.is_decimal256(dtype):
        return pa.string()
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return dtype if (inner := _held(dtype.value_type)) == dtype.value_type else pa.large_list(inner)
    if pa.types.is_list_view(dtype) or pa.types.is_large_list_view(dtype):
        return pa.large_list(_held(dtype.value_type))
    if pa.types.is_struct(dtype):
        return pa.struct([field.with_type(_held(field.type)) for field in dtype])
    return dtype


def _cast(file: str, name: str, column: pa.Array, dtype: pa.DataType) -> pa.Array:
    if "list_view<" in str(column.type) and "extension<" in str(column.type):  # of some of which Arrow crashes
        raise _unreadable(file, name, column)
    try:
        return (column.storage if isinstance(column, pa.ExtensionArray) else column).cast(dtype)
    except pa.ArrowException as error:
        raise _unreadable(file, name, column) from error


def _series(file: str, name: str, column: pa.Array) -> pl.Series:
    try:
        return pl.Series(name, column)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError) as error:
        raise _unreadable(file, name, column) from error


def _unreadable(file: str, name: str, column: pa.Array) -> SourceError:
    return SourceError(f"column {name!r} of {file} has the type {column.type}, which cannot be read; save another")
