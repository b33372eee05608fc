"""The quasi-recurrent network of Bradbury et al. (2017), whose gates see an input and the one before it.

    z[t] = sigmoid(W_z [x[t], x[t-1]] + b_z)
    c[t] = tanh(W_c [x[t], x[t-1]] + b_c)
    o[t] = sigmoid(W_o [x[t], x[t-1]] + b_o)
    s[t] = (1 - z[t]) * s[t-1] + z[t] * c[t]
    h[t] = o[t] * s[t]

This is their fo-pooling, with a filter two inputs wide.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentiment_model.scan import scan


class QRNNLayer(nn.Module):
    """One quasi-recurrent layer: (time, batch, input_size) to (time, batch, hidden_size)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.update = nn.Linear(2 * input_size, hidden_size)
        self.candidate = nn.Linear(2 * input_size, hidden_size)
        self.output = nn.Linear(2 * input_size, hidden_size)

    def reset_parameters(self) -> None:
        """Initialise: a state is a mean over about the last four steps."""
        for linear, bias in ((self.update, -1.0), (self.candidate, 0.0), (self.output, 0.0)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.constant_(linear.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the states of every step, at least in float32."""
        pairs = torch.cat([x, torch.cat([torch.zeros_like(x[:1]), x[:-1]])], dim=-1)
        return _pool(self.update(pairs), self.candidate(pairs), self.output(pairs))

    def tabulate(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what :meth:`look_up` needs to know of each of the inputs, shape (inputs, input_size)."""
        linears = (self.update, self.candidate, self.output)
        halves = [linear.weight.chunk(2, dim=1) for linear in linears]
        here = [F.linear(inputs, half[0], linear.bias) for half, linear in zip(halves, linears, strict=True)]
        before = [F.linear(inputs, half[1]) for half in halves]
        return torch.cat(here, dim=1), torch.cat(before, dim=1)

    def look_up(self, table: tuple[Tensor, ...], ids: Tensor) -> Tensor:
        """Return the states for inputs of these numbers, shape (time, batch), without a matrix product."""
        gates = F.embedding(ids, table[0])
        gates[1:] += F.embedding(ids[:-1], table[1])
        return _pool(*gates.chunk(3, dim=-1))


def _pool(update_logits: Tensor, candidate_logits: Tensor, output_logits: Tensor) -> Tensor:
    dtype = torch.promote_types(update_logits.dtype, torch.float32)
    states = scan(update_logits, torch.tanh(candidate_logits.to(dtype)))
    return torch.sigmoid(output_logits.to(dtype)) * states
