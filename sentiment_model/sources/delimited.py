"""CSV and the like: a bad record costs itself only.

The standard library's parser reads record by record, so after a quote that never closes, the following lines
can be pushed back and read again as records of their own; no other parser at hand resynchronises.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain, takewhile

import polars as pl

from sentiment_model.config import ReviewFiles
from sentiment_model.errors import SourceError
from sentiment_model.sources.dialects import QUOTE, Dialect, are_records, first_guess, has_no_quotes, separator
from sentiment_model.sources.records import NOT_UTF8, distinct, gather, options, shown
from sentiment_model.text.reviews import Batch, Fault

csv.field_size_limit(2**31 - 1)  # for the whole process; what bounds a field here is the limit on its record

_LINE_BYTES = 8  # that a list takes for a line, an empty one too
_AGAIN = 4  # times that lines are read again on average; more is for files that are all quotes
_SAMPLE_LINES, _SAMPLE_BYTES = 2000, 1 << 20
_BACKSLASH = "\\"
_NOWHERE = "\x1f"  # the unit separator, which no review has
_OPTIONS = f"say how it is written with {options('delimiter', 'quote', 'escape', 'encoding', 'column-names')}"
_FEW = 2  # faulty records that say nothing of a file


class _Records:
    """Iterates over a delimited file: records (a list of fields, and the size in bytes) or their faults."""

    def __init__(self, lines: Iterator[bytes | Fault], dialect: Dialect, limit: int) -> None:
        self._lines = lines
        self._dialect = dialect
        self._limit = limit
        self._pushed_back: deque[bytes | Fault] = deque()
        self._taken: list[bytes] = []  # lines of the record being read
        self._credit = limit  # bytes that may be read again
        self._undecodable = False
        self._header: list[str] | None = None
        self._folded_header: list[str] | None = None
        self._width = len(dialect.columns) if dialect.columns else None

    def read_header(self) -> list[str] | Fault | None:
        """Return the fields of the first record, which all others must be as many as; None where there is none."""
        found = next(iter(self), None)
        if found is None or isinstance(found, Fault):
            return found
        self._header, _ = found
        self._folded_header = _folded(self._header)
        self._taken.clear()
        self._width = len(self._header)
        return self._header

    def __iter__(self) -> Iterator[tuple[list[str], int] | Fault]:
        while True:
            try:
                for fields in self._dialect.records(self._feed()):
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
            if isinstance(line, Fault) or (self._taken and (size + len(line) > self._limit or self._is_tired())):
                self._pushed_back.appendleft(line)
                return
            size = len(line) + _LINE_BYTES + (size if self._taken else 0)
            self._taken.append(line)
            try:
                text = line.decode()
            except UnicodeDecodeError:
                text = line.decode(errors="surrogateescape")
                self._undecodable = True
            yield (text if self._dialect.escape is None else _escapes_kept(text, self._dialect)) + "\n"

    def _next(self) -> bytes | Fault | None:
        if self._pushed_back:
            return self._pushed_back.popleft()
        line = next(self._lines, None)
        if isinstance(line, bytes):
            self._credit += _AGAIN * len(line)
        return line

    def _is_tired(self) -> bool:
        """Tell whether lines were read again so often that by now each is a record or none."""
        return self._credit < 0 and bool(self._pushed_back)

    def _checked(self, fields: list[str]) -> tuple[list[str], int] | Fault:
        if self._dialect.is_wrapped:
            fields = self._dialect.unwrapped(fields)
        if self._width is not None and len(fields) != self._width:
            where = "where the header has" if self._dialect.columns is None else "for column_names of"
            return self._give_up("ragged_line", f"{len(fields)} fields {where} {self._width}")
        if self._undecodable:
            return Fault("undecodable", NOT_UTF8, self._taken[0])
        if fields == self._header or (len(fields) > 1 and _folded(fields) == self._folded_header):
            return Fault("repeated_header", "the header once more, as in files that were joined", self._taken[0])
        if self._width is not None and len(self._taken) > 1 and self._dialect.quote:
            lines = [line.decode(errors="replace") for line in self._taken]
            if are_records(lines, fields, self._dialect):
                return self._give_up(
                    "broken_csv", f"a quote opens here that closes {len(lines) - 1} lines on, and each is a record"
                )
        return fields, sum(map(len, self._taken))

    def _give_up(self, reason: str, detail: str) -> Fault:
        """Blame the first line and read the others again: its bad quote may have swallowed good records."""
        first, *others = self._taken
        self._credit -= sum(map(len, others)) + _LINE_BYTES * len(others)
        self._pushed_back.extendleft(reversed(others))
        self._taken.clear()
        self._undecodable = False
        return Fault(reason, detail, first)


def _folded(fields: list[str]) -> list[str]:
    return [field.strip().casefold() for field in fields]


def _escapes_kept(line: str, dialect: Dialect) -> str:
    """Return the line with every escape character doubled that escapes nothing, since the parser drops it."""
    escape = str(dialect.escape)
    special = {dialect.quote, dialect.delimiter, escape, ""}
    return re.sub(
        f"{re.escape(escape)}(.?)",
        lambda found: found[0] if found[1] in special else escape + found[0],
        line,
        flags=re.DOTALL,
    )


def read_delimited(
    file: str,
    lines: Iterator[bytes | Fault],
    usual: str,
    config: ReviewFiles,
    text: set[str],
    batch_rows: int,
    limit: int,
    only: Collection[str] | None,
) -> Iterator[Batch]:
    """Yield batches of a file of delimited text; every column is a string, and an empty field is "".

    Args:
        file: name of the file.
        lines: its lines.
        usual: the delimiter of such files; that of this one may be another.
        config: what is known of how the file is written.
        text: names that the column with the text may have.
        batch_rows: most records of a batch.
        limit: bytes of the longest record.
        only: columns to keep; None for all.

    Raises:
        SourceError: the header cannot be read, or most of the first records have the same fault.
    """
    dialect, lines = find_dialect(file, lines, usual, config, text)
    records = _Records(lines, dialect, limit)
    header = dialect.columns if dialect.columns else records.read_header()
    if header is None:
        return
    if isinstance(header, Fault):
        raise SourceError(f"{file}: the header cannot be read: {header.detail}; repair the file, or {_OPTIONS}")
    columns = tuple(distinct(header))
    kept = [i for i, name in enumerate(columns) if only is None or name in only]

    def build(rows: list[list[str]]) -> tuple[pl.DataFrame, tuple[str, ...]]:
        series = [pl.Series(columns[i], [row[i] for row in rows], pl.String()) for i in kept]
        return pl.DataFrame(height=len(rows)).with_columns(series), columns

    yield from gather(file, iter(records), build, batch_rows)


def find_dialect(
    file: str, lines: Iterator[bytes | Fault], usual: str, config: ReviewFiles, text: set[str]
) -> tuple[Dialect, Iterator[bytes | Fault]]:
    """Return how a file is written, by its first lines, and all its lines but one that names the delimiter.

    Args:
        file: name of the file.
        lines: its lines.
        usual: the delimiter of such files.
        config: what is known of how the file is written.
        text: names that the column with the text may have.

    Raises:
        SourceError: however it is read, most of the first records have the same fault; or the delimiter is a quote.
    """
    sample, is_whole = _sample(lines)
    if sample and isinstance(sample[0], bytes) and (named := separator(sample[0].decode(errors="replace"))):
        config = config.model_copy(update={"delimiter": config.delimiter or named})
        sample = sample[1:]
    if config.delimiter and config.delimiter in (config.quote or QUOTE, config.escape):
        raise SourceError(f"{file}: the delimiter {config.delimiter!r} is the quote or the escape too; name others")
    return _of_sample(file, sample, config, usual, text, is_whole=is_whole), chain(sample, lines)


def _sample(lines: Iterator[bytes | Fault]) -> tuple[list[bytes | Fault], bool]:
    """Take the first lines; return them, and whether these are all."""
    sample: list[bytes | Fault] = []
    size = 0
    for line in lines:
        sample.append(line)
        size += len(line) if isinstance(line, bytes) else 0
        if len(sample) == _SAMPLE_LINES or size >= _SAMPLE_BYTES:
            return sample, False
    return sample, True


def _of_sample(
    file: str,
    sample: Sequence[bytes | Fault],
    config: ReviewFiles,
    usual: str,
    text: set[str],
    *,
    is_whole: bool,
) -> Dialect:
    lines = [line for line in sample if isinstance(line, bytes) and line and not line.isspace()]
    decoded = [line.decode(errors="replace").removesuffix("\r") for line in lines]
    dialect = first_guess(decoded, config, usual, text)
    header = dialect.columns or dialect.split(decoded[0] if decoded else "")
    if config.quote is None and has_no_quotes(decoded, dialect, len(header)):
        dialect = replace(dialect, quote=None)
    others = []
    if config.escape is None and dialect.quote and any(_BACKSLASH + dialect.quote in line for line in decoded):
        others.append(replace(dialect, escape=_BACKSLASH))
    if config.delimiter is None and len(header) == 1:  # of one column, which may hold any character
        others.append(replace(dialect, delimiter=_NOWHERE))

    def judged(dialect: Dialect) -> tuple[int, int]:
        found = [isinstance(record, Fault) for record in _read_sample(lines, dialect, is_whole=is_whole)]
        return -sum(found), len(found) - sum(found)

    if others:
        results = {each: judged(each) for each in (dialect, *others)}
        _, rows = results[dialect]
        dialect = max((each for each in results if results[each][1] >= rows), key=results.__getitem__)
    records = _read_sample(lines, dialect, is_whole=is_whole)
    faults = [record for record in records if isinstance(record, Fault)]
    for reason, count in Counter(fault.reason for fault in faults).most_common(1):
        if count > max(_FEW, len(records) / 2):
            first = next(fault for fault in faults if fault.reason == reason)
            raise SourceError(
                f"most of the first rows of {file} cannot be read, {count:,} of {len(records):,}: {reason}, "
                f"{first.detail}: {shown(first.raw)}; repair the file, or {_OPTIONS}"
            )
    return dialect


def _read_sample(lines: Sequence[bytes], dialect: Dialect, *, is_whole: bool) -> list[tuple[list[str], int] | Fault]:
    """Return the records of the first lines; where the file goes on, as far as they are whole."""
    records = _Records(iter(lines), dialect, _SAMPLE_BYTES)
    if dialect.columns is None:
        records.read_header()
    return list(records if is_whole else takewhile(lambda record: not _is_cut_off(record), records))


def _is_cut_off(record: tuple[list[str], int] | Fault) -> bool:
    return isinstance(record, Fault) and record.detail.endswith("unexpected end of data")
