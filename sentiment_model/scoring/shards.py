"""What there is to score, cut into shards: bounded numbers of rows that are scored, committed and retried alone.

A shard is the same however often it is planned: large Parquet files are cut at row groups, large text files at rows
(:mod:`sentiment_model.sources.split` copies them to Parquet first, since nobody can start to read in the middle of
them), and small files are put together in the order of their names.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import polars as pl
from pydantic import BaseModel, ConfigDict

from sentiment_model.config import ReviewFiles
from sentiment_model.errors import FileAccessError, SourceError
from sentiment_model.sources.files import SourceFile, read_batches
from sentiment_model.sources.locations import Location
from sentiment_model.sources.parquet import row_group_rows
from sentiment_model.sources.split import read_part, read_rejects, split_rows
from sentiment_model.store.datasets import Dataset
from sentiment_model.text.reviews import ORIGIN_SCHEMA, Batch

_MAX_FILES = 1000


class Piece(BaseModel):
    """Consecutive rows of a file.

    Attributes:
        file: the file's key.
        name: the file's name.
        row_groups: first row group of a Parquet file and the one after the last; None for a whole file.
        first_row: number of the first row.
        part: which part of a text file that was split.
        rejects: the rows that could not even be split off.
        shard_rows: most rows of a part of that split, which another run needs to split it in the same way.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    name: str
    row_groups: tuple[int, int] | None = None
    first_row: int = 1
    part: int | None = None
    rejects: bool = False
    shard_rows: int | None = None

    @property
    def is_split(self) -> bool:
        """Whether the rows are read from a split of the file."""
        return self.rejects or self.part is not None

    @property
    def id(self) -> str:
        """Which rows these are, spelled so that it stays the same when a piece learns to say more."""
        if self.row_groups:
            return f"{self.file} row groups {self.row_groups[0]} to {self.row_groups[1]}"
        if self.part is not None:
            return f"{self.file} part {self.part}"
        return f"{self.file} rejects" if self.rejects else self.file


class Shard(BaseModel):
    """What is scored in one go."""

    model_config = ConfigDict(frozen=True)

    name: str
    pieces: tuple[Piece, ...]

    @property
    def id(self) -> str:
        """Hash of which rows these are."""
        return hashlib.sha256("\n".join(piece.id for piece in self.pieces).encode()).hexdigest()[:16]

    def has_any(self, files: Collection[str]) -> bool:
        """Tell whether it has rows of one of some files, given by key."""
        return any(piece.file in files for piece in self.pieces)


def _together(files: Sequence[Piece]) -> Shard:
    name = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
    return Shard(name=name, pieces=tuple(files))


def halves(shard: Shard) -> tuple[Shard, Shard]:
    """Return what a shard of several files is cut into, so that one that is broken is in fewer others' way."""
    middle = len(shard.pieces) // 2
    return _together(shard.pieces[:middle]), _together(shard.pieces[middle:])


def file_key(file: SourceFile, fingerprint: Callable[[Location], str] = Location.fingerprint) -> str:
    """Return a hash of where a file is and of what is in it, which names its rows too.

    It is the same whichever folder, glob or link the file is found through. So a file is scored once however it is
    reached, and equal files in two places both are.

    Args:
        file: the file.
        fingerprint: tells what :meth:`Location.fingerprint` does.

    Raises:
        SourceError: the file cannot be read.
    """
    identity = f"{file.location.identity}\n{fingerprint(file.location)}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def cut(files: Mapping[str, SourceFile], splits: Mapping[str, Dataset], shard_rows: int) -> list[Shard]:
    """Cut files into shards.

    Args:
        files: the files by key.
        splits: the splits of large text files, by key.
        shard_rows: about how many rows a shard has at most.
    """
    shards: list[Shard] = []
    small: list[Piece] = []
    room = float(shard_rows)

    def close() -> None:
        nonlocal room
        if small:
            shards.append(_together(small))
            small.clear()
        room = float(shard_rows)

    for key, file in sorted(files.items(), key=lambda item: item[1].name):
        if key in splits:
            shards += _split_shards(key, file, splits[key], shard_rows)
            continue
        groups = _row_groups(file)
        rows = float(sum(groups)) if groups is not None else split_rows(file)
        if groups is not None and rows > shard_rows:
            shards += _parquet_shards(key, file, groups, shard_rows)
            continue
        if rows > room or len(small) >= _MAX_FILES:
            close()
        small.append(Piece(file=key, name=file.name))
        room -= rows
    close()
    return shards


def _split_shards(key: str, file: SourceFile, split: Dataset, shard_rows: int) -> Iterator[Shard]:
    parts = len(split.files("part"))
    for part in range(parts):
        piece = Piece(file=key, name=file.name, part=part, shard_rows=shard_rows)
        yield Shard(name=f"{file.name} part {part + 1} of {parts}", pieces=(piece,))
    rejects = Piece(file=key, name=file.name, rejects=True, shard_rows=shard_rows)
    yield Shard(name=f"{file.name} unreadable rows", pieces=(rejects,))


def _parquet_shards(key: str, file: SourceFile, groups: Sequence[int], shard_rows: int) -> Iterator[Shard]:
    start, row = 0, 1
    while start < len(groups):
        end, rows = start + 1, groups[start]
        while end < len(groups) and rows + groups[end] <= shard_rows:
            rows += groups[end]
            end += 1
        piece = Piece(file=key, name=file.name, row_groups=(start, end), first_row=row)
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
    if piece.is_split and split is None:
        raise FileAccessError(f"{file.name} could not be split again; run again when it can be read")
    if piece.part is not None and split is not None:
        yield from read_part(split, piece.part, file, batch_rows)
    elif piece.rejects and split is not None:
        for rejects in read_rejects(split, batch_rows):
            yield Batch(pl.DataFrame(), ORIGIN_SCHEMA.to_frame(), rejects, ())
    else:
        yield from read_batches(file, config, batch_rows, row_groups=piece.row_groups, first_row=piece.first_row)
        file.location.check_unchanged()
