"""The recurrence of cells whose gates depend on the input alone.

    h[t] = (1 - z[t]) * h[t-1] + z[t] * c[t]

Only this line, element by element, goes from step to step; whatever makes the gates z and the candidates c of an input
takes all steps at once, as a matrix product.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from sentiment_model.networks import scan_cpu
from sentiment_model.networks.arithmetic import has_loops
from sentiment_model.networks.precision import state_dtype

_HAS_TRITON = find_spec("triton") is not None  # comes with PyTorch for CUDA, but not on Windows


def scan(update_logits: Tensor, candidate: Tensor) -> Tensor:
    """Return the states of every step, at least in float32.

    Args:
        update_logits: logits of the gate z, shape (time, batch, hidden_size).
        candidate: candidates c, of the same shape.
    """
    if has_loops(candidate):
        return scan_cpu.scan(update_logits, candidate)
    if _HAS_TRITON:
        from sentiment_model.networks import scan_cuda

        return scan_cuda.scan(update_logits, candidate)
    dtype = state_dtype(candidate.dtype)
    return _by_steps(torch.sigmoid(update_logits.to(dtype)), candidate.to(dtype))


def output_gated_scan(logits: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return o * h for the states h of candidates tanh(c), in the precision of the logits; states are at least float32.

    Args:
        logits: logits of z, of o and of c, side by side, shape (time, batch, 3 * hidden_size).
        bias: what is to be added to them first, shape (3 * hidden_size,).
    """
    if has_loops(logits):
        return scan_cpu.output_gated_scan(logits, bias)
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    if _HAS_TRITON:
        from sentiment_model.networks import scan_cuda

        return scan_cuda.output_gated_scan(logits)
    update, output, candidate = logits.to(state_dtype(logits.dtype)).chunk(3, dim=-1)
    return (torch.sigmoid(output) * _by_steps(torch.sigmoid(update), torch.tanh(candidate))).to(logits.dtype)


def _by_steps(update: Tensor, candidate: Tensor) -> Tensor:
    """Return the states of gates and candidates, an operation a step: slow, but it runs wherever PyTorch does."""
    state, states = torch.zeros_like(candidate[0]), []
    for gate, new in zip(update, candidate, strict=True):
        state = torch.lerp(state, new, gate)
        states.append(state)
    return torch.stack(states)
