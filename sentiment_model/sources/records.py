"""Batches from a stream of parsed records."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TypeVar

import polars as pl

from sentiment_model.sources.compression import COMPRESSIONS
from sentiment_model.text.reviews import ORIGIN_SCHEMA, Batch, Fault, quarantined

BATCH_BYTES = 32 << 20
"""A batch ends early at about this many bytes of input, so that long reviews do not fill the memory."""

_SHOWN = 80

R = TypeVar("R")


def options(*names: str) -> str:
    """Return in words the options of the command line that say how files are read, for scoring and for training."""
    said = [f"--files.{name}" for name in names]
    more = f"--ingest.{names[0]}" if len(names) == 1 else "with ingest in place of files"
    return f"{', '.join(said[:-1])}{' and ' if said[1:] else ''}{said[-1]} (to train, {more})"


NOT_UTF8 = f"not UTF-8; {options('encoding')} names another encoding"
"""What is said of undecodable text."""


def gather(
    file: str,
    items: Iterable[tuple[R, int] | Fault],
    build: Callable[[list[R]], tuple[pl.DataFrame, tuple[str, ...]]],
    batch_rows: int,
) -> Iterator[Batch]:
    """Number the records of a file and yield them in batches.

    Args:
        file: name of the file.
        items: each record with its size in bytes, or the fault that it has.
        build: makes a table of the records, and names all columns of the file.
        batch_rows: most records of a batch, faults included.
    """
    records: list[R] = []
    rows: list[int] = []
    faults: list[tuple[str, int, Fault]] = []
    size = 0

    def batch() -> Batch:
        frame, columns = build(records)
        return Batch(frame, origin(file, rows), quarantined(faults), columns)

    for row, item in enumerate(items, start=1):
        if isinstance(item, Fault):
            faults.append((file, row, item))
            size += len(item.raw)
        else:
            records.append(item[0])
            rows.append(row)
            size += item[1]
        if len(rows) + len(faults) >= batch_rows or size >= BATCH_BYTES:
            yield batch()
            records, rows, faults, size = [], [], [], 0
    if rows or faults:
        yield batch()


def read_ahead(batches: Iterator[R], ahead: int = 1) -> Iterator[R]:
    """Yield the same, and read the next ones while one is in use, so that who uses them does not wait for files.

    Args:
        batches: what to read.
        ahead: how many of them are read at most before they are asked for.
    """
    with ThreadPoolExecutor(1) as reader:
        coming = deque(reader.submit(next, batches, None) for _ in range(ahead))
        while (batch := coming.popleft().result()) is not None:
            coming.append(reader.submit(next, batches, None))
            yield batch


def origin(file: str, rows: pl.Series | list[int]) -> pl.DataFrame:
    """Return the origin of these rows of a file; its source is the base name without its endings."""
    numbers = pl.DataFrame({"row": rows}, schema={"row": ORIGIN_SCHEMA["row"]})
    return numbers.select(pl.lit(file).alias("file"), "row", pl.lit(stem(file)).alias("source"))


def stem(file: str) -> str:
    """Return a file's base name without the endings of format and compression."""
    path = PurePosixPath(file)
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path.stem


def shown(raw: bytes | str) -> str:
    """Return the start of what was found, for a message."""
    text = raw[:_SHOWN].decode(errors="backslashreplace") if isinstance(raw, bytes) else raw
    return repr(text[:_SHOWN])


def decode(values: pl.Series) -> pl.Series:
    """Return bytes as strings; what is not UTF-8 becomes null."""
    return pl.Series(values.name, [_decode(value) for value in values], pl.String())


def _decode(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def distinct(names: Iterable[str]) -> list[str]:
    """Return the column names made distinct: `a, a` becomes `a, a_2`; an empty one gets its number."""
    result: list[str] = []
    taken = set(names := list(names))
    for position, name in enumerate(names, start=1):
        unique = name or f"column_{position}"
        number = 2
        while unique in result or (unique != name and unique in taken):
            unique = f"{name or f'column_{position}'}_{number}"
            number += 1
        result.append(unique)
    return result
