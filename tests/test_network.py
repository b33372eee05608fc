"""The network against step-by-step references in float64, and its independence of padding and neighbours."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sentiment_model.config import Cell, ModelConfig, Pooling
from sentiment_model.network import RecurrentLayer, SentimentNetwork, reverse_within_lengths

CELLS: tuple[Cell, ...] = ("rnn", "lstm", "gru")
LENGTHS = torch.tensor([3, 20, 7, 1, 12])


def reference_states(network: torch.nn.RNNBase, cell: Cell, x: Tensor) -> Tensor:
    """Step through one sequence (time, features) by the textbook equations."""
    w_ih, w_hh, b_ih, b_hh = (p.detach() for p in network.parameters())
    h = c = torch.zeros(network.hidden_size, dtype=x.dtype)
    states = []
    for step in x:
        from_input, from_state = w_ih @ step + b_ih, w_hh @ h + b_hh
        if cell == "rnn":
            h = torch.tanh(from_input + from_state)
        elif cell == "lstm":
            i, f, g, o = (from_input + from_state).chunk(4)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        else:
            (xr, xz, xn), (hr, hz, hn) = from_input.chunk(3), from_state.chunk(3)
            r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
            h = (1 - z) * torch.tanh(xn + r * hn) + z * h
        states.append(h)
    return torch.stack(states)


def random_batch(vocabulary: int = 50) -> Tensor:
    ids = torch.randint(1, vocabulary, (len(LENGTHS), int(LENGTHS.max())))
    return ids.where(torch.arange(ids.shape[1]) < LENGTHS.unsqueeze(1), 0)


@pytest.mark.parametrize("cell", CELLS)
def test_layer_equals_step_by_step_reference(cell: Cell) -> None:
    torch.manual_seed(1)
    layer = RecurrentLayer(cell, 6, 5, bidirectional=True).double()
    x = torch.randn(int(LENGTHS.max()), len(LENGTHS), 6, dtype=torch.float64)
    states = layer(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        sequence = x[:length, row]
        forwards = reference_states(layer.forwards, cell, sequence)
        backwards = reference_states(layer.backwards, cell, sequence.flip(0)).flip(0)
        expected = torch.cat([forwards, backwards], dim=1)
        torch.testing.assert_close(states[:length, row], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("pooling", [("last",), ("max",), ("mean",), ("last", "max", "mean")])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_padding_and_neighbours_do_not_change_a_review(
    cell: Cell, pooling: tuple[Pooling, ...], bidirectional: bool
) -> None:
    torch.manual_seed(2)
    config = ModelConfig(
        cell=cell, layers=2, hidden_size=8, embedding_size=6, pooling=pooling, bidirectional=bidirectional
    )
    network = SentimentNetwork(50, config).eval()
    ids = random_batch()
    together = network(ids, LENGTHS)
    padded = network(torch.nn.functional.pad(ids, (0, 13)), LENGTHS)
    alone = torch.cat([network(ids[i : i + 1, :n], LENGTHS[i : i + 1]) for i, n in enumerate(LENGTHS.tolist())])
    torch.testing.assert_close(padded, together, rtol=0, atol=1e-6)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
    assert together.std() > 1e-4, "the comparison is empty if every review gets the same logit"


def test_last_pooling_takes_the_final_state_of_each_direction() -> None:
    torch.manual_seed(3)
    network = SentimentNetwork(50, ModelConfig(hidden_size=4, embedding_size=3, pooling=("last",))).double().eval()
    ids = random_batch()
    x = network.embedding(ids.t())
    rows = []
    for row, length in enumerate(LENGTHS.tolist()):
        sequence = x[:length, row].detach()
        forwards = reference_states(network.layers[0].forwards, "lstm", sequence)[-1]
        backwards = reference_states(network.layers[0].backwards, "lstm", sequence.flip(0))[-1]
        rows.append(torch.cat([forwards, backwards]))
    expected = network.classifier(torch.stack(rows)).squeeze(1).float()
    torch.testing.assert_close(network(ids, LENGTHS), expected, rtol=0, atol=1e-6)


def test_reversal_keeps_padding_and_is_its_own_inverse() -> None:
    x = torch.randn(20, 5, 2)
    reversed_once = reverse_within_lengths(x, LENGTHS)
    assert torch.equal(reverse_within_lengths(reversed_once, LENGTHS), x)
    for row, length in enumerate(LENGTHS.tolist()):
        assert torch.equal(reversed_once[:length, row], x[:length, row].flip(0))
        assert torch.equal(reversed_once[length:, row], x[length:, row])


def test_gradient_of_reversal() -> None:
    x = torch.randn(6, 3, 2, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([2, 6, 1])
    assert torch.autograd.gradcheck(lambda t: reverse_within_lengths(t, lengths), x)


def test_padding_gets_no_gradient_and_dropout_is_off_in_evaluation() -> None:
    torch.manual_seed(4)
    network = SentimentNetwork(50, ModelConfig(hidden_size=4, embedding_size=3))
    ids = random_batch()
    network(ids, LENGTHS).sum().backward()
    gradient = network.embedding.weight.grad
    assert gradient is not None
    assert torch.all(gradient[0] == 0)
    assert torch.any(gradient[1:] != 0)
    network.eval()
    first, second = (network(ids, LENGTHS) for _ in range(2))
    assert torch.equal(first, second)
    network.train()
    noisy = [network(ids, LENGTHS) for _ in range(3)]
    assert all(not torch.equal(a, b) for a, b in pairwise(noisy))
