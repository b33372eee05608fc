"""The recurrence of :mod:`sentiment_model.networks.scan` on a CPU, with the gates around it: one loop each way.

The loop goes through all steps of a sequence. It computes gates from their logits where it needs them, for the gradient
too, so that only logits and states pass through memory, which is what takes the time.
"""

from typing import Any

import torch
from torch import Tensor

from sentiment_model.networks.arithmetic import run_loop
from sentiment_model.networks.precision import state_dtype
from sentiment_model.networks.scan_loop import outputs_back, outputs_of, states_back, states_of


def scan(update_logits: Tensor, candidate: Tensor) -> Tensor:
    """Return the states of every step, at least in float32; arguments are those of the function in `scan`."""
    return _States.apply(update_logits.contiguous(), candidate.contiguous())  # type: ignore[no-any-return, no-untyped-call]


def output_gated_scan(logits: Tensor, bias: Tensor | None) -> Tensor:
    """Return the outputs of every step, in the precision of the logits, as the function in `scan` does."""
    if bias is None:
        bias = logits.new_zeros(logits.shape[2], dtype=state_dtype(logits.dtype))
    return _Outputs.apply(logits.contiguous(), bias)  # type: ignore[no-any-return, no-untyped-call]


class _States(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, update: Tensor, candidate: Tensor) -> Tensor:
        states = candidate.new_empty(candidate.shape, dtype=state_dtype(candidate.dtype))
        run_loop(states_of, update.shape[1], update, candidate, states)
        ctx.save_for_backward(update, candidate, states)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        update, candidate, states = ctx.saved_tensors
        into = torch.empty_like(update), torch.empty_like(candidate)
        run_loop(states_back, update.shape[1], update, candidate, states, gradients[0].contiguous(), *into)
        return into


class _Outputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, bias: Tensor) -> Tensor:
        time, batch, width = logits.shape
        outputs = logits.new_empty(time, batch, width // 3)
        states = torch.empty_like(outputs, dtype=state_dtype(logits.dtype))
        run_loop(outputs_of, batch, logits, bias, outputs, states)
        ctx.save_for_backward(logits, bias, states)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        logits, bias, states = ctx.saved_tensors
        batch = logits.shape[1]
        to_logits, to_bias = torch.empty_like(logits), bias.new_empty(batch, len(bias))
        run_loop(outputs_back, batch, logits, bias, states, gradients[0].contiguous(), to_logits, to_bias)
        return to_logits, to_bias.sum(dim=0)
