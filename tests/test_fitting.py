"""Distillation: what the student learns from, what it is, and that it resumes; pretraining before either."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from test_training_job import CONFIG, MODEL, split

from sentiment_model.config import ModelConfig
from sentiment_model.errors import QualityError
from sentiment_model.networks.batching import TokenizedReviews, plan_batches
from sentiment_model.networks.network import SentimentNetwork
from sentiment_model.networks.outputs import logits_of
from sentiment_model.training.calibration import fit_temperature
from sentiment_model.training.classification import TrainingResult, train
from sentiment_model.training.fitting import FittedModel, PhaseObserver, checkpoints, fit_model, student_of
from sentiment_model.training.history import Phase, PretrainingMetrics

CPU = torch.device("cpu")
WORDS = 40
TRAIN, VALIDATION, MORE = (
    TokenizedReviews.from_frame(split(count, seed)) for count, seed in ((60, 0), (100, 1), (400, 2))
)
NO_LABELS = replace(MORE, labels=torch.full_like(MORE.labels, torch.nan))


class Recorder:
    def __init__(self, stop_at: tuple[Phase, int] | None = None) -> None:
        self.steps: list[tuple[Phase, int]] = []
        self.epochs: dict[Phase, list[PretrainingMetrics]] = defaultdict(list)
        self.stop_at = stop_at

    def on_step(self, phase: Phase, step: int, total_steps: int, loss: float | None) -> None:
        assert step <= total_steps
        assert (loss is None) == (phase == "answers")
        self.steps.append((phase, step))
        if (phase, step) == self.stop_at:
            raise KeyboardInterrupt

    def on_epoch(self, phase: Phase, metrics: PretrainingMetrics) -> None:
        self.epochs[phase].append(metrics)


def fit(
    folder: Path,
    unlabelled: TokenizedReviews | None,
    observer: PhaseObserver | None = None,
    **changes: int,
) -> FittedModel:
    folder.mkdir(exist_ok=True)
    config = CONFIG.model_copy(update={"epochs": 4, "distillation": True, **changes})
    fitted = fit_model(
        TRAIN,
        VALIDATION,
        unlabelled,
        WORDS,
        MODEL,
        config,
        device=CPU,
        checkpoint=folder / "training.safetensors",
        observer=observer,
    )
    assert fitted is not None
    return fitted


def test_labels_of_unlabelled_reviews_are_not_read(tmp_path: Path) -> None:
    without = fit(tmp_path / "without", NO_LABELS, epochs=1)
    wrong = fit(tmp_path / "wrong", replace(MORE, labels=1 - MORE.labels), epochs=1)
    assert all(wrong.weights[name].equal(tensor) for name, tensor in without.weights.items())


def test_a_student_is_taught_with_unlabelled_reviews(tmp_path: Path) -> None:
    recorder = Recorder()
    without = fit(tmp_path / "without", None, epochs=12)
    taught = fit(tmp_path / "taught", NO_LABELS, recorder, epochs=12)
    # In one epoch it learns from the many reviews what the few do not show it.
    assert taught.history[0].validation_loss < 0.7 * without.history[0].validation_loss
    # Steps and epochs are counted in each phase.
    numbers = [[step for of, step in recorder.steps if of == phase] for phase in ("teacher", "answers", "training")]
    assert all(numbers)
    assert numbers == [list(range(1, len(steps) + 1)) for steps in numbers]
    teacher, student = recorder.epochs["teacher"], recorder.epochs["training"]
    assert teacher[0].epoch == student[0].epoch == 0
    assert taught.history == student
    alone = fit(tmp_path / "alone", None, epochs=12, distillation=0)
    assert [metrics.validation_loss for metrics in alone.history] == [metrics.validation_loss for metrics in teacher]


def test_a_student_takes_over_the_embeddings_and_learns_the_probabilities_of_its_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[TokenizedReviews, ModelConfig, dict[str, torch.Tensor], TrainingResult]] = []

    def recorded(reviews: TokenizedReviews, *arguments: Any, **options: Any) -> TrainingResult:
        result = train(reviews, *arguments, **options)
        calls.append((reviews, arguments[2], dict(options["pretrained"]), result))
        return result

    monkeypatch.setattr("sentiment_model.training.fitting.train", recorded)
    fitted = fit(tmp_path / "taught", NO_LABELS, epochs=12)
    (labelled, deep, nothing, teacher), (taught, small, start, _) = calls
    assert labelled is TRAIN
    assert nothing == {}
    assert (deep, small) == (MODEL, student_of(MODEL))
    assert fitted.network == small
    assert (small.cell, small.layers, small.embedding_size) == ("mingru", 1, MODEL.embedding_size)
    embedding = teacher.weights["encoder.embedding.weight"]
    assert torch.equal(start["embedding.weight"], embedding)
    assert torch.equal(fitted.weights["recurrent.encoder.embedding.weight"], embedding)
    both = TRAIN.join(MORE)
    both = both.join(both.halves())
    assert torch.equal(taught.values, both.values)
    assert torch.equal(taught.starts, both.starts)
    assert torch.equal(taught.lengths, both.lengths)
    network = SentimentNetwork(WORDS, MODEL).eval()
    network.load_state_dict(teacher.weights)
    with torch.no_grad():
        logits = network(*both.batch(torch.arange(len(both)), 64))
    temperature = fit_temperature(logits_of(teacher.validation_answers).numpy(), VALIDATION.labels.numpy())
    torch.testing.assert_close(taught.labels, (logits_of(logits) / temperature).softmax(dim=1), rtol=0, atol=1e-5)
    assert taught.labels.std() > 0.1


@pytest.mark.parametrize(
    ("stop_at", "left"),
    [
        (("teacher", 5), ["teacher"]),
        (("answers", 1), ["teacher"]),
        (("training", 20), ["answers", "teacher", "training"]),
    ],
)
def test_stopped_in_any_phase_it_ends_the_same(tmp_path: Path, stop_at: tuple[Phase, int], left: list[str]) -> None:
    whole = Recorder()
    uninterrupted = fit(tmp_path / "whole", NO_LABELS, whole)
    stopped = Recorder(stop_at)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", NO_LABELS, stopped, checkpoint_seconds=0)
    phases = [path.stem for path in checkpoints(tmp_path / "stopped" / "training.safetensors")]
    assert phases == [f"training-{phase}" for phase in left]
    resumed = Recorder()
    again = fit(tmp_path / "stopped", NO_LABELS, resumed)
    assert resumed.steps[0] == stop_at  # what is done is not done again, the teacher's answers included
    assert resumed.steps[-1] == whole.steps[-1]
    assert all(again.weights[name].equal(tensor) for name, tensor in uninterrupted.weights.items())
    assert again.temperature == uninterrupted.temperature
    timeless = [[replace(m, seconds=0, tokens_per_second=0) for m in of.history] for of in (again, uninterrupted)]
    assert timeless[0] == timeless[1]


def test_without_unlabelled_reviews_the_labelled_ones_are_what_a_student_learns(tmp_path: Path) -> None:
    nothing = TokenizedReviews.from_frame(pl.DataFrame(schema={"ids": pl.List(pl.Int32), "label": pl.Int8}))
    first, second = fit(tmp_path / "none", None), fit(tmp_path / "empty", nothing)
    assert first.network == second.network == student_of(MODEL)
    assert all(first.weights[name].equal(tensor) for name, tensor in second.weights.items())


def test_pretraining_comes_first_and_reads_all_reviews(tmp_path: Path) -> None:
    recorder = Recorder()
    tokens = TRAIN.tokens + MORE.tokens
    changes = {"pretraining_tokens": 2 * tokens, "distillation": 0}
    fitted = fit(tmp_path / "pretrained", NO_LABELS, recorder, **changes)
    batches = len(plan_batches(torch.cat([TRAIN.lengths, MORE.lengths]), CONFIG.tokens_per_batch))
    assert [metrics.epoch for metrics in recorder.epochs["pretraining"]] == [0, 1]
    steps = 4 * len(plan_batches(TRAIN.lengths, CONFIG.tokens_per_batch))
    assert recorder.steps == [
        *[("pretraining", step + 1) for step in range(2 * batches)],
        *[("training", step + 1) for step in range(steps)],
    ]
    assert [metrics.epoch for metrics in fitted.history] == list(range(4))
    fresh = fit(tmp_path / "fresh", None)
    assert fitted.history[0].train_loss != fresh.history[0].train_loss
    # Stopped in the first network, the second start pretrains no more.
    stopped, again = Recorder(stop_at=("training", 3)), Recorder()
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", NO_LABELS, stopped, **changes, checkpoint_seconds=0)
    resumed = fit(tmp_path / "stopped", NO_LABELS, again, **changes)
    assert again.epochs["pretraining"] == []
    assert again.steps[0] == ("training", 3)
    assert all(resumed.weights[name].equal(tensor) for name, tensor in fitted.weights.items())


def test_what_cannot_be_learned_from_is_refused_before_pretraining(tmp_path: Path) -> None:
    nothing = VALIDATION.take(torch.arange(0))
    config = CONFIG.model_copy(update={"pretraining_tokens": 1000})
    with pytest.raises(QualityError, match="the validation split is empty"):
        fit_model(TRAIN, nothing, None, WORDS, MODEL, config, device=CPU, checkpoint=tmp_path / "c.safetensors")
