"""The tokens of a vocabulary in a table that compiled loops look them up in."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sentiment_model.text.byte_loop import cut_words, enter_tokens


class TokenTable(NamedTuple):
    """Tokens by the hash of their letters.

    Attributes:
        slots: for each hash an id, see :func:`enter_tokens`.
        letters: of all tokens, one after the other, in UTF-8; padding and the unknown, which are no tokens of a text,
            have none.
        ends: of each token in them.
        longest: bytes of the longest token.
    """

    slots: NDArray[np.int32]
    letters: NDArray[np.uint8]
    ends: NDArray[np.int64]
    longest: int

    @classmethod
    def of(cls, tokens: Iterable[str]) -> "TokenTable":
        """Make the table of a vocabulary's tokens but the two special ones, in the order of their ids from 2 on."""
        letters = [b"", b"", *(token.encode() for token in tokens)]
        slots = np.zeros(1 << (2 * len(letters)).bit_length(), dtype=np.int32)
        ends = np.cumsum([len(token) for token in letters])
        table = cls(slots, np.frombuffer(b"".join(letters), dtype=np.uint8), ends, max(map(len, letters)))
        enter_tokens(table.slots, table.letters, table.ends)
        return table

    def cut(self, words: pl.Series) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the ids of the pieces of words, all in a row, and how many each word has.

        Args:
            words: in lower case, without nulls.
        """
        data, bounds = bytes_of(words)
        values = np.empty(bounds[-1] - bounds[0], dtype=np.int32)
        lengths = np.empty(len(words), dtype=np.int64)
        used = cut_words(data, bounds, self.slots, self.letters, self.ends, self.longest, values, lengths)
        return values[:used], lengths


def bytes_of(texts: pl.Series) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the UTF-8 of texts without nulls, and in it where each starts and the last one ends."""
    _, offsets, letters = texts.to_arrow().buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[: len(texts) + 1]
    return np.frombuffer(letters, dtype=np.uint8) if letters else np.empty(0, np.uint8), bounds
