"""Token ids from Arrow lists to padded batches, without Python lists.

A split is two flat tensors, values and offsets, as Arrow stores a list column. Reviews are grouped by length rounded
up to a multiple of :data:`LENGTH_STEP`, so few distinct shapes occur (each new one costs a warm-up on CPU) and
little padding is computed.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

LENGTH_STEP = 32


@dataclass(frozen=True)
class TokenizedReviews:
    """Token ids of many reviews.

    Attributes:
        values: ids of all reviews in a row, int32, shape (tokens,).
        offsets: where each review starts and the last one ends, int64, shape (reviews + 1,).
        labels: 1 positive, 0 negative, float32, shape (reviews,); NaN where there is none.
    """

    values: Tensor
    offsets: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each review, int64, shape (reviews,)."""
        return self.offsets.diff()

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> "TokenizedReviews":
        """Take the columns `ids` (list of Int32) and, where there is one, `label` of a frame."""
        ids = frame.get_column("ids").to_arrow()
        offsets = ids.offsets.to_numpy().astype(np.int64)
        values = ids.values.to_numpy()[offsets[0] : offsets[-1]]
        labels = torch.full((frame.height,), torch.nan)
        if "label" in frame.columns:
            labels = torch.tensor(frame.get_column("label").cast(pl.Float32).fill_null(float("nan")).to_numpy())
        # `torch.tensor` copies: Arrow's buffers are read-only, which torch does not know.
        return cls(torch.tensor(values), torch.from_numpy(offsets - offsets[0]), labels)

    def join(self, other: "TokenizedReviews") -> "TokenizedReviews":
        """Return these reviews and then those of another."""
        return TokenizedReviews(
            torch.cat([self.values, other.values]),
            torch.cat([self.offsets, other.offsets[1:] + self.offsets[-1]]),
            torch.cat([self.labels, other.labels]),
        )

    def take(self, rows: Tensor) -> "TokenizedReviews":
        """Return some reviews, int64 row numbers of shape (n,), in that order."""
        lengths = self.lengths[rows]
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        shift = torch.repeat_interleave(self.offsets[rows] - offsets[:-1], lengths)
        return TokenizedReviews(self.values[torch.arange(len(shift)) + shift], offsets, self.labels[rows])

    def halves(self) -> "TokenizedReviews":
        """Return the first and the second half of each review, as reviews of their own, without a label."""
        middles = self.offsets[:-1] + self.lengths // 2
        starts = torch.stack([self.offsets[:-1], middles], dim=1).flatten()
        return TokenizedReviews(
            self.values, torch.cat([starts, self.offsets[-1:]]), torch.full((len(starts),), torch.nan)
        )

    def batch(self, rows: Tensor, padded_length: int) -> tuple[Tensor, Tensor]:
        """Return the ids of some reviews, padded at the end with 0, and their lengths.

        A review without tokens is read as one padding token.

        Args:
            rows: which reviews, int64, shape (batch,).
            padded_length: at least the longest of their lengths.

        Returns:
            ids, int32, shape (batch, padded_length), and lengths, int64, shape (batch,).
        """
        starts = self.offsets[rows].unsqueeze(1)
        lengths = self.offsets[rows + 1].unsqueeze(1) - starts
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
    padded = ((lengths.clamp(min=1) + LENGTH_STEP - 1) // LENGTH_STEP * LENGTH_STEP).numpy()
    order = np.arange(len(padded)) if generator is None else generator.permutation(len(padded))
    order = order[np.argsort(padded[order], kind="stable")]
    sizes, firsts = np.unique(padded[order], return_index=True)
    batches = []
    for size, rows in zip(sizes.tolist(), np.split(order, firsts[1:]), strict=True):
        per_batch = max(1, token_budget // size)
        # Equal parts, so that no batch is a small remainder with a noisy gradient.
        parts = np.array_split(rows, -(-len(rows) // per_batch))
        batches += [Batch(torch.from_numpy(part), size) for part in parts]
    if generator is not None:
        batches = [batches[i] for i in generator.permutation(len(batches))]
    return batches
