"""The wide part of the model: a linear score of the n-grams of a review, beside the recurrent network.

What a short phrase says is learned from few reviews by a linear model, what depends on more context by the recurrent
network; their errors differ, so their sum is better than either. Adding a linear to a deep model follows Cheng et al.
(2016), "Wide & Deep Learning for Recommender Systems".
"""

import torch
from torch import Tensor, nn

# N-grams are hashed instead of listed (Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning"):
# the size does not grow with the training reviews, and looking one up is one memory access.
BUCKETS = 1 << 22


def ngram_buckets(ids: Tensor, order: int) -> Tensor:
    """Return the bucket of the n-gram that starts at each token.

    Args:
        ids: token ids, integers, shape (..., time).
        order: tokens in an n-gram.

    Returns:
        numbers from 0 to `BUCKETS` - 1, int64, shape (..., time - order + 1).
    """
    starts = ids.shape[-1] - order + 1
    hashed = torch.zeros_like(ids[..., :starts], dtype=torch.int64)
    for offset in range(order):
        # Multiplication wraps around, and the shift carries the high bits, the well mixed ones, down.
        hashed = (hashed + ids[..., offset : offset + starts] + 1) * -7046029254386353131
        hashed ^= (hashed >> 32) & 0xFFFFFFFF
    return hashed & (BUCKETS - 1)


class NGramScore(nn.Module):
    """Sum of a learned weight of every n-gram of a review, up to an order, and a bias."""

    weight: Tensor
    bias: Tensor

    def __init__(self, max_order: int) -> None:
        super().__init__()
        self.max_order = max_order
        self.register_buffer("weight", torch.zeros(BUCKETS))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores.

        Args:
            ids: token ids padded at the end, shape (batch, time).
            lengths: number of tokens of each review, shape (batch,).

        Returns:
            scores, logits of the positive class, shape (batch,).
        """
        total = self.bias.expand(len(ids))
        for order in range(1, min(self.max_order, ids.shape[1]) + 1):
            buckets = ngram_buckets(ids, order)
            inside = torch.arange(buckets.shape[1], device=ids.device) <= (lengths - order).unsqueeze(1)
            total = total + (self.weight[buckets] * inside).sum(dim=1)
        return total
