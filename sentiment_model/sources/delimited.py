"""CSV and TSV: a bad record costs itself only.

The standard library's parser reads record by record, so after a quote that never closes, the following lines
can be pushed back and read again as records of their own; no other parser at hand resynchronises.
"""

import csv
from collections import deque
from collections.abc import Collection, Iterator

import polars as pl

from sentiment_model.errors import SourceError
from sentiment_model.sources.records import distinct, gather
from sentiment_model.text.reviews import Batch, Fault

csv.field_size_limit(2**31 - 1)  # for the whole process; what bounds a field here is the limit on its record

_LINE_BYTES = 8  # that a list takes for a line, an empty one too


class _Records:
    """Iterates over a delimited file: records (a list of fields, and the size in bytes) or their faults."""

    def __init__(self, lines: Iterator[bytes | Fault], delimiter: str, limit: int) -> None:
        self._lines = lines
        self._delimiter = delimiter
        self._limit = limit
        self._pushed_back: deque[bytes | Fault] = deque()
        self._taken: list[bytes] = []  # lines of the record being read
        self._undecodable = False
        self.width: int | None = None

    def __iter__(self) -> Iterator[tuple[list[str], int] | Fault]:
        while True:
            try:
                for fields in csv.reader(self._feed(), delimiter=self._delimiter, strict=True):
                    if fields:  # not a blank line
                        yield self._checked(fields)
                    self._taken.clear()
                    self._undecodable = False
            except csv.Error as error:
                yield self._give_up("broken_csv", f"broken quoting: {error}")
                continue
            if not self._pushed_back:
                return
            yield self._pushed_back.popleft()  # type: ignore[misc]  # the fault at which the feed stopped

    def _feed(self) -> Iterator[str]:
        size = 0
        while (line := self._next()) is not None:
            if isinstance(line, Fault) or (self._taken and size + len(line) > self._limit):
                self._pushed_back.appendleft(line)
                return
            size = len(line) + _LINE_BYTES + (size if self._taken else 0)
            self._taken.append(line)
            try:
                text = line.decode()
            except UnicodeDecodeError:
                text = line.decode(errors="surrogateescape")
                self._undecodable = True
            yield text + "\n"

    def _next(self) -> bytes | Fault | None:
        return self._pushed_back.popleft() if self._pushed_back else next(self._lines, None)

    def _checked(self, fields: list[str]) -> tuple[list[str], int] | Fault:
        if self.width is not None and len(fields) != self.width:
            return self._give_up("ragged_line", f"{len(fields)} fields where the header has {self.width}")
        if self._undecodable:
            return Fault("undecodable", "not UTF-8", self._taken[0])
        return fields, sum(map(len, self._taken))

    def _give_up(self, reason: str, detail: str) -> Fault:
        """Blame the first line and read the others again: its bad quote may have swallowed good records."""
        first, *others = self._taken
        self._pushed_back.extendleft(reversed(others))
        self._taken.clear()
        self._undecodable = False
        return Fault(reason, detail, first)


def read_delimited(
    file: str,
    lines: Iterator[bytes | Fault],
    delimiter: str,
    batch_rows: int,
    limit: int,
    only: Collection[str] | None,
) -> Iterator[Batch]:
    """Yield batches of a CSV or TSV file with a header; every column is a string, and an empty field is "".

    Args:
        file: name of the file.
        lines: its lines.
        delimiter: between the fields.
        batch_rows: most records of a batch.
        limit: bytes of the longest record.
        only: columns to keep; None for all.

    Raises:
        SourceError: the header cannot be read.
    """
    records = _Records(lines, delimiter, limit)
    items = iter(records)
    header = next(items, None)
    if header is None:
        return
    if isinstance(header, Fault):
        raise SourceError(f"{file}: the header cannot be read: {header.detail}; repair or remove the file")
    columns = tuple(distinct(header[0]))
    records.width = len(columns)
    kept = [i for i, name in enumerate(columns) if only is None or name in only]

    def build(rows: list[list[str]]) -> tuple[pl.DataFrame, tuple[str, ...]]:
        series = [pl.Series(columns[i], [row[i] for row in rows], pl.String()) for i in kept]
        return pl.DataFrame(height=len(rows)).with_columns(series), columns

    yield from gather(file, items, build, batch_rows)
