"""The recurrence of cells whose gates depend on the input alone, with a gradient of its own.

    h[t] = (1 - z[t]) * h[t-1] + z[t] * c[t]

Only this line, element by element, goes from step to step; whatever makes the gates z and the candidates c of an input
takes all steps at once, as a matrix product.
"""

from typing import Any

import torch
from torch import Tensor


def scan(update_logits: Tensor, candidate: Tensor) -> Tensor:
    """Return the states of every step, at least in float32.

    Args:
        update_logits: logits of the gate z, shape (time, batch, hidden_size).
        candidate: candidates c, of the same shape; may be overwritten where no gradient is recorded.
    """
    # Under autocast these are bfloat16, in which a long review's sum would lose most of what each step adds.
    dtype = torch.promote_types(candidate.dtype, torch.float32)
    update_logits, candidate = update_logits.to(dtype), candidate.to(dtype)
    if torch.is_grad_enabled():
        states: Tensor = _Scan.apply(update_logits, candidate)  # type: ignore[no-untyped-call]
        return states
    return _recur(torch.sigmoid(update_logits), candidate, out=candidate)


class _Scan(torch.autograd.Function):
    """The recurrence with its gradient written out: autograd's would be several tensors and kernels a step."""

    @staticmethod
    def forward(ctx: Any, update_logits: Tensor, candidate: Tensor) -> Tensor:
        update = torch.sigmoid(update_logits)
        states = _recur(update, candidate, out=torch.empty_like(candidate))
        ctx.save_for_backward(update, states)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        update, states = ctx.saved_tensors
        keep = 1.0 - update
        total = torch.empty_like(states)  # gradient of each state, that through all later states included
        g, k, d = (t.unbind(0) for t in (gradients[0], keep, total))
        d[-1].copy_(g[-1])
        for t in range(len(d) - 2, -1, -1):
            torch.addcmul(g[t], k[t + 1], d[t + 1], out=d[t])
        # The gradient of the gate's logit is d * z * (1 - z) * (c - before), and z * (c - before) is h - before.
        change = states.clone()
        change[1:] -= states[:-1]
        return change.mul_(keep).mul_(total), total.mul_(update)


def _recur(update: Tensor, candidate: Tensor, out: Tensor) -> Tensor:
    """Write the states into `out`, which may be `candidate`, and return it."""
    z, c, h = (t.unbind(0) for t in (update, candidate, out))
    before = torch.mul(z[0], c[0], out=h[0])
    for gate, new, state in zip(z[1:], c[1:], h[1:], strict=True):
        before = torch.lerp(before, new, gate, out=state)
    return out
