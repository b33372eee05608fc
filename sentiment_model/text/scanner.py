"""From raw text to token ids in one pass over its bytes.

What :func:`normalise` and :func:`encode` do of nearly all texts can be decided a character at a time: where a token
ends, what its letters are in lower case, and where a tag is. A compiled loop does that. It leaves a text unread as soon
as it meets what needs more: an entity, a control character, a comment, a `<` that is no tag, a character that becomes
several or joins its neighbour. Those are normalised and read again; what then still is unread goes the way of training.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from sentiment_model.compiled import in_threads
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.text.alphabet import FOLDS, KINDS, NORMALISED, RAW
from sentiment_model.text.byte_loop import scan_texts
from sentiment_model.text.normalise import normalise
from sentiment_model.text.token_table import bytes_of
from sentiment_model.text.tokenize import encode
from sentiment_model.text.vocabulary import Vocabulary

_BYTES_AT_ONCE = 1 << 20  # of a thread


class Read(NamedTuple):
    """What was read of texts.

    Attributes:
        reviews: token ids, without labels.
        n_tokens: of each text, before truncation, Int32.
        n_unknown: those of them that the vocabulary does not have, Int32.
    """

    reviews: TokenizedReviews
    n_tokens: pl.Series
    n_unknown: pl.Series


class _Piece(NamedTuple):
    """Some of the texts, by their row, with the ids of all in a row."""

    rows: NDArray[np.int64]
    values: NDArray[np.int32]
    lengths: NDArray[np.int64]
    n_tokens: NDArray[np.int32]
    n_unknown: NDArray[np.int32]


class Scanner:
    """Reads texts with one vocabulary, cut to one length."""

    def __init__(self, vocabulary: Vocabulary, max_tokens: int) -> None:
        self._vocabulary, self._max_tokens = vocabulary, max_tokens

    def read(self, texts: pl.Series) -> Read:
        """Return the token ids of raw texts, those that :func:`normalise` and :func:`encode` find.

        Args:
            texts: raw, without nulls.
        """
        rows = np.arange(len(texts))
        pieces, unread = self._scan(texts, rows, RAW)
        if len(unread):
            plain = pl.DataFrame({"text": texts.gather(unread)}).select(normalise(pl.col("text"))).to_series()
            again, foreign = self._scan(plain, unread, NORMALISED)
            pieces += again
            if len(foreign):
                left = plain.gather(np.searchsorted(unread, foreign))
                pieces.append(self._encode(left, foreign))
        return _join(len(texts), pieces)

    def _scan(self, texts: pl.Series, rows: NDArray[np.int64], mode: int) -> tuple[list[_Piece], NDArray[np.int64]]:
        """Return the texts that are read, and the rows of those that are not."""
        data, ends = bytes_of(texts)
        slots, letters, of_tokens, longest = self._vocabulary.lookup
        cuts = self._vocabulary.unit == "subword"

        def scan(start: int, end: int) -> tuple[_Piece, NDArray[np.int64]]:
            values = np.empty(ends[end] - ends[start], dtype=np.int32)
            lengths = np.empty(end - start, dtype=np.int64)
            counts = np.empty((2, end - start), dtype=np.int32)
            room = longest
            if cuts:  # the whole word has to be there; few letters are longer in lower case, and by half at most
                room = 2 * int(np.diff(ends[start : end + 1]).max(initial=0))
            used = scan_texts(
                data,
                ends[start : end + 1],
                KINDS[self._vocabulary.unit][mode],
                FOLDS[mode],
                slots,
                letters,
                of_tokens,
                np.empty(room + 4, dtype=np.uint8),
                longest if cuts else 0,
                self._max_tokens,
                values,
                lengths,
                counts,
            )
            was_read = lengths >= 0
            here = rows[start:end]
            piece = _Piece(here[was_read], values[:used], lengths[was_read], *counts[:, was_read])
            return piece, here[~was_read]

        found = in_threads(scan, ends[1:], _BYTES_AT_ONCE)
        return [piece for piece, _ in found], np.concatenate([unread for _, unread in found])

    def _encode(self, texts: pl.Series, rows: NDArray[np.int64]) -> _Piece:
        encoded = encode(pl.DataFrame({"text": texts}), self._vocabulary, self._max_tokens)
        reviews = TokenizedReviews.from_frame(encoded.select("ids"))
        counts = (encoded[name].to_numpy() for name in ("n_tokens", "n_unknown"))
        return _Piece(rows, reviews.values.numpy(), reviews.lengths.numpy(), *counts)


def _join(count: int, pieces: list[_Piece]) -> Read:
    starts, lengths = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    counts = np.empty((2, count), dtype=np.int32)
    before = 0
    for piece in pieces:
        starts[piece.rows] = before + np.cumsum(piece.lengths) - piece.lengths
        lengths[piece.rows] = piece.lengths
        counts[:, piece.rows] = piece.n_tokens, piece.n_unknown
        before += len(piece.values)
    values = np.concatenate([piece.values for piece in pieces])
    labels = torch.full((count,), torch.nan)
    reviews = TokenizedReviews(torch.from_numpy(values), torch.from_numpy(starts), torch.from_numpy(lengths), labels)
    return Read(reviews, pl.Series("n_tokens", counts[0]), pl.Series("n_unknown", counts[1]))
