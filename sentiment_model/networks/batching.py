"""Token ids from Arrow lists to padded batches, without Python lists.

The tokens of all reviews lie in one flat tensor, which may be a file that is mapped. A selection of reviews, or of
halves of them, is a matter of where each one starts and how long it is, so that no token is copied before it is in a
batch. Reviews are grouped by length rounded up to a multiple of :data:`LENGTH_STEP`, so few distinct shapes occur (each
new one costs a warm-up on CPU) and little padding is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from sentiment_model.compiled import in_threads

LENGTH_STEP = 32
_TOKENS_AT_ONCE = 1 << 17  # of a thread: few enough that all threads have work until the end


@dataclass(frozen=True)
class TokenizedReviews:
    """Token ids of many reviews.

    Attributes:
        values: ids in a row, int32; those of other reviews may lie between them.
        starts: where in them each review starts, int64, shape (reviews,).
        lengths: number of tokens of each review, int64, shape (reviews,).
        labels: the number of each review's class, float32, shape (reviews,), NaN where there is none; or the
            probability of each class, shape (reviews, classes).
    """

    values: Tensor
    starts: Tensor
    lengths: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Number of tokens of all reviews."""
        return int(self.lengths.sum())

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> "TokenizedReviews":
        """Take the columns `ids` (list of Int32) and, where there is one, `label` of a frame."""
        ids = frame.get_column("ids").to_arrow()
        offsets = ids.offsets.to_numpy().astype(np.int64)
        values = ids.values.to_numpy()[offsets[0] : offsets[-1]]
        labels = torch.full((frame.height,), torch.nan)
        if "label" in frame.columns:
            labels = torch.tensor(frame.get_column("label").cast(pl.Float32).fill_null(float("nan")).to_numpy())
        bounds = torch.from_numpy(offsets - offsets[0])
        # `torch.tensor` copies: Arrow's buffers are read-only, which torch does not know.
        return cls(torch.tensor(values), bounds[:-1], bounds.diff(), labels)

    def join(self, other: "TokenizedReviews") -> "TokenizedReviews":
        """Return these reviews and then those of another; tokens that lie in one tensor are not copied."""
        values, shift = self.values, 0
        if other.values is not values:
            values, shift = torch.cat([values, other.values]), len(values)
        return TokenizedReviews(
            values,
            torch.cat([self.starts, other.starts + shift]),
            torch.cat([self.lengths, other.lengths]),
            torch.cat([self.labels, other.labels]),
        )

    def take(self, rows: Tensor) -> "TokenizedReviews":
        """Return some reviews, int64 row numbers of shape (n,), in that order."""
        return TokenizedReviews(self.values, self.starts[rows], self.lengths[rows], self.labels[rows])

    def halves(self) -> "TokenizedReviews":
        """Return the first and the second half of each review, as reviews of their own, without a label."""
        first = self.lengths // 2
        starts = torch.stack([self.starts, self.starts + first], dim=1).flatten()
        lengths = torch.stack([first, self.lengths - first], dim=1).flatten()
        return TokenizedReviews(self.values, starts, lengths, torch.full((len(starts),), torch.nan))

    def flat(self) -> Tensor:
        """Return a copy of the ids of these reviews alone, one review after the other, int32, shape (tokens,)."""
        gaps = self.starts - (self.lengths.cumsum(0) - self.lengths)
        places = torch.repeat_interleave(gaps, self.lengths)
        return self.values[places.add_(torch.arange(len(places)))]

    def batch(self, rows: Tensor, padded_length: int) -> tuple[Tensor, Tensor]:
        """Return the ids of some reviews, padded at the end with 0, and their lengths.

        A review without tokens is read as one padding token.

        Args:
            rows: which reviews, int64, shape (batch,).
            padded_length: at least the longest of their lengths.

        Returns:
            ids, int32, shape (batch, padded_length), and lengths, int64, shape (batch,).
        """
        starts, lengths = self.starts[rows].unsqueeze(1), self.lengths[rows].unsqueeze(1)
        step = torch.arange(padded_length)
        inside = step < lengths
        ids = torch.zeros(len(rows), padded_length, dtype=torch.int32)
        ids[inside] = self.values[(starts + step)[inside]]
        return ids, lengths.squeeze(1).clamp(min=1)


@dataclass(frozen=True)
class Batch:
    """Rows that are computed together, and the length to which they are padded."""

    rows: Tensor
    padded_length: int


def plan_batches(lengths: Tensor, token_budget: int, shuffle_seed: int | None = None) -> list[Batch]:
    """Group reviews of similar length into batches under a budget of padded tokens.

    Args:
        lengths: tokens of each review, int64, shape (reviews,).
        token_budget: largest number of padded tokens in a batch; a longer review is a batch of its own.
        shuffle_seed: draws which reviews share a batch and the order of the batches; None keeps length order.

    Returns:
        batches that hold every review exactly once. Their number does not depend on the seed.
    """
    if not len(lengths):
        return []
    generator = None if shuffle_seed is None else np.random.default_rng(shuffle_seed)
    padded = lengths.numpy().astype(np.int32)  # four bytes a review in place of eight
    np.maximum(padded, 1, out=padded)
    padded += (-padded) % LENGTH_STEP
    order = np.arange(len(padded)) if generator is None else generator.permutation(len(padded))
    order = order[np.argsort(padded[order], kind="stable")]
    padded = padded[order]
    firsts = np.flatnonzero(np.diff(padded, prepend=0))
    batches = []
    for size, rows in zip(padded[firsts].tolist(), np.split(order, firsts[1:]), strict=True):
        per_batch = max(1, token_budget // size)
        # Equal parts, so that no batch is a small remainder with a noisy gradient.
        parts = np.array_split(rows, -(-len(rows) // per_batch))
        batches += [Batch(torch.from_numpy(part), size) for part in parts]
    if generator is not None:
        batches = [batches[i] for i in generator.permutation(len(batches))]
    return batches


def score_in_threads(
    loop: Callable[..., None], reviews: TokenizedReviews, *arguments: object, scores: NDArray[np.float32]
) -> None:
    """Let a compiled loop score reviews, each thread shares of them with about as many tokens.

    Args:
        loop: is given the values, and the starts and lengths of some reviews, then the arguments, then where to write
            the scores of these reviews.
        reviews: the reviews.
        arguments: of the loop.
        scores: gets the scores, shape (reviews, ...).
    """
    values, starts, lengths = reviews.values.numpy(), reviews.starts.numpy(), reviews.lengths.numpy()

    def score(start: int, end: int) -> None:
        rows = slice(start, end)
        loop(values, starts[rows], lengths[rows], *arguments, scores[rows])

    in_threads(score, np.cumsum(lengths), _TOKENS_AT_ONCE)
