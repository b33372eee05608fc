"""Self-training: what the second network learns from, which one is kept, and that it resumes."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from test_training_job import CONFIG, MODEL, split

from sentiment_model.batching import TokenizedReviews, plan_batches
from sentiment_model.config import ModelConfig
from sentiment_model.errors import QualityError
from sentiment_model.fitting import FittedModel, checkpoints, fit_model
from sentiment_model.network import SentimentModel
from sentiment_model.training import EpochMetrics, Observer, PretrainingMetrics, train

CPU = torch.device("cpu")
WORDS = 40
TRAIN, VALIDATION, MORE = (
    TokenizedReviews.from_frame(split(count, seed)) for count, seed in ((60, 0), (100, 1), (400, 2))
)
NO_LABELS = replace(MORE, labels=torch.full_like(MORE.labels, torch.nan))


class Recorder:
    def __init__(self, stop_at: int | None = None) -> None:
        self.steps: list[int] = []
        self.epochs: list[EpochMetrics] = []
        self.pretraining: list[PretrainingMetrics] = []
        self.stop_at = stop_at

    def on_step(self, step: int, total_steps: int, loss: float) -> None:
        assert step <= total_steps
        self.steps.append(step)
        if step == self.stop_at:
            raise KeyboardInterrupt

    def on_pretraining_epoch(self, metrics: PretrainingMetrics) -> None:
        self.pretraining.append(metrics)

    def on_epoch(self, metrics: EpochMetrics) -> None:
        self.epochs.append(metrics)


def fit(
    folder: Path,
    unlabelled: TokenizedReviews | None,
    observer: Observer | None = None,
    model: ModelConfig = MODEL,
    **changes: int,
) -> FittedModel:
    folder.mkdir(exist_ok=True)
    config = CONFIG.model_copy(update={"epochs": 4, "checkpoint_seconds": 0.0, "self_training": True, **changes})
    fitted = fit_model(
        TRAIN,
        VALIDATION,
        unlabelled,
        WORDS,
        model,
        config,
        device=CPU,
        checkpoint=folder / "training.safetensors",
        observer=observer,
    )
    assert fitted is not None
    return fitted


def accuracy(fitted: FittedModel) -> float:
    model = SentimentModel(WORDS, MODEL)
    model.load_state_dict(fitted.weights)
    ids, lengths = MORE.batch(torch.arange(len(MORE)), 64)
    recurrent = model.eval()(ids, lengths)[:, 0]
    return ((recurrent > 0) == (MORE.labels > 0.5)).double().mean().item()


def test_unlabelled_reviews_teach_the_network_and_their_labels_are_not_read(tmp_path: Path) -> None:
    recorder = Recorder()
    without, taught = fit(tmp_path / "without", None), fit(tmp_path / "taught", NO_LABELS, recorder)
    assert accuracy(taught) > accuracy(without) + 0.05
    wrong = fit(tmp_path / "wrong", replace(MORE, labels=1 - MORE.labels))
    assert all(wrong.weights[name].equal(tensor) for name, tensor in taught.weights.items())
    # Steps and epochs count on, and the first network's are those of a training without the second.
    assert recorder.steps == list(range(1, len(recorder.steps) + 1))
    assert [metrics.epoch for metrics in recorder.epochs] == list(range(8))
    assert [metrics.epoch for metrics in taught.history] == list(range(8))
    losses = [metrics.validation_loss for metrics in taught.history]
    assert losses[:4] == [metrics.validation_loss for metrics in without.history]
    assert min(losses[4:]) < min(losses[:4])


def test_a_second_network_that_is_worse_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_badly(reviews: TokenizedReviews, *arguments: object, **options: object) -> object:
        result = train(reviews, *arguments, **options)  # type: ignore[arg-type]
        if len(reviews) == len(TRAIN):
            return result
        weights = {name: 0 * tensor for name, tensor in result.weights.items()}
        return replace(result, validation_logits=torch.zeros(len(VALIDATION)), weights=weights)

    alone = MODEL.model_copy(update={"ngrams": 0})
    without = fit(tmp_path / "without", None, model=alone)
    monkeypatch.setattr("sentiment_model.fitting.train", train_badly)
    kept = fit(tmp_path / "kept", NO_LABELS, model=alone)
    assert all(kept.weights[name].equal(tensor) for name, tensor in without.weights.items())
    assert kept.temperature == without.temperature
    assert len(kept.history) == 8


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_stopped_in_either_training_it_ends_the_same(tmp_path: Path, share: float) -> None:
    whole = Recorder()
    uninterrupted = fit(tmp_path / "whole", NO_LABELS, whole)
    stop_at = round(share * len(whole.steps))
    stopped = Recorder(stop_at)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", NO_LABELS, stopped)
    phases = [path.stem for path in checkpoints(tmp_path / "stopped" / "training.safetensors")]
    assert phases == ["training-first", *(["training-second"] if share == 0.5 else [])]
    resumed = Recorder()
    again = fit(tmp_path / "stopped", NO_LABELS, resumed)
    assert resumed.steps[0] >= stop_at
    assert resumed.steps[-1] == whole.steps[-1]
    assert all(again.weights[name].equal(tensor) for name, tensor in uninterrupted.weights.items())
    assert again.temperature == uninterrupted.temperature
    timeless = [[replace(m, seconds=0, tokens_per_second=0) for m in of.history] for of in (again, uninterrupted)]
    assert timeless[0] == timeless[1]


def test_without_unlabelled_reviews_there_is_no_second_network(tmp_path: Path) -> None:
    nothing = TokenizedReviews.from_frame(pl.DataFrame(schema={"ids": pl.List(pl.Int32), "label": pl.Int8}))
    assert len(fit(tmp_path, nothing).history) == 4
    assert len(checkpoints(tmp_path / "training.safetensors")) == 1


def test_pretraining_comes_first_and_reads_all_reviews(tmp_path: Path) -> None:
    recorder = Recorder()
    tokens = len(TRAIN.values) + len(MORE.values)
    changes = {"pretraining_tokens": 2 * tokens, "self_training": 0}
    fitted = fit(tmp_path / "pretrained", NO_LABELS, recorder, **changes)
    batches = len(plan_batches(torch.cat([TRAIN.lengths, MORE.lengths]), CONFIG.tokens_per_batch))
    assert [metrics.epoch for metrics in recorder.pretraining] == [0, 1]
    assert recorder.steps == list(range(1, len(recorder.steps) + 1))
    assert len(recorder.steps) == 2 * batches + 4 * len(plan_batches(TRAIN.lengths, CONFIG.tokens_per_batch))
    assert [metrics.epoch for metrics in fitted.history] == list(range(4))
    fresh = fit(tmp_path / "fresh", None)
    assert fitted.history[0].train_loss != fresh.history[0].train_loss
    # Stopped in the first network, the second start pretrains no more.
    stopped, again = Recorder(stop_at=2 * batches + 3), Recorder()
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", NO_LABELS, stopped, **changes)
    resumed = fit(tmp_path / "stopped", NO_LABELS, again, **changes)
    assert again.pretraining == []
    assert again.steps[0] == 2 * batches + 3
    assert all(resumed.weights[name].equal(tensor) for name, tensor in fitted.weights.items())


def test_what_cannot_be_learned_from_is_refused_before_pretraining(tmp_path: Path) -> None:
    nothing = VALIDATION.take(torch.arange(0))
    config = CONFIG.model_copy(update={"pretraining_tokens": 1000})
    with pytest.raises(QualityError, match="the validation split is empty"):
        fit_model(TRAIN, nothing, None, WORDS, MODEL, config, device=CPU, checkpoint=tmp_path / "c.safetensors")
