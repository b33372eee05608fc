"""JSON Lines: one object a line, decoded with msgspec."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from types import NoneType
from typing import Any

import msgspec
import polars as pl

from sentiment_model.errors import SourceError
from sentiment_model.sources.json_documents import Record, is_document, read_documents, read_line
from sentiment_model.sources.lines import split_lines, taken
from sentiment_model.sources.records import gather, options, shown
from sentiment_model.text.reviews import Batch, Fault

MAX_COLUMNS = 1000
_SOME_RECORDS, _SOME_BYTES = 1000, 4 << 20
_EXACT_IN_FLOAT = 2**53
_INT64 = range(-(2**63), 2**63)
_HEAD_BYTES = 1 << 16
_FEW = 2  # faulty records that say nothing of a file


def read_records(
    file: str, content: Iterator[bytes | Fault], text: str, limit: int
) -> Iterator[tuple[Record, int] | Fault]:
    """Yield each object with its size in bytes, or the fault that it has; blank lines are no records.

    Args:
        file: name of the file.
        content: JSON in UTF-8: an object a line or, as the start shows, a document of them.
        text: field with the review's text; where it holds an object or a list there is no text to read.
        limit: bytes of the longest line or object.

    Raises:
        SourceError: most of the first records are no JSON.
    """
    head, rest = taken(content, _HEAD_BYTES)
    content = chain([head], rest)
    records = read_documents(content, limit) if is_document(head) else _read_lines(split_lines(content, limit))
    some = _some(records)
    broken = [item for item in some if isinstance(item, Fault) and item.reason == "broken_json"]
    if len(broken) > max(_FEW, len(some) / 2):
        raise SourceError(
            f"most of the first records of {file} cannot be read, {len(broken):,} of {len(some):,}: "
            f"{broken[0].detail}: {shown(broken[0].raw)}; is it JSON? {options('format')} names another format"
        )
    path = text.split(".")
    for item in chain(some, records):
        if not isinstance(item, Fault) and isinstance(_inside(item[0], text, path), dict | list):
            detail = f"{text} is an object or a list; name a field inside it"
            yield Fault("nested_text", detail, msgspec.json.encode(item[0]))
        else:
            yield item


def _read_lines(lines: Iterator[bytes | Fault]) -> Iterator[tuple[Record, int] | Fault]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for line in lines:
        if isinstance(line, Fault):
            yield line
        elif line and not line.isspace():
            try:
                yield decode(line), len(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                found = read_line(line)
                if isinstance(found, Fault):
                    yield found
                else:
                    yield from ((record, len(line) // len(found)) for record in found)


def _inside(record: Record, name: str, path: list[str]) -> Any:
    if name in record:
        return record[name]
    value: Any = record
    for part in path:
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def discover(records: Iterable[tuple[Record, int] | Fault], file: str) -> dict[str, pl.DataType]:
    """Return the type of every field, the narrowest of Int64, Float64, Boolean and String that loses nothing.

    A field that is nested, or of several types, becomes a string: strings stay as they are, else its JSON.

    Raises:
        SourceError: there are more than :data:`MAX_COLUMNS` different fields.
    """
    kinds: dict[str, set[type]] = {}
    _note(kinds, records, file)
    return _types(kinds)


def guess(
    records: Iterator[tuple[Record, int] | Fault], file: str
) -> tuple[dict[str, pl.DataType], Iterator[tuple[Record, int] | Fault]]:
    """Return what :func:`discover` finds in the first records, and all records as far as they are of these types.

    Raises:
        SourceError: as above; from the records too.
        WrongGuessError: from the records, before one that has another field or needs another type.
    """
    kinds: dict[str, set[type]] = {}
    first = _some(records)
    _note(kinds, first, file)
    types = _types(kinds)

    def checked() -> Iterator[tuple[Record, int] | Fault]:
        some = first
        while some:
            yield from some
            some = _some(records)
            _note(kinds, some, file)
            if _types(kinds) != types:
                raise WrongGuessError

    return types, checked()


class WrongGuessError(Exception):
    """The types of the first records are not those of the whole file."""


def _some(records: Iterator[tuple[Record, int] | Fault]) -> list[tuple[Record, int] | Fault]:
    """Take the next records, in bounded memory; none at the end."""
    some: list[tuple[Record, int] | Fault] = []
    size = 0
    for item in records:
        some.append(item)
        size += len(item.raw) if isinstance(item, Fault) else item[1]
        if len(some) == _SOME_RECORDS or size >= _SOME_BYTES:
            break
    return some


def _note(kinds: dict[str, set[type]], records: Iterable[tuple[Record, int] | Fault], file: str) -> None:
    """Add the types that fields have in some records to those found so far."""
    for item in records:
        if isinstance(item, Fault):
            continue
        for name, value in item[0].items():
            kind = type(value)
            if kind is int and not -_EXACT_IN_FLOAT <= value <= _EXACT_IN_FLOAT:
                kind = _Long if value in _INT64 else _Other
            try:
                kinds[name].add(kind)
            except KeyError:
                kinds[name] = {kind}
        if len(kinds) > MAX_COLUMNS:
            raise SourceError(f"{file} has more than {MAX_COLUMNS} different fields; are keys used as data?")


def _types(kinds: Mapping[str, set[type]]) -> dict[str, pl.DataType]:
    return {name: _TYPES.get(frozenset(found - {NoneType}), pl.String()) for name, found in kinds.items()}


class _Long(int):
    """Stands for integers that a float cannot hold."""


class _Other(int):
    """Stands for integers that no column of numbers can hold."""


_TYPES: Mapping[frozenset[type], pl.DataType] = {
    frozenset({bool}): pl.Boolean(),
    frozenset({int}): pl.Int64(),
    frozenset({_Long}): pl.Int64(),
    frozenset({int, _Long}): pl.Int64(),
    frozenset({float}): pl.Float64(),
    frozenset({int, float}): pl.Float64(),
}


def read_jsonl(
    file: str,
    records: Iterator[tuple[Record, int] | Fault],
    schema: Mapping[str, pl.DataType] | None,
    batch_rows: int,
    only: Collection[str] | None,
) -> Iterator[Batch]:
    """Yield batches of a JSON Lines file.

    Args:
        file: name of the file.
        records: its records.
        schema: types of all fields; None reads the fields in `only` as strings.
        batch_rows: most records of a batch.
        only: fields to read where there is no schema; those that no record had so far are left out.
    """
    seen: dict[str, None] = dict.fromkeys(schema or ())

    def build(rows: list[Record]) -> tuple[pl.DataFrame, tuple[str, ...]]:
        if schema is None:
            for row in rows:
                if len(seen) < MAX_COLUMNS:
                    seen.update(dict.fromkeys(row))
        types = schema or {name: pl.String() for name in only or () if name in seen}
        series = [_column(name, rows, dtype) for name, dtype in types.items()]
        return pl.DataFrame(height=len(rows)).with_columns(series), tuple(seen)

    yield from gather(file, records, build, batch_rows)


def _column(name: str, rows: list[Record], dtype: pl.DataType) -> pl.Series:
    values = [row.get(name) for row in rows]
    if dtype == pl.String():
        values = [
            value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
            for value in values
        ]
    elif dtype == pl.Float64():
        values = [None if value is None else float(value) for value in values]
    return pl.Series(name, values, dtype)
