"""The poolings of :mod:`sentiment_model.networks.pooling` on a CPU: all in one pass over the states each way."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sentiment_model.networks.arithmetic import run_loop
from sentiment_model.networks.pooling_loop import POOLINGS, pool_back, pool_states
from sentiment_model.networks.precision import state_dtype


def pool(states: Tensor, lengths: Tensor, kinds: Sequence[str]) -> Tensor:
    """Return the poolings of each sequence side by side, as the function in `pooling` does."""
    pooled: Tensor = _Pool.apply(states.contiguous(), lengths, "max" in kinds)  # type: ignore[no-untyped-call]
    return pooled[:, [POOLINGS.index(kind) for kind in kinds]].flatten(1)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, lengths: Tensor, is_max_used: bool) -> Tensor:
        _, batch, width = states.shape
        pooled = states.new_empty(batch, 3, width, dtype=state_dtype(states.dtype))
        run_loop(pool_states, batch, states, lengths, pooled)
        ctx.save_for_backward(states, lengths, pooled)
        ctx.is_max_used = is_max_used
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        states, lengths, pooled = ctx.saved_tensors
        to_states = torch.empty_like(states)
        gradient = gradients[0].contiguous()
        run_loop(pool_back, len(pooled), states, lengths, pooled, gradient, to_states, ctx.is_max_used)
        return to_states, None, None
