"""What a GPU computes is what the CPU does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_language_model import counting
from test_network import CELLS, LENGTHS, layer_of, random_batch, slow_layer
from test_training import MODEL, TRAIN, VALIDATION, VOCABULARY, Recorder, assert_same_weights, run
from torch import Tensor, nn

from sentiment_model.config import Cell, ModelConfig, TrainConfig
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.networks.device import choose_device
from sentiment_model.networks.inference import autocast, predict_logits
from sentiment_model.networks.mingru import MinGRULayer
from sentiment_model.networks.network import Encoder, SentimentNetwork
from sentiment_model.networks.qrnn import QRNNLayer
from sentiment_model.training.fitting import fit_model
from sentiment_model.training.language_model import LanguageModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def layers() -> Iterator[nn.Module]:
    """Layers in float64 that map 6 features to 6, and parallel ones to more units than a program computes."""
    for cell in CELLS:
        yield layer_of(cell, 0)
        yield layer_of(cell, 1)
    for wide in (MinGRULayer(6, 150), QRNNLayer(6, 150), QRNNLayer(6, 150, window=1)):
        wide.reset_parameters()
        yield wide.double()


def test_states_and_gradients_are_those_of_the_cpu() -> None:
    torch.manual_seed(1)
    x = torch.randn(33, 5, 6, dtype=torch.float64)
    for layer in layers():

        def states_and_gradients(device: torch.device, layer: nn.Module = layer) -> list[Tensor]:
            there, inputs = layer.to(device), x.to(device, copy=True).requires_grad_()
            states = there(inputs)
            gradients = torch.autograd.grad(states.square().sum(), [inputs, *there.parameters()])
            with torch.no_grad():
                unrecorded = there(inputs)
            return [tensor.detach().cpu() for tensor in (states, unrecorded, *gradients)]

        torch.testing.assert_close(states_and_gradients(GPU), states_and_gradients(CPU), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", [MinGRULayer, QRNNLayer])
def test_a_state_that_changes_slowly_does_not_stand_still_in_bfloat16(kind: type[MinGRULayer | QRNNLayer]) -> None:
    with autocast(GPU):
        outputs = slow_layer(kind).to(GPU)(torch.randn(3000, 1, 6, device=GPU))
    torch.testing.assert_close(outputs[-1].float().cpu(), torch.full((1, 5), 0.935), rtol=0, atol=5e-3)


@pytest.mark.parametrize("cell", CELLS)
def test_logits_are_those_of_the_cpu(cell: Cell) -> None:
    """As far as bfloat16 goes, and looked up in tables or not."""
    torch.manual_seed(2)
    network = SentimentNetwork(50, ModelConfig(cell=cell, layers=2, hidden_size=128, embedding_size=64)).eval()
    ids = random_batch()
    reviews = TokenizedReviews(
        ids[torch.arange(ids.shape[1]) < LENGTHS.unsqueeze(1)].int(),
        LENGTHS.cumsum(0) - LENGTHS,
        LENGTHS,
        torch.zeros(len(LENGTHS)),
    )
    many = reviews.join(reviews).join(reviews)
    with torch.no_grad():
        expected = network(ids, LENGTHS)
    network.to(GPU)
    torch.testing.assert_close(predict_logits(network, reviews, 512, GPU), expected, rtol=0, atol=5e-3)
    torch.testing.assert_close(predict_logits(network, many, 512, GPU), expected.repeat(3), rtol=0, atol=5e-3)


@pytest.mark.parametrize("cell", ["lstm", "mingru", "qrnn"])
def test_training_learns_and_resumes_to_the_same_weights(cell: Cell, tmp_path: Path) -> None:
    model = MODEL.model_copy(update={"cell": cell})
    whole = run(tmp_path / "whole", model=model, device=GPU)
    assert whole.history[whole.best_epoch].validation_accuracy > 0.8
    with pytest.raises(InterruptedError):
        run(tmp_path / "stopped", observer=Recorder(stop_at=30), model=model, device=GPU)
    resumed = run(tmp_path / "stopped", model=model, device=GPU)
    assert {tensor.device.type for tensor in whole.weights.values()} == {"cpu"}
    assert_same_weights(resumed, whole)


def test_the_loss_of_pretraining_is_that_of_the_cpu() -> None:
    torch.manual_seed(3)
    reviews = counting(40, 0)
    encoder = Encoder(30, ModelConfig(cell="qrnn", layers=2, hidden_size=16, embedding_size=12))
    model = LanguageModel(encoder, torch.bincount(reviews.values, minlength=30)).eval()
    ids, lengths = reviews.batch(torch.arange(40), 64)
    with torch.no_grad():
        expected = model(ids, lengths)
        actual = model.to(GPU)(ids.to(GPU), lengths.to(GPU))
    # All of so few tokens are among the drawn ones, so that what is drawn makes no difference.
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-3, atol=0)


def test_every_phase_runs(tmp_path: Path) -> None:
    fitted = fit_model(
        TRAIN,
        VALIDATION,
        TRAIN,
        VOCABULARY,
        MODEL.model_copy(update={"cell": "qrnn", "layers": 2, "ngrams": 2}),
        TrainConfig(epochs=3, tokens_per_batch=512, learning_rate=1e-2, pretraining_tokens=60_000, distillation=True),
        device=choose_device("auto"),
        checkpoint=tmp_path / "c.safetensors",
    )
    assert fitted
    assert ((fitted.probabilities[:, 1] > 0.5) == (VALIDATION.labels > 0.5)).double().mean() > 0.8
