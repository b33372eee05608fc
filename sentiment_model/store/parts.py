"""Parquet written piece by piece."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import polars as pl
import pyarrow.parquet as pq

GROUP_ROWS = 100_000
GROUP_BYTES = 16 << 20
PART_ROWS = 2_000_000


class Files(Protocol):
    """Gives the local paths of the files that are to be written."""

    def file(self, name: str, role: str = ...) -> Path:
        """Return the path at which to write the file `name`, which has this role."""


class PartWriter:
    """Writes a table that arrives in pieces as few files with one role, in bounded memory.

    Row groups end at :data:`GROUP_ROWS` or about :data:`GROUP_BYTES`, files at `part_rows` or :data:`PART_ROWS`. An
    empty table is one file without rows. File names begin with `name`, or else with the role; `metadata` goes into each
    file's schema.
    """

    def __init__(
        self,
        writer: Files,
        role: str,
        schema: pl.Schema,
        name: str | None = None,
        *,
        part_rows: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._writer = writer
        self._role = role
        self._name = name or role
        self._schema = schema
        self._part_rows = part_rows or PART_ROWS
        self._group_rows = min(GROUP_ROWS, self._part_rows)
        self._metadata = dict(metadata or {})
        self._file: pq.ParquetWriter | None = None
        self._parts = 0
        self._rows = 0
        self._clear()

    def _clear(self) -> None:
        self._pieces = [self._schema.to_frame()]
        self._waiting_rows = 0
        self._waiting_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and (self._waiting_rows or not self._parts):
                self._flush()
        finally:
            if self._file:
                self._file.close()

    def write(self, frame: pl.DataFrame) -> None:
        """Add rows."""
        if self._waiting_rows and self._waiting_rows + len(frame) > self._group_rows:
            self._flush()
        self._pieces.append(frame)
        self._waiting_rows += len(frame)
        self._waiting_bytes += int(frame.estimated_size())
        if self._waiting_rows >= self._group_rows or self._waiting_bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pl.concat(self._pieces).to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._file and self._rows + len(table) > self._part_rows:
            self._file.close()
            self._file = None
        if self._metadata:
            table = table.replace_schema_metadata(self._metadata)
        if self._file is None:
            path = self._writer.file(f"{self._name}-{self._parts:05d}.parquet", self._role)
            self._file = pq.ParquetWriter(path, table.schema, compression="zstd")
            self._parts += 1
            self._rows = 0
        self._file.write_table(table)
        self._rows += len(table)
        self._clear()
