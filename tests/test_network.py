"""The network against step-by-step references in float64, and its independence of padding and neighbours."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from sentiment_model.config import Cell, ModelConfig, Pooling
from sentiment_model.networks import arithmetic
from sentiment_model.networks import scan as module
from sentiment_model.networks.mingru import MinGRULayer
from sentiment_model.networks.network import (
    Direction,
    SentimentNetwork,
    SequenceDropout,
    StandardLayer,
    reverse_within_lengths,
)
from sentiment_model.networks.qrnn import QRNNLayer
from sentiment_model.networks.scan import output_gated_scan, scan

CELLS: tuple[Cell, ...] = ("rnn", "lstm", "gru", "mingru", "qrnn")
LENGTHS = torch.tensor([3, 20, 7, 1, 12])


def reference_states(layer: nn.Module, x: Tensor) -> Tensor:
    """Step through one sequence (time, features) by the textbook equations."""
    if isinstance(layer, StandardLayer):
        return _step(layer.recurrent, x)
    return (_step_mingru if isinstance(layer, MinGRULayer) else _step_qrnn)(x, *layer.parameters())


def _step_mingru(x: Tensor, w_z: Tensor, b_z: Tensor, w_c: Tensor, b_c: Tensor) -> Tensor:
    h = torch.zeros_like(b_z)
    states = []
    for step in x:
        z = torch.sigmoid(w_z @ step + b_z)
        h = (1 - z) * h + z * (w_c @ step + b_c)
        states.append(h)
    return torch.stack(states)


def _step_qrnn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    s, before = torch.zeros(len(bias) // 3, dtype=x.dtype), torch.zeros_like(x[0])
    states = []
    for step in x:
        window = torch.cat([step, before])[: weight.shape[1]]
        z, o, c = (weight @ window + bias).chunk(3)
        s = (1 - torch.sigmoid(z)) * s + torch.sigmoid(z) * torch.tanh(c)
        states.append(torch.sigmoid(o) * s)
        before = step
    return torch.stack(states)


def _step(network: torch.nn.RNNBase, x: Tensor) -> Tensor:
    w_ih, w_hh, b_ih, b_hh = network.parameters()
    h = c = torch.zeros(network.hidden_size, dtype=x.dtype)
    states = []
    for step in x:
        from_input, from_state = w_ih @ step + b_ih, w_hh @ h + b_hh
        if isinstance(network, torch.nn.RNN):
            h = torch.tanh(from_input + from_state)
        elif isinstance(network, torch.nn.LSTM):
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


def layer_of(cell: Cell, depth: int) -> nn.Module:
    """A layer in float64 that maps 6 features to 6, the first or the one above it."""
    config = ModelConfig(cell=cell, layers=2, hidden_size=6, embedding_size=6)
    direction = SentimentNetwork(2, config).double().encoder.directions[0]
    assert isinstance(direction, Direction)
    return direction.layers[depth]


@pytest.fixture(params=[1, 2, 7])
def _threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, some that share the five sequences out unequally, and more than there are sequences."""
    monkeypatch.setattr(arithmetic, "_WORTH_THREADS", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("depth", [0, 1])
def test_states_and_gradients_equal_a_step_by_step_reference(cell: Cell, depth: int) -> None:
    torch.manual_seed(1)
    layer = layer_of(cell, depth)
    x = torch.randn(int(LENGTHS.max()), len(LENGTHS), 6, dtype=torch.float64, requires_grad=True)
    states = layer(x)
    weights = torch.randn_like(states)
    total = reference_total = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(LENGTHS.tolist()):
        expected = reference_states(layer, x[:length, row])
        torch.testing.assert_close(states[:length, row], expected, rtol=1e-10, atol=1e-12)
        total = total + (states * weights)[:length, row].sum()
        reference_total = reference_total + (expected * weights[:length, row]).sum()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), states, rtol=1e-10, atol=1e-12)
    inputs = [x, *layer.parameters()]
    gradients = zip(torch.autograd.grad(total, inputs), torch.autograd.grad(reference_total, inputs), strict=True)
    for gradient, expected in gradients:
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cell", ["mingru", "qrnn"])
@pytest.mark.parametrize("depth", [0, 1])
def test_gradient_of_parallel_cells(cell: Cell, depth: int) -> None:
    torch.manual_seed(5)
    x = torch.randn(7, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer_of(cell, depth), x)


@pytest.mark.parametrize(("loop", "inputs"), [(scan, 2), (output_gated_scan, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_loops_and_steps_compute_the_same(
    loop: Callable[..., Tensor], inputs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps in PyTorch are what runs on a GPU without Triton; the device is what they are chosen by."""
    torch.manual_seed(9)
    tensors = [(4 * torch.randn(40, 3, 12)).to(dtype).requires_grad_() for _ in range(inputs)]
    compiled = loop(*tensors)
    weights = torch.randn_like(compiled)
    gradients = torch.autograd.grad(compiled, tensors, weights)
    monkeypatch.setattr(module, "has_loops", lambda _: False)
    stepped = loop(*tensors)
    assert compiled.dtype == stepped.dtype
    close = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(compiled, stepped, rtol=close, atol=close)
    torch.testing.assert_close(gradients, torch.autograd.grad(stepped, tensors, weights), rtol=close, atol=close)


@pytest.mark.parametrize("loops", [True, False])
def test_a_bias_is_added_to_the_logits(loops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_loops", lambda _: loops)
    torch.manual_seed(10)
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((9, 3, 12), (12,))]
    found, expected = output_gated_scan(*inputs), output_gated_scan(inputs[0] + inputs[1])
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    gradients = (torch.autograd.grad(outputs, inputs, weights) for outputs in (found, expected))
    torch.testing.assert_close(next(gradients), next(gradients))


def test_gates_of_qrnn_see_the_input_before_in_the_first_layer_alone() -> None:
    for depth, before in enumerate([True, False]):
        layer = layer_of("qrnn", depth)
        assert isinstance(layer, QRNNLayer)
        torch.nn.init.normal_(layer.gates.weight)
        with torch.no_grad():
            layer.gates.bias.view(3, -1)[0] = 99.0  # a state is its candidate, and knows of no earlier one
        x = torch.randn(3, 1, 6, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(layer(x)[2].sum(), x)
        assert gradient.flatten(1).any(dim=1).tolist() == [False, before, True]


@pytest.mark.parametrize("kind", [MinGRULayer, QRNNLayer])
def test_parallel_cells_keep_float32_states_under_autocast(kind: Callable[[int, int], nn.Module]) -> None:
    torch.manual_seed(6)
    layer = kind(6, 5)
    layer.reset_parameters()  # type: ignore[operator]
    x = torch.randn(3000, 1, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = layer(x)
    # What QRNN returns is no state.
    assert outputs.dtype == (torch.float32 if kind is MinGRULayer else torch.bfloat16)
    outputs.sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in layer.parameters())
    update, candidate = (torch.randn(3000, 1, 5).bfloat16() for _ in range(2))
    torch.testing.assert_close(
        scan(update, candidate).double(), scan(update.double(), candidate.double()), rtol=0, atol=1e-5
    )


def slow_layer(kind: Callable[[int, int], nn.Module]) -> nn.Module:
    """A layer of 6 features and 5 units whose states come nearer to 1 by a thousandth at a step."""
    layer = kind(6, 5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        if isinstance(layer, QRNNLayer):
            layer.gates.bias.copy_(torch.tensor([-7.0, 8.0, 8.0]).repeat_interleave(5))
        elif isinstance(layer, MinGRULayer):
            layer.update.bias.fill_(-7.0)
            layer.candidate.bias.fill_(1.0)
    return layer


@pytest.mark.parametrize("kind", [MinGRULayer, QRNNLayer])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_state_that_changes_slowly_does_not_stand_still_under_autocast(
    kind: Callable[[int, int], nn.Module], recorded: bool
) -> None:
    """In bfloat16 a state that changes by a thousandth at a step stands still on its way."""
    layer = slow_layer(kind)
    x = torch.randn(3000, 1, 6)
    with torch.set_grad_enabled(recorded), torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = layer(x)
    torch.testing.assert_close(outputs[-1].float(), torch.full((1, 5), 0.935), rtol=0, atol=5e-3)


def test_dropout_is_the_same_at_every_step_of_a_sequence() -> None:
    torch.manual_seed(7)
    x = torch.ones(2, 9, 4, 50)
    dropout = SequenceDropout(0.4)
    dropped = dropout(x)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert len(dropped[:, 0].flatten(0, 1).unique(dim=0)) == 8, "each sequence has a mask of its own"
    torch.testing.assert_close(dropped.mean(), torch.tensor(1.0), rtol=0, atol=0.15)
    assert dropout.eval()(x) is x


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


@pytest.mark.parametrize("cell", CELLS)
def test_last_pooling_takes_the_final_state_of_each_direction(cell: Cell) -> None:
    torch.manual_seed(3)
    config = ModelConfig(cell=cell, hidden_size=4, embedding_size=3, pooling=("last",))
    network = SentimentNetwork(50, config).double().eval()
    ids = random_batch()
    rows = []
    for row, length in enumerate(LENGTHS.tolist()):
        x = network.encoder.embedding(ids[row, :length])
        last = [
            reference_states(direction.layers[0], order)[-1]  # type: ignore[index, union-attr]
            for direction, order in zip(network.encoder.directions, (x, x.flip(0)), strict=True)
        ]
        rows.append(torch.cat(last))
    expected = network.classifier(torch.stack(rows)).float()
    torch.testing.assert_close(network(ids, LENGTHS), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", ["mingru", "qrnn"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_table_of_all_tokens_changes_no_logit(cell: Cell, layers: int, bidirectional: bool) -> None:
    torch.manual_seed(8)
    config = ModelConfig(cell=cell, layers=layers, hidden_size=8, embedding_size=6, bidirectional=bidirectional)
    network = SentimentNetwork(50, config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-1.0, 1.0)  # biases and the embedding of padding included
        ids = random_batch()
        tables = network.encoder.tabulate()
        expected = network(ids, LENGTHS)
        assert tables is not None
        for _ in range(2):
            torch.testing.assert_close(network(ids, LENGTHS, tables), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_cells_that_need_their_last_state_have_no_table(cell: Cell) -> None:
    assert SentimentNetwork(50, ModelConfig(cell=cell)).encoder.tabulate() is None


def test_reversal_keeps_padding_and_is_its_own_inverse() -> None:
    ids = random_batch()
    reversed_once = reverse_within_lengths(ids, LENGTHS)
    assert torch.equal(reverse_within_lengths(reversed_once, LENGTHS), ids)
    for row, length in enumerate(LENGTHS.tolist()):
        assert torch.equal(reversed_once[row, :length], ids[row, :length].flip(0))
        assert torch.equal(reversed_once[row, length:], ids[row, length:])


@pytest.mark.parametrize("cell", CELLS)
def test_padding_gets_no_gradient_and_dropout_is_off_in_evaluation(cell: Cell) -> None:
    torch.manual_seed(4)
    network = SentimentNetwork(50, ModelConfig(cell=cell, hidden_size=4, embedding_size=3))
    ids = random_batch()
    network(ids, LENGTHS).sum().backward()
    gradient = network.encoder.embedding.weight.grad
    assert gradient is not None
    assert torch.all(gradient[0] == 0)
    assert torch.any(gradient[1:] != 0)
    network.eval()
    first, second = (network(ids, LENGTHS) for _ in range(2))
    assert torch.equal(first, second)
    network.train()
    noisy = [network(ids, LENGTHS) for _ in range(3)]
    assert all(not torch.equal(a, b) for a, b in pairwise(noisy))
