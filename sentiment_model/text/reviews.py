"""The two tables that every source of reviews is turned into, and the batches on the way there."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

RAW_CHARACTERS = 500

REVIEW_SCHEMA = pl.Schema(
    {
        "review_id": pl.String(),
        "text": pl.String(),
        "label": pl.Int8(),  # number of the class; null unlabelled
        "rating": pl.Float64(),  # in the source's own scale
        "source": pl.String(),
        "group": pl.String(),  # what the review is about, or who wrote it; null where nobody knows
        "written_at": pl.Datetime("us", "UTC"),
    }
)

QUARANTINE_SCHEMA = pl.Schema(
    {
        "file": pl.String(),  # path below the folder that was read; for an archive, the member
        "row": pl.Int64(),  # 1-based number of the record, the header not counted
        "reason": pl.String(),  # short code, stable between versions
        "detail": pl.String(),  # the reason in words
        "raw": pl.String(),  # start of what was found, RAW_CHARACTERS at most
    }
)

ORIGIN_SCHEMA = pl.Schema({"file": pl.String(), "row": pl.Int64(), "source": pl.String()})


class Fault(NamedTuple):
    """Why a record cannot be used."""

    reason: str
    detail: str
    raw: bytes | str = b""


@dataclass(frozen=True)
class Batch:
    """Consecutive records of one source.

    Attributes:
        frame: the records that could be parsed, with the source's own columns and types.
        origin: where each row of `frame` comes from, with :data:`ORIGIN_SCHEMA`.
        rejects: the records that could not be used, with :data:`QUARANTINE_SCHEMA`.
        columns: names of all columns that the file has, read or not, as far as they are known.
    """

    frame: pl.DataFrame
    origin: pl.DataFrame
    rejects: pl.DataFrame
    columns: tuple[str, ...]


def quarantined(faults: Iterable[tuple[str, int, Fault]]) -> pl.DataFrame:
    """Return (file, row, fault) triples as a table with :data:`QUARANTINE_SCHEMA`."""
    return pl.DataFrame(
        [(file, row, fault.reason, fault.detail, _excerpt(fault.raw)) for file, row, fault in faults],
        schema=QUARANTINE_SCHEMA,
        orient="row",
    )


def _excerpt(raw: bytes | str) -> str:
    if isinstance(raw, bytes):
        raw = raw[: 4 * RAW_CHARACTERS].decode("utf-8", "backslashreplace")
    return raw[:RAW_CHARACTERS]
