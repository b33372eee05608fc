"""The minimal gated recurrent unit, whose gate and candidate depend on the input alone and so take all steps at once.

Feng et al. (2024), "Were RNNs All We Needed?":

    z[t] = sigmoid(W_z x[t] + b_z)
    c[t] = W_c x[t] + b_c
    h[t] = (1 - z[t]) * h[t-1] + z[t] * c[t]

Only the last line, element by element, goes from step to step. Both directions share the two matrix products, and the
backward one reads from the end of the batch: an update of 0 in the padding keeps its state at 0 until a review's last
token, so nothing has to be reversed.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sentiment_model.pooling import find_padding


class MinGRULayer(nn.Module):
    """One layer of minimal gated recurrent units, in one direction or both.

    Maps (time, batch, input_size) to (time, batch, hidden_size * directions).
    """

    def __init__(self, input_size: int, hidden_size: int, bidirectional: bool) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        width = hidden_size * (2 if bidirectional else 1)
        self.update = nn.Linear(input_size, width)
        self.candidate = nn.Linear(input_size, width)

    def reset_parameters(self) -> None:
        """Initialise: a state is a mean over about the last four steps."""
        for linear, bias in ((self.update, -1.0), (self.candidate, 0.0)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.constant_(linear.bias, bias)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the states of every step, at least in float32; those past a sequence's length are meaningless."""
        return self.scan(*self.project(x), lengths)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what each input, shape (..., input_size), brings to a step whatever the state: see :meth:`scan`."""
        return self.update(x), self.candidate(x)

    def scan(self, update_logits: Tensor, candidate: Tensor, lengths: Tensor) -> Tensor:
        """Return the states of every step.

        Args:
            update_logits: logits of the gate z, shape (time, batch, hidden_size * directions).
            candidate: candidates c, of the same shape; overwritten where no gradient is recorded.
            lengths: lengths, shape (batch,).
        """
        # Under autocast these are bfloat16, in which a long review's sum would lose most of what each step adds.
        dtype = torch.promote_types(candidate.dtype, torch.float32)
        update_logits, candidate = update_logits.to(dtype), candidate.to(dtype)
        if torch.is_grad_enabled():
            states: Tensor = _Scan.apply(update_logits, candidate, lengths, self.hidden_size)  # type: ignore[no-untyped-call]
            return states
        return _recur(_gate(update_logits, lengths), candidate, self.hidden_size, out=candidate)


class _Scan(torch.autograd.Function):
    """The recurrence with a gradient of its own: autograd's would be several tensors and kernels a step."""

    @staticmethod
    def forward(ctx: Any, update_logits: Tensor, candidate: Tensor, lengths: Tensor, hidden_size: int) -> Tensor:
        update = _gate(update_logits, lengths)
        states = _recur(update, candidate, hidden_size, out=torch.empty_like(candidate))
        ctx.save_for_backward(update, states)
        ctx.hidden_size = hidden_size
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        update, states = ctx.saved_tensors
        size = ctx.hidden_size
        keep = 1.0 - update
        total = torch.empty_like(states)  # gradient of each state, that through all later states included
        for g, k, d in zip(*(_in_reading_order(t, size) for t in (gradients[0], keep, total)), strict=True):
            d[-1].copy_(g[-1])
            for t in range(len(d) - 2, -1, -1):
                torch.addcmul(g[t], k[t + 1], d[t + 1], out=d[t])
        # The gradient of the gate's logit is d * z * (1 - z) * (c - before), and z * (c - before) is h - before.
        change = states.clone()
        change[1:, :, :size] -= states[:-1, :, :size]
        change[:-1, :, size:] -= states[1:, :, size:]
        return change.mul_(keep).mul_(total), total.mul_(update), None, None


def _gate(update_logits: Tensor, lengths: Tensor) -> Tensor:
    """Return the gate z, which is 0 in the padding."""
    update = torch.sigmoid(update_logits)
    shortest, padding = find_padding(len(update), lengths)
    update[shortest:].masked_fill_(padding, 0.0)
    return update


def _recur(update: Tensor, candidate: Tensor, hidden_size: int, out: Tensor) -> Tensor:
    """Write the states into `out`, which may be `candidate`, and return it."""
    for z, c, h in zip(*(_in_reading_order(t, hidden_size) for t in (update, candidate, out)), strict=True):
        before = torch.mul(z[0], c[0], out=h[0])
        for gate, new, state in zip(z[1:], c[1:], h[1:], strict=True):
            before = torch.lerp(before, new, gate, out=state)
    return out


def _in_reading_order(x: Tensor, hidden_size: int) -> list[tuple[Tensor, ...]]:
    """Return views of the steps of (time, batch, width) for each direction, in the order in which it reads them."""
    forwards, *backwards = (half.unbind(0) for half in torch.split(x, hidden_size, dim=-1))
    return [forwards, *(steps[::-1] for steps in backwards)]
