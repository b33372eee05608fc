"""Files of reviews: CSV, TSV, JSON Lines and Parquet, plain or compressed, here or in an object store.

Training and scoring read files through :func:`read_batches` and judge their text through :func:`usable_text`,
so that a review which one accepts the other accepts too.
"""

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import BinaryIO, Literal, cast

import polars as pl

from sentiment_model.config import FileFormat, ReviewFiles
from sentiment_model.errors import NoReviewsError, SourceError
from sentiment_model.sources.columns import is_marker, mapping_of, text_column
from sentiment_model.sources.delimited import read_delimited
from sentiment_model.sources.jsonl import discover, guess, read_jsonl, read_records
from sentiment_model.sources.lines import Compression, read_chunks, split_lines
from sentiment_model.sources.locations import Location, find
from sentiment_model.sources.parquet import read_parquet
from sentiment_model.sources.records import decode
from sentiment_model.text.reviews import QUARANTINE_SCHEMA, RAW_CHARACTERS, Batch, Fault

Format = Literal["csv", "tsv", "jsonl", "parquet"]

_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst"}
_MIN_RECORD_BYTES = 16 << 20
# Text shrinks to a tenth at best, and a column of one value, which Parquet stores once for each page, weighs little
# beside it; a bomb expands a thousand times with gzip, and more with zstd.
_MOST_EXPANSION = 100
_ALWAYS_UNPACKED_BYTES = 64 << 20


@dataclass(frozen=True)
class SourceFile:
    """One file of reviews, and how to read it."""

    location: Location
    format: Format
    compression: Compression | None

    @property
    def name(self) -> str:
        """Path below the folder that was listed."""
        return self.location.name


def list_files(path: str, file_format: FileFormat) -> list[SourceFile]:
    """Return the review files at a path, glob, folder or object-store URL, sorted by name.

    In a folder or below a URL's prefix, files whose names do not end like the format's are left out.

    Raises:
        NoReviewsError: the path is there, but no review file.
        SourceError: there is no such path, or a file that it names has an ending that tells no format.
    """
    found = find(path)
    files = []
    for location in found.locations:
        ending, compression = endings(location.name)
        by_ending = _FORMATS.get(ending)
        if found.by_name:
            chosen = by_ending if file_format == "auto" else file_format
            if chosen is None:
                raise SourceError(
                    f"cannot tell the format of {location.path} from its name; give a format, or name a file "
                    f"ending in {', '.join(_FORMATS)}, with or without .gz or .zst"
                )
            files.append(SourceFile(location, chosen, compression))
        elif by_ending and file_format in ("auto", by_ending):
            files.append(SourceFile(location, by_ending, compression))
    if not files:
        raise NoReviewsError(
            f"no review files in {path}: no name ends in {', '.join(_FORMATS)} (or those with .gz, .zst)"
        )
    return files


def endings(name: str) -> tuple[str, Compression | None]:
    """Return what a file's name ends in, without that of the compression, and this."""
    path = PurePosixPath(name.lower())
    compression = _COMPRESSIONS.get(path.suffix)
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
    CSV and TSV give strings, Parquet its own types, JSON Lines what a first pass over the file discovers.

    Args:
        file: the file.
        config: how to read it.
        batch_rows: most records of a batch.
        only: columns to read; JSON Lines then give strings in one pass. None reads all.
        row_groups: the first row group of a Parquet file to read, and the one after the last; None reads all.
        first_row: number of the first of these rows.
        guess_types: whether JSON Lines are read without that first pass, as the first records let guess.

    Raises:
        WrongGuessError: the guess was wrong.
        SourceError: the file, or its header, cannot be read at all, or Parquet that is packed unpacks to far too much.
    """
    for batch in _read(file, config, batch_rows, only, row_groups, first_row, guess_types=guess_types):
        if any("\0" in name for name in batch.columns):  # which Arrow cannot write
            raise SourceError(
                f"{file.name} has zero bytes in the name of a column: is it UTF-16 or UTF-32, or no {file.format}?"
            )
        yield batch


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
    if file.format == "parquet":
        with _seekable(file) as content:
            yield from read_parquet(file.name, content, batch_rows, only, row_groups, first_row)
        return
    # JSON can spell a byte in six, and other columns need room too.
    limit = max(_MIN_RECORD_BYTES, 8 * config.max_text_bytes)
    if file.format == "jsonl":
        text = mapping_of(config).columns.text
        schema = None
        if only is None and not guess_types:
            with file.location.open() as content:
                schema = discover(read_records(_lines(file, content, limit), text), file.name)
        with file.location.open() as content:
            records = read_records(_lines(file, content, limit), text)
            if only is None and guess_types:
                schema, records = guess(records, file.name)
            yield from read_jsonl(file.name, records, schema, batch_rows, only)
    else:
        with file.location.open() as content:
            delimiter = "\t" if file.format == "tsv" else ","
            lines = _lines(file, content, limit)
            yield from read_delimited(file.name, lines, delimiter, batch_rows, limit, only)


def _lines(file: SourceFile, content: BinaryIO, limit: int) -> Iterator[bytes | Fault]:
    return split_lines(read_chunks(content, file.compression), limit)


@contextmanager
def _seekable(file: SourceFile) -> Iterator[BinaryIO]:
    with file.location.open() as content:
        if file.compression is None:
            yield content
            return
        with tempfile.TemporaryFile(prefix="sentiment-") as unpacked:
            left = max(_ALWAYS_UNPACKED_BYTES, _MOST_EXPANSION * file.location.size)
            for chunk in read_chunks(content, file.compression):
                if isinstance(chunk, Fault):
                    raise SourceError(f"{file.name}: {chunk.detail}; repair or remove the file")
                left -= len(chunk)
                if left < 0:
                    raise SourceError(
                        f"{file.name} unpacks to more than {_MOST_EXPANSION} times its {file.location.size:,} bytes; "
                        f"if that is right, unpack it: Parquet compresses its own pages and needs no {file.compression}"
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
