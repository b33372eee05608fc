r"""Escapes that a writer put into texts and no reader took out: ``\n`` for a line break, ``\"`` for a quote."""

import re
from collections.abc import Iterator
from dataclasses import replace

import polars as pl

from sentiment_model.text.reviews import Batch

_SAMPLE_ROWS = 1000
_SAMPLE_BYTES = 32 << 20
_MEANING = {"n": "\n", "r": "\r", "t": "\t"}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_NO_ESCAPE = r"\\(?:[^nrt\"'/\\]|$)"
_FEW = 2  # texts that say nothing of a file


def unescaped(batches: Iterator[Batch], text: str) -> Iterator[Batch]:
    r"""Yield the batches of a file with what its texts escape put right, where they do throughout.

    They do where, in the first :data:`_SAMPLE_ROWS` rows or more, some texts have backslashes, all of these are before
    what is escaped, and no text has a line break: then each ``\n`` is one. A text that only names ``C:\new`` is none of
    several, and is left as it is.

    Args:
        batches: of one file.
        text: the column with the text.
    """
    sample: list[Batch] = []
    rows = size = 0
    for batch in batches:
        sample.append(batch)
        rows += len(batch.frame)
        size += int(batch.frame.estimated_size())
        if rows >= _SAMPLE_ROWS or size >= _SAMPLE_BYTES:
            break
    are_escaped = _are_escaped([batch.frame[text] for batch in sample if text in batch.frame.columns])
    while sample:
        batch = sample.pop(0)
        yield _put_right(batch, text) if are_escaped else batch
    for batch in batches:
        yield _put_right(batch, text) if are_escaped else batch


def _are_escaped(texts: list[pl.Series]) -> bool:
    columns = [column for column in texts if column.dtype == pl.String() and len(column)]
    if not columns:
        return False
    found = pl.concat(columns).to_frame("text").filter(pl.col("text").str.contains("\\", literal=True))
    if len(found) < _FEW or found["text"].str.contains(_NO_ESCAPE).any():
        return False
    return not any(column.str.contains("\n", literal=True).any() for column in columns)


def _put_right(batch: Batch, text: str) -> Batch:
    if text not in batch.frame.columns or batch.frame.schema[text] != pl.String():
        return batch
    values = [
        value if value is None or "\\" not in value else _ESCAPED.sub(_meaning, value) for value in batch.frame[text]
    ]
    return replace(batch, frame=batch.frame.with_columns(pl.Series(text, values, pl.String())))


def _meaning(found: re.Match[str]) -> str:
    return _MEANING.get(found[1], found[1])
