"""Files of reviews: delimited text, JSON and Parquet, plain or compressed, here or in an object store.

Training and scoring read files through :func:`read_batches` and judge their text through :func:`usable_text`,
so that a review which one accepts the other accepts too.
"""

import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import PurePosixPath
from typing import BinaryIO, Literal, cast
from urllib.parse import unquote

import polars as pl

from sentiment_model.config import ReviewFiles
from sentiment_model.errors import SourceError
from sentiment_model.sources.columns import is_marker, mapping_of, text_column, top_level
from sentiment_model.sources.compression import COMPRESSIONS, Compression, compression_of, read_chunks, zip_member
from sentiment_model.sources.containers import HEAD_BYTES, foreign, is_parquet
from sentiment_model.sources.delimited import find_dialect, read_delimited
from sentiment_model.sources.escapes import SAMPLE_ROWS, unescaped
from sentiment_model.sources.json_documents import is_document
from sentiment_model.sources.jsonl import discover, guess, read_jsonl, read_records
from sentiment_model.sources.lines import as_utf8, split_lines, taken
from sentiment_model.sources.locations import Location
from sentiment_model.sources.parquet import read_parquet
from sentiment_model.sources.records import decode, shown
from sentiment_model.text.reviews import QUARANTINE_SCHEMA, RAW_CHARACTERS, Batch, Fault

Format = Literal["csv", "tsv", "jsonl", "parquet"]

FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jl": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
"""By the ending of a file's name."""

_JSON = re.compile(rb"""(?:\xef\xbb\xbf)?\s*(?:\[\s*)?\{\s*(?:"[^"\n]*"|'[^'\n]*')\s*:""")  # no header begins so
_MIN_RECORD_BYTES = 16 << 20
# Text shrinks to a tenth at best, and a column of one value, which Parquet stores once for each page, weighs little
# beside it; a bomb expands a thousand times with gzip, and more with zstd.
_MOST_EXPANSION = 100
_ALWAYS_UNPACKED_BYTES = 64 << 20


@dataclass(frozen=True)
class SourceFile:
    """One file of reviews, and how its name says that it is to be read; its first bytes may say otherwise.

    Attributes:
        location: where it is.
        format: its format; None where neither its name nor the configuration says.
        compression: how it is compressed.
    """

    location: Location
    format: Format | None
    compression: Compression | None

    @property
    def name(self) -> str:
        """Path below the folder that was listed."""
        return self.location.name


def endings(name: str) -> tuple[str, Compression | None]:
    """Return what a file's name ends in, without that of the compression, and this."""
    path = PurePosixPath(name.lower())
    compression = COMPRESSIONS.get(path.suffix)
    return (path.with_suffix("").suffix if compression else path.suffix), compression


def read_batches(
    file: SourceFile,
    config: ReviewFiles,
    batch_rows: int,
    only: Collection[str] | None = None,
    *,
    row_groups: tuple[int, int] | None = None,
    first_row: int = 1,
    guess_types: bool = False,
) -> Iterator[Batch]:
    """Yield the records of one file, in order, in bounded memory.

    A batch holds at most `batch_rows` records, fewer where they are long. Every record of the file is either
    a row of one batch's frame or a row of its rejects. All frames of a file have the same columns and types:
    delimited text gives strings, Parquet its own types, JSON what a first pass over the file discovers.

    Args:
        file: the file.
        config: how to read it.
        batch_rows: most records of a batch.
        only: columns to read; JSON then gives strings in one pass. None reads all.
        row_groups: the first row group of a Parquet file to read, and the one after the last; None reads all.
        first_row: number of the first of these rows.
        guess_types: whether JSON is read without that first pass, as the first records let guess.

    Raises:
        WrongGuessError: the guess was wrong.
        SourceError: the file, or its header, cannot be read at all, or Parquet that is packed unpacks to far too much.
    """
    partitions = _partitions(file.name)
    config = _with_preset(config)
    read = _read(file, config, batch_rows, only, row_groups, first_row, guess_types=guess_types)
    text = mapping_of(config).columns.text
    start = _read(file, config, SAMPLE_ROWS, {text}, None, 1, guess_types=False) if row_groups else None
    try:
        for read_batch in unescaped(read, text, start):
            batch = _with_partitions(read_batch, partitions, only) if partitions else read_batch
            if any("\0" in name for name in batch.columns):  # which Arrow cannot write
                raise SourceError(
                    f"{file.name} has zero bytes in the name of a column: is it UTF-16 or UTF-32, or no {file.format}?"
                )
            yield batch
    except RecursionError as error:
        raise SourceError(f"{file.name} nests values too deeply to be read") from error
    except pl.exceptions.PanicException as error:
        raise SourceError(f"{file.name} holds what polars cannot read: {error}") from error


def written_as(file: SourceFile, config: ReviewFiles) -> str:
    """Return in words how a file is packed and written, as far as its start tells.

    Raises:
        SourceError: it cannot be read, or is nothing that reviews are read from.
    """
    config = _with_preset(config)
    text = top_level(mapping_of(config).columns.text)
    with _opened(file, config) as content:
        if content.format == "parquet":
            kind = "Parquet"
        elif content.format == "jsonl":
            head, _ = taken(content.utf8(), HEAD_BYTES)
            kind = "a JSON document" if is_document(head) else "JSON Lines"
        else:
            usual = "\t" if content.format == "tsv" else ","
            lines = split_lines(content.utf8(), _MIN_RECORD_BYTES)
            kind = f"text, {find_dialect(file.name, lines, usual, config, text)[0]}"
        packed = f", packed with {content.compression}" if content.compression else ""
        return f"{kind}{packed}{f', {content.encoding}' if content.encoding else ''}"


def _with_preset(config: ReviewFiles) -> ReviewFiles:
    """Return the configuration with what the preset knows of how files are written."""
    known = mapping_of(config)
    columns, encoding = config.column_names or known.column_names, config.encoding or known.encoding
    return config.model_copy(update={"column_names": columns, "encoding": encoding})


def _partitions(name: str) -> dict[str, str | None]:
    """Return the columns that folders named `column=value` stand for, as Hive and Spark write them."""
    pairs = [part.partition("=") for part in PurePosixPath(name).parent.parts]
    return {
        unquote(column): None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
        for column, sign, value in pairs
        if column and sign
    }


def _with_partitions(batch: Batch, partitions: dict[str, str | None], only: Collection[str] | None) -> Batch:
    there = {name.casefold() for name in batch.columns}
    new = {name: value for name, value in partitions.items() if name.casefold() not in there}
    columns = [pl.lit(value, pl.String()).alias(name) for name, value in new.items() if only is None or name in only]
    return replace(batch, frame=batch.frame.with_columns(columns), columns=(*batch.columns, *new))


def _read(
    file: SourceFile,
    config: ReviewFiles,
    batch_rows: int,
    only: Collection[str] | None,
    row_groups: tuple[int, int] | None,
    first_row: int,
    *,
    guess_types: bool,
) -> Iterator[Batch]:
    # JSON can spell a byte in six, and other columns need room too.
    limit = max(_MIN_RECORD_BYTES, 8 * config.max_text_bytes)
    text = mapping_of(config).columns.text
    with _opened(file, config) as content:
        if content.format == "parquet":
            with _seekable(file, content) as seekable:
                yield from read_parquet(file.name, seekable, batch_rows, only, row_groups, first_row)
            return
        if content.format != "jsonl":
            lines = split_lines(content.utf8(), limit)
            usual = "\t" if content.format == "tsv" else ","
            yield from read_delimited(file.name, lines, usual, config, top_level(text), batch_rows, limit, only)
            return
        records = read_records(file.name, content.utf8(), text, limit)
        if only is not None or guess_types:
            schema, records = guess(records, file.name) if only is None else (None, records)
            yield from read_jsonl(file.name, records, schema, batch_rows, only)
            return
        schema = discover(records, file.name)
    with _opened(file, config) as content:
        records = read_records(file.name, content.utf8(), text, limit)
        yield from read_jsonl(file.name, records, schema, batch_rows, only)


@dataclass(frozen=True)
class _Content:
    """An open file.

    Attributes:
        raw: the file itself.
        chunks: its content, unpacked, from the start.
        compression: how it is compressed.
        format: what it holds.
        encoding: of its text; None for UTF-8 or UTF-16.
    """

    raw: BinaryIO
    chunks: Iterator[bytes | Fault]
    compression: Compression | None
    format: Format
    encoding: str | None

    def utf8(self) -> Iterator[bytes | Fault]:
        """Yield its text as UTF-8."""
        return as_utf8(self.chunks, self.encoding)


@contextmanager
def _opened(file: SourceFile, config: ReviewFiles) -> Iterator[_Content]:
    """Open a file as its first bytes say that it is packed and written.

    Raises:
        SourceError: it is nothing that reviews are read from.
    """
    with file.location.open() as raw:
        head = raw.read(HEAD_BYTES)
        raw.seek(0)
        compression = compression_of(head)
        name = file.name
        if compression == "zip":
            try:
                name = zip_member(raw).filename
            except SourceError as error:
                raise SourceError(f"{file.name} {error}") from error
            raw.seek(0)
        elif file.compression and not compression and head and not _is_text(head):
            raise SourceError(f"{file.name} is not {file.compression}, as its name says: it begins with {shown(head)}")
        start, rest = taken(read_chunks(raw, compression), HEAD_BYTES)
        if compression and (again := compression_of(start)):
            raise SourceError(f"{file.name} is packed twice, with {again} and {compression}; unpack it once")
        if what := foreign(start):
            raise SourceError(f"{file.name} {what}")
        chunks = chain([start], rest)
        yield _Content(raw, chunks, compression, _format_of(start, file, name, config), config.encoding)


def _is_text(head: bytes) -> bool:
    return b"\0" not in head and b"\x1b" not in head


def _format_of(start: bytes, file: SourceFile, name: str, config: ReviewFiles) -> Format:
    """Return the format by the first bytes; where these leave it open, by what was asked for or by the name."""
    if is_parquet(start):
        return "parquet"
    by_name = file.format or FORMATS.get(endings(name)[0])
    if config.format == "auto" and not config.column_names and by_name in ("csv", "tsv") and _JSON.match(start):
        return "jsonl"
    if by_name:
        return by_name
    return "jsonl" if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")) else "csv"


@contextmanager
def _seekable(file: SourceFile, content: _Content) -> Iterator[BinaryIO]:
    if content.compression is None:
        yield content.raw
        return
    with tempfile.TemporaryFile(prefix="sentiment-") as unpacked:
        left = max(_ALWAYS_UNPACKED_BYTES, _MOST_EXPANSION * file.location.size)
        for chunk in content.chunks:
            if isinstance(chunk, Fault):
                raise SourceError(f"{file.name}: {chunk.detail}; repair or remove the file")
            left -= len(chunk)
            if left < 0:
                raise SourceError(
                    f"{file.name} unpacks to more than {_MOST_EXPANSION} times its {file.location.size:,} bytes; if "
                    f"that is right, unpack it: Parquet compresses its own pages and needs no {content.compression}"
                )
            unpacked.write(chunk)
        unpacked.seek(0)
        yield cast("BinaryIO", unpacked)


def usable_text(batch: Batch, config: ReviewFiles) -> tuple[Batch, pl.Series]:
    """Move the records whose text is missing, empty, too long or undecodable to the rejects.

    Returns:
        the batch without them, and the text of each row that is left.

    Raises:
        SourceError: the file has no such column, or it holds no text.
    """
    if batch.origin.is_empty():
        return batch, pl.Series("text", [], pl.String())
    found = text_column(batch, mapping_of(config).columns.text)
    values = batch.frame.select(found).to_series()
    text = decode(values) if values.dtype == pl.Binary() else values.cast(pl.String(), strict=False)
    judged = pl.DataFrame(
        {
            "text": text,
            "missing": values.is_null(),
            "marker": is_marker(text, config.missing_values),
            "size": text.str.len_bytes(),
        }
    )
    marker = pl.format("{} is one of missing_values", pl.col("text").str.strip_chars())
    too_long = pl.format("{} bytes, above max_text_bytes {}", "size", config.max_text_bytes)
    faults = judged.select(
        fault=pl.when("missing")
        .then(fault("missing_text", pl.lit("there is no text")))
        .when("marker")
        .then(fault("missing_text", marker))
        .when(pl.col("text").is_null())
        .then(fault("undecodable", pl.lit("not UTF-8")))
        .when(pl.col("text").str.strip_chars() == "")
        .then(fault("empty_text", pl.lit("nothing but white space")))
        .when(pl.col("size") > config.max_text_bytes)
        .then(fault("text_too_long", too_long))
    ).to_series()
    return reject(batch, faults, judged["text"]), judged["text"].filter(faults.is_null())


def fault(reason: str, detail: pl.Expr) -> pl.Expr:
    """Return a fault for :func:`reject` as a struct."""
    return pl.struct(pl.lit(reason).alias("reason"), detail.alias("detail"))


def reject(batch: Batch, faults: pl.Series, raw: pl.Series) -> Batch:
    """Move the rows that have a fault (a struct of reason and detail, or null) from the frame to the rejects.

    Args:
        batch: the batch.
        faults: one for each row.
        raw: what to show of each row.
    """
    if faults.null_count() == len(faults):
        return batch
    good = faults.is_null()
    excerpt = raw.str.head(RAW_CHARACTERS).fill_null("")
    rejects = (
        batch.origin.with_columns(fault=faults, raw=excerpt)
        .filter(~good)
        .unnest("fault")
        .select(QUARANTINE_SCHEMA.names())
    )
    return replace(
        batch,
        frame=batch.frame.filter(good),
        origin=batch.origin.filter(good),
        rejects=pl.concat([batch.rejects, rejects.cast(QUARANTINE_SCHEMA)]),
    )
