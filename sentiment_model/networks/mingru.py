"""The minimal gated recurrent unit of Feng et al. (2024), "Were RNNs All We Needed?".

z[t] = sigmoid(W_z x[t] + b_z)
c[t] = W_c x[t] + b_c
h[t] = (1 - z[t]) * h[t-1] + z[t] * c[t]
"""

from torch import Tensor, nn
from torch.nn import functional as F

from sentiment_model.networks.scan import scan


class MinGRULayer(nn.Module):
    """One layer of minimal gated recurrent units: (time, batch, input_size) to (time, batch, hidden_size)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.update = nn.Linear(input_size, hidden_size)
        self.candidate = nn.Linear(input_size, hidden_size)

    def reset_parameters(self) -> None:
        """Initialise: a state is a mean over about the last four steps."""
        for linear, bias in ((self.update, -1.0), (self.candidate, 0.0)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.constant_(linear.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the states of every step, at least in float32."""
        return scan(self.update(x), self.candidate(x))

    def tabulate(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what :meth:`look_up` needs to know of each of the inputs, shape (inputs, input_size)."""
        return self.update(inputs), self.candidate(inputs)

    def look_up(self, table: tuple[Tensor, ...], ids: Tensor) -> Tensor:
        """Return the states for inputs of these numbers, shape (time, batch), without a matrix product."""
        update, candidate = table
        return scan(F.embedding(ids, update), F.embedding(ids, candidate))
