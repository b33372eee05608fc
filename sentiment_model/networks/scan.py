"""The recurrence of cells whose gates depend on the input alone, with a gradient of its own.

    h[t] = (1 - z[t]) * h[t-1] + z[t] * c[t]

Only this line, element by element, goes from step to step; whatever makes the gates z and the candidates c of an input
takes all steps at once, as a matrix product.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sentiment_model.networks.precision import state_dtype

_HAS_TRITON = find_spec("triton") is not None  # comes with PyTorch for CUDA, but not on Windows


def scan(update_logits: Tensor, candidate: Tensor) -> Tensor:
    """Return the states of every step, at least in float32.

    Args:
        update_logits: logits of the gate z, shape (time, batch, hidden_size).
        candidate: candidates c, of the same shape; may be overwritten where no gradient is recorded.
    """
    if has_kernels(candidate):
        from sentiment_model.networks import scan_cuda

        return scan_cuda.scan(update_logits, candidate)
    dtype = state_dtype(candidate.dtype)
    update_logits, candidate = update_logits.to(dtype), candidate.to(dtype)
    if torch.is_grad_enabled():
        states: Tensor = _Scan.apply(update_logits, candidate)  # type: ignore[no-untyped-call]
        return states
    return recur(torch.sigmoid(update_logits), candidate, out=candidate)


def has_kernels(x: Tensor) -> bool:
    """Return whether a tensor is where :mod:`sentiment_model.networks.scan_cuda` can be imported and used."""
    return x.is_cuda and _HAS_TRITON


def recur(update: Tensor, candidate: Tensor, out: Tensor, before: Tensor | None = None) -> Tensor:
    """Write the states of some steps into `out`, which may be `candidate`, and return it.

    Args:
        update: gates z, shape (time, batch, hidden_size).
        candidate: candidates c, of the same shape.
        out: of the same shape.
        before: the state before these steps, shape (batch, hidden_size); None where they are the first.
    """
    z, c, h = (t.unbind(0) for t in (update, candidate, out))
    before = torch.mul(z[0], c[0], out=h[0]) if before is None else torch.lerp(before, c[0], z[0], out=h[0])
    for gate, new, state in zip(z[1:], c[1:], h[1:], strict=True):
        before = torch.lerp(before, new, gate, out=state)
    return out


def recur_back(keep: Tensor, gradient: Tensor, out: Tensor, later: Tensor | None = None) -> Tensor:
    """Write the gradients of the states of some steps, those through all later states included, into `out`.

    Args:
        keep: 1 - z, shape (time, batch, hidden_size).
        gradient: gradients of the states, each alone, of the same shape.
        out: of the same shape; may be `gradient`.
        later: gradient of the last of these states through those after it, shape (batch, hidden_size), if there are.

    Returns:
        `out`.
    """
    g, k, d = (t.unbind(0) for t in (gradient, keep, out))
    torch.add(g[-1], 0.0 if later is None else later, out=d[-1])
    for t in range(len(d) - 2, -1, -1):
        torch.addcmul(g[t], k[t + 1], d[t + 1], out=d[t])
    return out


class _Scan(torch.autograd.Function):
    """The recurrence with its gradient written out: autograd's would be several tensors and kernels a step."""

    @staticmethod
    def forward(ctx: Any, update_logits: Tensor, candidate: Tensor) -> Tensor:
        update = torch.sigmoid(update_logits)
        states = recur(update, candidate, out=torch.empty_like(candidate))
        ctx.save_for_backward(update, states)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        update, states = ctx.saved_tensors
        keep = 1.0 - update
        total = recur_back(keep, gradients[0], out=torch.empty_like(states))
        # The gradient of the gate's logit is d * z * (1 - z) * (c - before), and z * (c - before) is h - before.
        change = states.clone()
        change[1:] -= states[:-1]
        return change.mul_(keep).mul_(total), total.mul_(update)
