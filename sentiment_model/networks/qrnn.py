"""The quasi-recurrent network of Bradbury et al. (2017), whose gates see an input and may see the one before it.

    z[t] = sigmoid(W_z [x[t], x[t-1]] + b_z)
    o[t] = sigmoid(W_o [x[t], x[t-1]] + b_o)
    c[t] = tanh(W_c [x[t], x[t-1]] + b_c)
    s[t] = (1 - z[t]) * s[t-1] + z[t] * c[t]
    h[t] = o[t] * s[t]

This is their fo-pooling, with a filter two inputs wide; or one input wide, where the inputs are the outputs of another
such layer, which know of those before: Merity et al. (2018), "An Analysis of Neural Language Modeling at Multiple
Scales". The gates of all steps are one matrix product; only the states s go from step to step, element by element.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentiment_model.networks.arithmetic import has_loops
from sentiment_model.networks.scan import output_gated_scan


class QRNNLayer(nn.Module):
    """One quasi-recurrent layer: (time, batch, input_size) to (time, batch, hidden_size).

    Args:
        input_size: width of the inputs.
        hidden_size: width of the outputs.
        window: how many inputs the gates of a step see, 1 or 2.
    """

    def __init__(self, input_size: int, hidden_size: int, window: Literal[1, 2] = 2) -> None:
        super().__init__()
        self.gates = nn.Linear(window * input_size, 3 * hidden_size)  # z, o and c, in this order

    def reset_parameters(self) -> None:
        """Initialise: a state is a mean over about the last four steps."""
        for weight, bias, value in zip(
            self.gates.weight.chunk(3), self.gates.bias.chunk(3), (-1.0, 0.0, 0.0), strict=True
        ):
            nn.init.xavier_uniform_(weight)
            nn.init.constant_(bias, value)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs h of every step, in the precision of the matrix product; states are at least float32."""
        if self.gates.in_features > x.shape[2]:
            x = torch.cat([x, _before(x)], dim=-1)
        if has_loops(x):  # which add the bias, and its gradient, at no cost
            return output_gated_scan(F.linear(x, self.gates.weight), self.gates.bias)
        return output_gated_scan(self.gates(x))

    def tabulate(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what :meth:`look_up` needs to know of each of the inputs, shape (inputs, input_size); window is 2."""
        here, before = self.gates.weight.chunk(2, dim=1)
        return F.linear(inputs, here, self.gates.bias), F.linear(inputs, before)

    def look_up(self, table: tuple[Tensor, ...], ids: Tensor) -> Tensor:
        """Return the outputs for inputs of these numbers, shape (time, batch), without a matrix product."""
        here, before = table
        logits = F.embedding(ids, here)
        logits[1:] += F.embedding(ids[:-1], before)
        return output_gated_scan(logits)


def _before(x: Tensor) -> Tensor:
    """Return the input before each, zeros before the first."""
    return F.pad(x, (0, 0, 0, 0, 1, 0))[:-1]
