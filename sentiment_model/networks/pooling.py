"""Masked poolings of states over time, and the mask.

The states of a batch are the largest tensors there are. To mask all of them and to leave the gradient of a maximum to
autograd passes over them so often that it takes more than twice as long. Here only the steps in which some sequence has
ended are masked, and each gradient is written once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sentiment_model.networks import pooling_cpu
from sentiment_model.networks.arithmetic import has_loops


def pool(states: Tensor, lengths: Tensor, kinds: Sequence[str]) -> Tensor:
    """Return the poolings of each sequence side by side, at least in float32.

    Max and mean pooling over all states follow Johnson & Zhang (2016), "Supervised and Semi-Supervised Text
    Categorization using LSTM for Region Embeddings".

    Args:
        states: states, shape (time, batch, width); those past a sequence's length count for nothing.
        lengths: lengths, at least 1, shape (batch,).
        kinds: `last`, `max` and `mean`, those that are wanted, in the order that is wanted.

    Returns:
        shape (batch, kinds * width).
    """
    if has_loops(states):
        return pooling_cpu.pool(states, lengths, kinds)
    return torch.cat([masked_pool(kind, states, lengths) for kind in kinds], dim=-1)


def masked_pool(kind: str, states: Tensor, lengths: Tensor) -> Tensor:
    """Return one of the poolings, shape (batch, width), for arguments as :func:`pool` takes them."""
    if kind == "last":
        return states[lengths - 1, torch.arange(states.shape[1], device=states.device)]
    return masked_max(states, lengths) if kind == "max" else masked_mean(states, lengths)


def masked_max(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the maximum over the steps of each sequence; in the gradient, equal maxima share.

    Args:
        states: states, shape (time, batch, width); those past a sequence's length count for nothing.
        lengths: lengths, at least 1, shape (batch,).

    Returns:
        shape (batch, width).
    """
    return _Max.apply(states, lengths)  # type: ignore[no-any-return, no-untyped-call]


def masked_mean(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean over the steps of each sequence, for arguments as :func:`masked_max` takes them."""
    return _Mean.apply(states, lengths)  # type: ignore[no-any-return, no-untyped-call]


def find_padding(time: int, lengths: Tensor) -> tuple[int, Tensor]:
    """Return the shortest length, and what is padding in the steps from there on, shape (time - shortest, batch, 1)."""
    shortest = int(lengths.min())
    step = torch.arange(shortest, time, device=lengths.device).unsqueeze(1)
    return shortest, (step >= lengths).unsqueeze(-1)


class _Max(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, lengths: Tensor) -> Tensor:
        shortest, padding = find_padding(len(states), lengths)
        tail = states[shortest:].masked_fill(padding, -torch.inf)
        highest = torch.cat([states[:shortest].amax(dim=0, keepdim=True), tail]).amax(dim=0)
        ctx.save_for_backward(states, lengths, highest)
        return highest

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        states, lengths, highest = ctx.saved_tensors
        shortest, padding = find_padding(len(states), lengths)
        share = torch.eq(states, highest, out=torch.empty_like(states))
        share[shortest:].masked_fill_(padding, 0.0)
        return share.mul_(gradients[0] / share.sum(dim=0)), None


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, lengths: Tensor) -> Tensor:
        shortest, padding = find_padding(len(states), lengths)
        dtype = torch.promote_types(states.dtype, torch.float32)
        total = states[:shortest].sum(dim=0, dtype=dtype)
        total += states[shortest:].masked_fill(padding, 0.0).sum(dim=0, dtype=dtype)
        ctx.save_for_backward(lengths)
        ctx.time, ctx.dtype = len(states), states.dtype
        return total / lengths.unsqueeze(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (lengths,) = ctx.saved_tensors
        shortest, padding = find_padding(ctx.time, lengths)
        share = (gradients[0] / lengths.unsqueeze(-1)).to(ctx.dtype).repeat(ctx.time, 1, 1)
        share[shortest:].masked_fill_(padding, 0.0)
        return share, None
