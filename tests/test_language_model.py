"""Pretraining: the loss and its gradient, what is predicted from what, and that predicting is learned."""

from pathlib import Path

import polars as pl
import pytest
import torch
import torch.nn.functional as F

from sentiment_model.config import Cell, ModelConfig, TrainConfig
from sentiment_model.networks.batching import TokenizedReviews, plan_batches
from sentiment_model.networks.network import Encoder
from sentiment_model.training import language_model
from sentiment_model.training.history import EpochMetrics, PretrainingMetrics
from sentiment_model.training.language_model import LanguageModel, _SampledSoftmax, pretrain

CPU = torch.device("cpu")
WORDS = 30
MODEL = ModelConfig(hidden_size=16, embedding_size=12, word_dropout=0, embedding_dropout=0, dropout=0)
CONFIG = TrainConfig(pretraining_tokens=80_000, tokens_per_batch=256, checkpoint_seconds=0)


class Recorder:
    def __init__(self, stop_at: int | None = None) -> None:
        self.steps: list[int] = []
        self.epochs: list[PretrainingMetrics] = []
        self.stop_at = stop_at

    def on_step(self, step: int, total_steps: int, loss: float) -> None:
        self.steps.append(step)
        if step == self.stop_at:
            raise InterruptedError

    def on_epoch(self, metrics: PretrainingMetrics) -> None:
        assert not isinstance(metrics, EpochMetrics), "nothing is classified"
        self.epochs.append(metrics)


def counting(reviews: int, seed: int) -> TokenizedReviews:
    """Reviews that count up from somewhere, in steps of one to three: the next token is one of three."""
    generator = torch.Generator().manual_seed(seed)
    ids = [
        (2 + torch.randint(1, 4, (length,), generator=generator).cumsum(0) % (WORDS - 2)).tolist()
        for length in torch.randint(2, 40, (reviews,), generator=generator).tolist()
    ]
    return TokenizedReviews.from_frame(pl.DataFrame({"ids": ids}, schema={"ids": pl.List(pl.Int32)}))


def test_the_sampled_softmax_and_its_gradient_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    rows, classes, width = 1100, 50, 4  # more rows than are computed at a time
    x, vectors = (torch.randn(n, width, dtype=torch.float64, requires_grad=True) for n in (rows, classes))
    bias = torch.randn(classes, dtype=torch.float64)
    drawn = torch.randperm(classes)[:20].sort().values
    right = torch.randint(0, classes, (rows,))
    places = torch.full((classes,), -1)
    places[drawn] = torch.arange(len(drawn))
    drawn_bias = bias[drawn] + 0.5

    loss = _SampledSoftmax.apply(x, vectors[right], vectors[drawn], bias[right], drawn_bias, places[right])
    right_logits = (x * vectors[right]).sum(1) + bias[right]
    others = (x @ vectors[drawn].t() + drawn_bias).masked_fill(drawn == right.unsqueeze(1), -torch.inf)
    expected = F.cross_entropy(
        torch.cat([right_logits.unsqueeze(1), others], 1), torch.zeros_like(right), reduction="sum"
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for got, wanted in zip(
        torch.autograd.grad(2 * loss, [x, vectors]), torch.autograd.grad(2 * expected, [x, vectors]), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cell", ["lstm", "qrnn"])
def test_the_loss_is_that_of_the_whole_softmax_where_every_token_is_drawn(cell: Cell) -> None:
    torch.manual_seed(1)
    encoder = Encoder(WORDS, MODEL.model_copy(update={"cell": cell})).double()
    model = LanguageModel(encoder, torch.full((WORDS,), 10)).double()
    lengths = torch.tensor([7, 1, 4])
    ids = torch.randint(1, WORDS, (3, 9)).where(torch.arange(9) < lengths.unsqueeze(1), 0)
    expected = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(lengths.tolist()):
        own = ids[row : row + 1, :length]
        for back, direction, order in zip(model.back, encoder.directions, (own, own.flip(1)), strict=True):
            states = direction(encoder.embedding(order.t()))[:-1, 0]
            # Padding is never drawn, and all other tokens are equally frequent.
            logits = (back(states) @ encoder.embedding.weight.t())[:, 1:] + model.log_frequency[1:]
            expected = expected + F.cross_entropy(logits, order[0, 1:] - 1, reduction="sum")
    torch.testing.assert_close(model(ids, lengths), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("cell", [pytest.param("lstm", marks=pytest.mark.slow), "mingru", "qrnn"])
def test_it_learns_to_count_in_both_directions(cell: Cell, tmp_path: Path) -> None:
    recorder = Recorder()
    model = MODEL.model_copy(update={"cell": cell})
    options = {"device": CPU, "checkpoint": tmp_path / "c.safetensors"}
    reviews = counting(600, 0)
    encoder = pretrain(reviews, counting(100, 1), WORDS, model, CONFIG, observer=recorder, **options)  # type: ignore[arg-type]
    assert len(recorder.epochs) == round(CONFIG.pretraining_tokens / reviews.tokens) > 4
    # One of 28 at first, 3.3 nats; at best one of three, 1.1 nats.
    assert recorder.epochs[0].validation_loss > recorder.epochs[-1].validation_loss
    assert 1.0 < recorder.epochs[-1].validation_loss < 1.6
    assert encoder.keys() == Encoder(WORDS, model).state_dict().keys()


@pytest.mark.slow
def test_stopped_it_ends_the_same(tmp_path: Path) -> None:
    def run(name: str, observer: Recorder | None = None) -> dict[str, torch.Tensor]:
        path = tmp_path / f"{name}.safetensors"
        reviews = counting(200, 0), counting(50, 1)
        return pretrain(*reviews, WORDS, MODEL, CONFIG, device=CPU, checkpoint=path, observer=observer)

    whole = run("whole")
    with pytest.raises(InterruptedError):
        run("stopped", Recorder(stop_at=15))
    resumed = Recorder()
    again = run("stopped", resumed)
    assert resumed.steps[0] == 15
    assert all(again[name].equal(tensor) for name, tensor in whole.items())


def test_a_budget_below_one_pass_takes_a_part_of_the_reviews(tmp_path: Path) -> None:
    reviews, recorder = counting(400, 0), Recorder()
    config = CONFIG.model_copy(update={"pretraining_tokens": reviews.tokens // 4})
    path = tmp_path / "c.safetensors"
    pretrain(reviews, counting(50, 1), WORDS, MODEL, config, device=CPU, checkpoint=path, observer=recorder)
    part = reviews.take(torch.arange(0, 400, 4))
    assert len(recorder.epochs) == 1
    assert len(recorder.steps) == len(plan_batches(part.lengths, config.tokens_per_batch))


def test_a_large_budget_takes_larger_batches_in_place_of_more_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews, recorder = counting(400, 0), Recorder()
    config = CONFIG.model_copy(update={"pretraining_tokens": 2 * reviews.tokens})
    monkeypatch.setattr(language_model, "_MOST_STEPS", 10)
    path = tmp_path / "c.safetensors"
    pretrain(reviews, counting(50, 1), WORDS, MODEL, config, device=CPU, checkpoint=path, observer=recorder)
    assert len(recorder.epochs) == 2
    assert len(recorder.steps) == 2 * len(plan_batches(reviews.lengths, config.pretraining_tokens // 10))
    assert len(plan_batches(reviews.lengths, config.tokens_per_batch)) > 20


def test_many_passes_drop_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews, seen = counting(50, 0), list[float]()

    class Watched(Encoder):
        def __init__(self, vocabulary_size: int, config: ModelConfig) -> None:
            super().__init__(vocabulary_size, config)
            assert config.dropout == config.embedding_dropout
            seen.append(config.dropout)

    monkeypatch.setattr(language_model, "Encoder", Watched)
    for passes in (1, 15):
        config = CONFIG.model_copy(update={"pretraining_tokens": passes * reviews.tokens})
        pretrain(
            reviews, counting(9, 1), WORDS, MODEL, config, device=CPU, checkpoint=tmp_path / f"{passes}.safetensors"
        )
    assert seen == [0.1, 0.2]
