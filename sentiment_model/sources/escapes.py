r"""Escapes that a writer put into texts and no reader took out: ``\n`` for a line break, ``\"`` for a quote."""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import polars as pl

from sentiment_model.text.reviews import Batch

SAMPLE_ROWS = 1000
_SAMPLE_BYTES = 32 << 20
_SAMPLE_TEXT_BYTES = 4 << 20
_MEANING = {"n": "\n", "r": "\r", "t": "\t"}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_NO_ESCAPE = r"\\(?:[^nrt\"'/\\]|$)"
_FEW = 2  # texts; fewer say nothing of a file
_SHARE = 0.01  # of the texts; where line breaks and quotes are escaped, many more have one


def unescaped(batches: Iterator[Batch], text: str, start: Iterator[Batch] | None = None) -> Iterator[Batch]:
    r"""Yield the batches of a file with what its texts escape put right, where they do throughout.

    They do where, in the first :data:`SAMPLE_ROWS` rows, some texts have backslashes, one in a hundred or more,
    all of these are before what is escaped, and no text has a line break: then each ``\n`` is one. A text that only
    names ``C:\new`` is none of several, and is left as it is.

    Args:
        batches: of one file.
        text: the column with the text.
        start: the batches of the file from its start, where `batches` begin elsewhere or are a part.
    """
    sample = _first(batches if start is None else start)
    are_escaped = _are_escaped([batch.frame[text] for batch in sample if text in batch.frame.columns])
    while sample:
        batch = sample.popleft()
        if start is None:
            yield _put_right(batch, text) if are_escaped else batch
    for batch in batches:
        yield _put_right(batch, text) if are_escaped else batch


def _first(batches: Iterator[Batch]) -> deque[Batch]:
    sample: deque[Batch] = deque()
    rows = size = 0
    for batch in batches:
        sample.append(batch)
        rows += len(batch.frame)
        size += int(batch.frame.estimated_size())
        if rows >= SAMPLE_ROWS or size >= _SAMPLE_BYTES:
            break
    return sample


def _are_escaped(texts: list[pl.Series]) -> bool:
    columns = [column for column in texts if column.dtype == pl.String() and len(column)]
    if not columns:
        return False
    first = pl.concat(columns).alias("text").head(SAMPLE_ROWS)  # exactly, however large the batches are
    first = first.filter(first.str.len_bytes().fill_null(0).cum_sum() <= _SAMPLE_TEXT_BYTES)
    found = first.filter(first.str.contains("\\", literal=True))
    if len(found) < max(_FEW, _SHARE * len(first)) or found.str.contains(_NO_ESCAPE).any():
        return False
    return not first.str.contains("\n", literal=True).any()


def _put_right(batch: Batch, text: str) -> Batch:
    if text not in batch.frame.columns or batch.frame.schema[text] != pl.String():
        return batch
    values = [
        value if value is None or "\\" not in value else _ESCAPED.sub(_meaning, value) for value in batch.frame[text]
    ]
    return replace(batch, frame=batch.frame.with_columns(pl.Series(text, values, pl.String())))


def _meaning(found: re.Match[str]) -> str:
    return _MEANING.get(found[1], found[1])
