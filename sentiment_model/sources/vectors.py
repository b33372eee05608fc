"""Pretrained word vectors for the tokens of a vocabulary: the text that GloVe, word2vec and fastText write.

A line has a word and its numbers, separated by white space. The first may say how many words and numbers there are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from sentiment_model.errors import SourceError
from sentiment_model.sources.compression import Compression, read_chunks
from sentiment_model.sources.files import endings
from sentiment_model.sources.lines import as_utf8, split_lines
from sentiment_model.sources.locations import Location, find
from sentiment_model.store.datasets import Dataset, DatasetWriter, Stage
from sentiment_model.text.reviews import Fault
from sentiment_model.text.vocabulary import Vocabulary

VECTORS = Stage("vectors", 1)

_FILE = "vectors.parquet"
_LONGEST_LINE = 1 << 20
_LONGEST_COUNT = 12  # digits


@dataclass(frozen=True)
class VectorsFile:
    """A file of word vectors.

    Attributes:
        location: where it is.
        compression: how it is packed.
        size: numbers of each vector.
        words: how many words the file says that it has; None where it does not say.
    """

    location: Location
    compression: Compression | None
    size: int
    words: int | None

    @classmethod
    def find(cls, path: str, size: int) -> "VectorsFile":
        """Look at the start of a file.

        Args:
            path: a file or an object-store URL; plain, `.gz` or `.zst`.
            size: numbers that each vector must have.

        Raises:
            SourceError: there is no such file, it does not hold word vectors, or they have another size.
        """
        locations = find(path).locations
        if len(locations) != 1:
            raise SourceError(f"{path} is {len(locations):,} files; name the one with the word vectors")
        _, compression = endings(locations[0].name)
        with _lines(locations[0], compression) as lines:
            first = next(lines, b"").split()
            is_head = len(first) == 2 and all(field.isdigit() and len(field) < _LONGEST_COUNT for field in first)
            fields = next(lines, b"").split() if is_head else first
        found = len(fields) - 1
        if found < 1 or _numbers(fields[1:]) is None:
            raise SourceError(
                f"{path} does not hold word vectors as text, a word and its numbers in each line; of word2vec and "
                "fastText, name the text file, not the binary one"
            )
        if found != size:
            raise SourceError(f"the vectors of {path} have {found:,} numbers; set model.embedding_size to {found}")
        return cls(locations[0], compression, size, int(first[0]) if is_head else None)

    def read(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield each word and its numbers as they are written, in one pass.

        Raises:
            SourceError: the file is damaged or cut off.
        """
        count = 0
        with _lines(self.location, self.compression) as lines:
            if self.words is not None:
                next(lines)
            for line in lines:
                if len(fields := line.split(None, 1)) == 2:
                    count += 1
                    yield fields[0], fields[1]
        if self.words is not None and count < self.words:
            raise SourceError(
                f"{self.location.path} has {count:,} of the {self.words:,} words that its first line tells of; "
                "get the whole file"
            )


class WordVectors(NamedTuple):
    """Vectors of some tokens.

    Attributes:
        ids: of these tokens, int64, shape (found,).
        values: float32, shape (found, size).
    """

    ids: Tensor
    values: Tensor


def write_vectors(writer: DatasetWriter, file: VectorsFile, vocabulary: Vocabulary) -> dict[str, Any]:
    """Write the vectors of a vocabulary's tokens, and only these, as Parquet: `id` and `vector`, in the order of ids.

    Of a word that occurs twice, the first counts. Words that have a space in them are no tokens.

    Args:
        writer: where to write.
        file: the vectors.
        vocabulary: the tokens.

    Returns:
        counts: how many `tokens` there are, and how many of them were `found`.

    Raises:
        SourceError: the file is damaged or cut off, a token's vector is not one, or no token has any.
    """
    wanted = {token.encode(): row for token, row in vocabulary.table.select("token", "id").slice(2).iter_rows()}
    found: dict[int, NDArray[np.float32]] = {}
    for word, written in file.read():
        row = wanted.get(word)
        if row is None or row in found:
            continue
        fields = written.split()
        if len(fields) > file.size:
            continue
        vector = _numbers(fields)
        if vector is None or len(vector) < file.size:
            raise SourceError(f"{file.location.path}: the line of {word.decode()!r} is damaged or cut off")
        found[row] = vector
    if not found:
        raise SourceError(f"{file.location.path} has no vector of any of the {len(wanted):,} tokens of the reviews")
    ids = sorted(found)
    pl.DataFrame(
        {"id": ids, "vector": np.stack([found[row] for row in ids])},
        schema={"id": pl.Int32(), "vector": pl.Array(pl.Float32(), file.size)},
    ).write_parquet(writer.file(_FILE))
    return {"tokens": len(wanted), "found": len(found)}


def read_vectors(dataset: Dataset) -> WordVectors:
    """Return what :func:`write_vectors` wrote."""
    with dataset.local_folder() as folder:
        frame = pl.read_parquet(folder / _FILE)
    return WordVectors(torch.tensor(frame["id"].to_numpy()).long(), torch.tensor(frame["vector"].to_numpy()))


@contextmanager
def _lines(location: Location, compression: Compression | None) -> Iterator[Iterator[bytes]]:
    def whole(lines: Iterator[bytes | Fault]) -> Iterator[bytes]:
        for line in lines:
            if isinstance(line, Fault):
                raise SourceError(f"{location.path}: {line.detail}")
            yield line

    with location.open() as file:
        yield whole(split_lines(as_utf8(read_chunks(file, compression)), _LONGEST_LINE))


def _numbers(fields: list[bytes]) -> NDArray[np.float32] | None:
    try:
        with np.errstate(over="ignore"):
            numbers = np.array(fields).astype(np.float32)
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None
