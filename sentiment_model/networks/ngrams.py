"""The wide part of the model: a linear score of the n-grams of a review, beside the recurrent network.

What a short phrase says is learned from few reviews by a linear model, what depends on more context by the recurrent
network; their errors differ, so their sum is better than either. Adding a linear to a deep model follows Cheng et al.
(2016), "Wide & Deep Learning for Recommender Systems".
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sentiment_model.networks.outputs import count_outputs

# N-grams are hashed instead of listed (Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning"):
# the size does not grow with the training reviews, and looking one up is one memory access.
BUCKET_BITS = 22
_CHECK_BITS = 16
HASH_BITS = BUCKET_BITS + _CHECK_BITS
BUCKETS = 1 << BUCKET_BITS
HASH_MULTIPLIER = -7046029254386353131


def ngram_hashes(ids: Tensor, order: int) -> Tensor:
    """Return the hash of the n-gram that starts at each token.

    Args:
        ids: token ids, integers, shape (..., time).
        order: tokens in an n-gram.

    Returns:
        numbers below 2 to the power of `HASH_BITS`, int64, shape (..., time - order + 1).
    """
    starts = ids.shape[-1] - order + 1
    hashed = torch.zeros_like(ids[..., :starts], dtype=torch.int64)
    for offset in range(order):
        # Multiplication wraps around, and the shift carries the high bits, the well mixed ones, down.
        hashed = (hashed + ids[..., offset : offset + starts] + 1) * HASH_MULTIPLIER
        hashed ^= (hashed >> 32) & 0xFFFFFFFF
    return hashed & ((1 << HASH_BITS) - 1)


def bucket_of(hashes: Tensor) -> Tensor:
    """Return the place of n-grams in the table: numbers below `BUCKETS`, int64."""
    return hashes & (BUCKETS - 1)


def check_of(hashes: Tensor) -> Tensor:
    """Return what tells n-grams of one bucket apart, int16."""
    return (hashes >> BUCKET_BITS).to(torch.int16)


def _sorted(numbers: Tensor) -> Tensor:
    """Sort each row; on a CPU with NumPy, which is many times faster there."""
    if numbers.device.type == "cpu":
        return torch.from_numpy(np.sort(numbers.numpy(), axis=1))
    return numbers.sort(dim=1).values


class NGramScore(nn.Module):
    """Sums of learned weights of every n-gram of a review, up to an order, over the root of its length; and biases.

    A bucket belongs to one n-gram. Most n-grams of a review occur in no other: without the check, one in seven of them
    would be taken for one that is known. An n-gram that a review repeats counts once; in models of version 0.1 it
    counts as often as it occurs, which the state says.

    Attributes:
        answer_shape: of the answer to one review.
        weight: of each bucket, shape (buckets, 1); with more outputs than one, of each n-gram that is known after a
            line of zeros, shape (1 + n-grams, outputs).
        place: with more outputs than one, the line of each bucket, int32, shape (buckets,).
        check: what tells the n-gram of each bucket from others, shape (buckets,).
    """

    weight: Tensor
    place: Tensor | None
    check: Tensor
    bias: Tensor
    counts_once: Tensor

    def __init__(self, max_order: int, classes: int = 2) -> None:
        super().__init__()
        self.max_order = max_order
        self.answer_shape = (count_outputs(classes),)
        (outputs,) = self.answer_shape
        self.register_buffer("weight", torch.zeros(BUCKETS if outputs == 1 else 1, outputs))
        self.register_buffer("place", None if outputs == 1 else torch.zeros(BUCKETS, dtype=torch.int32))
        self.register_buffer("check", torch.zeros(BUCKETS, dtype=torch.int16))
        self.register_buffer("bias", torch.zeros(self.answer_shape))
        self.register_buffer("counts_once", torch.tensor(True))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        state_dict.setdefault(f"{prefix}counts_once", torch.tensor(False))
        if self.place is None:
            for name in ("weight", "bias"):  # models from before there were more than two classes
                if prefix + name in state_dict:
                    state_dict[prefix + name] = state_dict[prefix + name].view_as(getattr(self, name))
        elif f"{prefix}weight" in state_dict:
            self.weight = self.weight.new_zeros(len(state_dict[f"{prefix}weight"]), *self.answer_shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def learn(self, hashes: Tensor, weights: Tensor) -> None:
        """Know some n-grams, in place of any others.

        Args:
            hashes: of n-grams in buckets of their own, shape (n-grams,).
            weights: of them, shape (n-grams, outputs).
        """
        buckets = bucket_of(hashes)
        self.check.zero_()[buckets] = check_of(hashes)
        if self.place is None:
            self.weight.zero_()[buckets] = weights
        else:
            self.place.zero_()[buckets] = torch.arange(1, len(hashes) + 1, dtype=torch.int32, device=hashes.device)
            self.weight = torch.cat([weights.new_zeros(1, weights.shape[1]), weights])

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores.

        Args:
            ids: token ids padded at the end, shape (batch, time).
            lengths: number of tokens of each review, at least 1, shape (batch,).

        Returns:
            scores, as logits, shape (batch, outputs).
        """
        total = torch.zeros(len(ids), *self.answer_shape, device=ids.device)
        for order in range(1, min(self.max_order, ids.shape[1]) + 1):
            hashes = ngram_hashes(ids, order)
            counts = torch.arange(hashes.shape[1], device=ids.device) <= (lengths - order).unsqueeze(1)
            if self.counts_once:
                hashes = _sorted(hashes.masked_fill(~counts, -1))
                counts = (hashes >= 0) & (hashes.diff(dim=1, prepend=hashes.new_full((len(ids), 1), -1)) != 0)
            buckets = bucket_of(hashes)
            is_known = counts & (self.check[buckets] == check_of(hashes))
            lines = self.weight[buckets if self.place is None else self.place[buckets]]
            total = total + (lines * is_known.unsqueeze(-1)).sum(dim=1)
        return total / lengths.sqrt().unsqueeze(-1) + self.bias
