"""Vectors of tokens, with dropout, on a CPU: one pass over memory each way, where PyTorch's operations take six."""

from typing import Any

import torch
from torch import Tensor

from sentiment_model.networks.arithmetic import run_loop
from sentiment_model.networks.lookup_loop import add_gradients, look_up_masked


def look_up(vectors: Tensor, ids: Tensor, mask: Tensor, padding: int, dtype: torch.dtype) -> Tensor:
    """Return the vectors of tokens times a mask, which is the same for all steps of a sequence.

    Args:
        vectors: of each token, shape (vocabulary, width).
        ids: shape (orders, time, batch).
        mask: shape (orders, 1, batch, width).
        padding: the id whose vector gets no gradient.
        dtype: precision of the result.

    Returns:
        shape (orders, time, batch, width).
    """
    return _LookUp.apply(vectors, ids, mask, padding, dtype)  # type: ignore[no-any-return, no-untyped-call]


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, ids: Tensor, mask: Tensor, padding: int, dtype: torch.dtype) -> Tensor:
        ids, mask = ids.contiguous(), mask.squeeze(1).contiguous()
        out = vectors.new_empty(*ids.shape, vectors.shape[1], dtype=dtype)
        run_loop(look_up_masked, ids.shape[2], ids, vectors, mask, out)
        ctx.save_for_backward(ids, mask)
        ctx.vocabulary, ctx.padding = len(vectors), padding
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ids, mask = ctx.saved_tensors
        to_vectors = mask.new_zeros(ctx.vocabulary, mask.shape[-1])
        parts = torch.get_num_threads()
        run_loop(add_gradients, parts, ids, gradients[0].contiguous(), mask, ctx.padding, to_vectors, parts)
        return to_vectors, None, None, None, None
