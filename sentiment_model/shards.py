"""What there is to score, cut into shards: bounded numbers of rows that are scored, committed and retried alone.

A shard is the same however often it is planned: large Parquet files are cut at row groups, large text files at rows
(:mod:`sentiment_model.split` copies them to Parquet first, since nobody can start to read in the middle of them), and
small files are put together in the order of their names.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence

import polars as pl
from pydantic import BaseModel, ConfigDict

from sentiment_model.config import ReviewFiles
from sentiment_model.errors import SourceError
from sentiment_model.reviews import ORIGIN_SCHEMA, Batch
from sentiment_model.sources.files import SourceFile, read_batches
from sentiment_model.sources.parquet import row_group_rows
from sentiment_model.split import read_part, read_rejects, split_rows
from sentiment_model.store import Dataset

_MAX_FILES = 1000


class Piece(BaseModel):
    """Consecutive rows of a file.

    Attributes:
        file: the file's key.
        row_groups: first row group of a Parquet file and the one after the last; None for a whole file.
        first_row: number of the first row.
        part: which part of a text file that was split.
        rejects: the rows that could not even be split off.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    row_groups: tuple[int, int] | None = None
    first_row: int = 1
    part: int | None = None
    rejects: bool = False


class Shard(BaseModel):
    """What is scored in one go."""

    model_config = ConfigDict(frozen=True)

    name: str
    pieces: tuple[Piece, ...]

    @property
    def id(self) -> str:
        """Hash of the content."""
        canonical = json.dumps([piece.model_dump() for piece in self.pieces], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def file_key(file: SourceFile) -> str:
    """Return a hash of a file's name and content, which names its rows too.

    Raises:
        SourceError: the file cannot be read.
    """
    return hashlib.sha256(f"{file.name}\n{file.location.fingerprint()}".encode()).hexdigest()[:16]


def cut(
    files: Mapping[str, SourceFile], splits: Mapping[str, Dataset], shard_rows: int, alone: Collection[str] = ()
) -> list[Shard]:
    """Cut files into shards.

    Args:
        files: the files by key.
        splits: the splits of large text files, by key.
        shard_rows: about how many rows a shard has at most.
        alone: keys of small files that are not put together with others.
    """
    shards: list[Shard] = []
    small: list[tuple[str, Piece]] = []
    room = float(shard_rows)

    def close() -> None:
        nonlocal room
        if small:
            name = small[0][0] if len(small) == 1 else f"{small[0][0]} and {len(small) - 1} more"
            shards.append(Shard(name=name, pieces=tuple(piece for _, piece in small)))
            small.clear()
        room = float(shard_rows)

    for key, file in sorted(files.items(), key=lambda item: item[1].name):
        if key in splits:
            shards += _split_shards(key, file, splits[key])
            continue
        groups = _row_groups(file)
        rows = float(sum(groups)) if groups is not None else split_rows(file)
        if groups is not None and rows > shard_rows:
            shards += _parquet_shards(key, file, groups, shard_rows)
            continue
        if rows > room or len(small) >= _MAX_FILES or key in alone:
            close()
        small.append((file.name, Piece(file=key)))
        room -= rows
        if key in alone:
            close()
    close()
    return shards


def _split_shards(key: str, file: SourceFile, split: Dataset) -> Iterator[Shard]:
    parts = len(split.files("part"))
    for part in range(parts):
        yield Shard(name=f"{file.name} part {part + 1} of {parts}", pieces=(Piece(file=key, part=part),))
    yield Shard(name=f"{file.name} unreadable rows", pieces=(Piece(file=key, rejects=True),))


def _parquet_shards(key: str, file: SourceFile, groups: Sequence[int], shard_rows: int) -> Iterator[Shard]:
    start, row = 0, 1
    while start < len(groups):
        end, rows = start + 1, groups[start]
        while end < len(groups) and rows + groups[end] <= shard_rows:
            rows += groups[end]
            end += 1
        piece = Piece(file=key, row_groups=(start, end), first_row=row)
        yield Shard(name=f"{file.name} rows {row:,} to {row + rows - 1:,}", pieces=(piece,))
        start, row = end, row + rows


def _row_groups(file: SourceFile) -> list[int] | None:
    """Return the rows of each row group of an uncompressed Parquet file, or None where they cannot be read."""
    if file.format != "parquet" or file.compression:
        return None
    try:
        with file.location.open() as content:
            return row_group_rows(file.name, content)
    except SourceError:
        return None  # the shard of a damaged file fails, and says why; that of another must not


def read_piece(
    piece: Piece, file: SourceFile, split: Dataset | None, config: ReviewFiles, batch_rows: int
) -> Iterator[Batch]:
    """Yield the records of a piece in their order, as :func:`read_batches` does.

    Args:
        piece: which rows.
        file: the file that they are of.
        split: the split of the file, where it has one.
        config: how to read it.
        batch_rows: most records of a batch.

    Raises:
        SourceError: the file cannot be read, or changed meanwhile.
    """
    if piece.part is not None and split is not None:
        yield from read_part(split, piece.part, file, batch_rows)
    elif piece.rejects and split is not None:
        for rejects in read_rejects(split, batch_rows):
            yield Batch(pl.DataFrame(), ORIGIN_SCHEMA.to_frame(), rejects, ())
    else:
        yield from read_batches(file, config, batch_rows, row_groups=piece.row_groups, first_row=piece.first_row)
        file.location.check_unchanged()
