"""A training as a job: one process or several, killed or not, the same model."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import psutil
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from sentiment_model.classes import BINARY
from sentiment_model.config import ModelConfig, TokenizeConfig, TrainConfig
from sentiment_model.errors import ModelError
from sentiment_model.models.bundle import ModelDescription, Predictor
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.networks.inference import predict_logits
from sentiment_model.networks.network import SentimentModel
from sentiment_model.store.datasets import DatasetRef, DatasetWriter, Stage, Store
from sentiment_model.text.vocabulary import Vocabulary
from sentiment_model.training.fitting import student_of
from sentiment_model.training.history import EpochMetrics, Phase, PretrainingMetrics
from sentiment_model.training.job import TrainingJob, write_model

WORDS = [f"w{i}" for i in range(40)]
# Without dropout, whose masks differ by process, several processes compute what one does; with a cell that is computed
# in float32 on every CPU, they do so up to its rounding.
MODEL = ModelConfig(cell="gru", hidden_size=8, embedding_size=8, word_dropout=0, embedding_dropout=0, dropout=0)
CONFIG = TrainConfig(epochs=3, tokens_per_batch=640, learning_rate=3e-2, ema_decay=0.9, processes=1)


class Recorder:
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.teacher_losses: list[float] = []
        self.answered: list[tuple[int, int]] = []
        self.epochs: list[EpochMetrics] = []
        self.teacher: list[EpochMetrics] = []
        self.pretraining: list[PretrainingMetrics] = []

    def on_step(self, phase: Phase, step: int, total_steps: int, loss: float | None) -> None:
        if loss is None:
            self.answered.append((step, total_steps))
        else:
            (self.teacher_losses if phase == "teacher" else self.losses).append(loss)

    def on_epoch(self, phase: Phase, metrics: PretrainingMetrics) -> None:
        if isinstance(metrics, EpochMetrics):
            (self.teacher if phase == "teacher" else self.epochs).append(metrics)
        else:
            self.pretraining.append(metrics)


def split(count: int, seed: int) -> pl.DataFrame:
    """Reviews in which the token 2 or 3 decides."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator).tolist()
    ids = []
    for label in labels:
        length = int(torch.randint(3, 40, (1,), generator=generator))
        words = torch.randint(4, 20, (length,), generator=generator)
        words[int(torch.randint(0, length, (1,), generator=generator))] = 2 + label
        ids.append(words.tolist())
    reviews = pl.DataFrame({"ids": ids, "label": labels}, schema={"ids": pl.List(pl.Int32), "label": pl.Int8})
    return reviews.with_columns(n_tokens=pl.col("ids").list.len().cast(pl.Int32), n_unknown=pl.lit(0, pl.Int32))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    def write(writer: DatasetWriter) -> dict[str, int]:
        split(300, 0).write_parquet(writer.file("train.parquet", role="train"))
        split(100, 1).write_parquet(writer.file("validation.parquet", role="validation"))
        split(200, 2).with_columns(label=pl.lit(None, pl.Int8)).write_parquet(
            writer.file("unlabelled.parquet", role="unlabelled")
        )
        texts = pl.DataFrame({"text": [" ".join(WORDS)] * 2}).lazy()
        Vocabulary.fit(texts, TokenizeConfig()).save(writer.file("vocabulary.parquet", role="vocabulary"))
        return {}

    store = Store(str(tmp_path_factory.mktemp("store")))
    return store.materialise(Stage("tokenize", 1), {"clean": "c" * 20}, {"max_tokens": 64}, write)[0].ref


def job(tokens: DatasetRef, folder: Path, **changes: object) -> TrainingJob:
    output = folder / "model"
    output.mkdir(parents=True, exist_ok=True)
    return TrainingJob(
        tokens=tokens,
        classes=BINARY,
        model=MODEL,
        train=CONFIG.model_copy(update=changes),
        device="cpu",
        checkpoint=folder / "checkpoint.safetensors",
        output=output,
    )


def train(job: TrainingJob) -> tuple[Recorder, dict[str, torch.Tensor]]:
    recorder = Recorder()
    write_model(DatasetWriter(job.output), job, recorder)
    return recorder, load_file(job.output / "weights.safetensors")


@pytest.fixture(scope="module")
def alone(tokens: DatasetRef, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, dict[str, torch.Tensor]]:
    return train(job(tokens, tmp_path_factory.mktemp("alone")))


def test_two_processes_train_like_one_on_the_same_global_batches(
    alone: tuple[Recorder, dict[str, torch.Tensor]], tokens: DatasetRef, tmp_path: Path
) -> None:
    one, one_weights = alone
    two, two_weights = train(job(tokens, tmp_path, processes=2))
    assert len(one.losses) > 20
    assert one.losses[-1] < 0.5 * one.losses[0], "nothing was learned, so the curves could agree by chance"
    assert two.losses == pytest.approx(one.losses, rel=1e-3, abs=1e-4)
    assert [m.validation_loss for m in two.epochs] == pytest.approx([m.validation_loss for m in one.epochs], rel=1e-3)
    for name, tensor in one_weights.items():
        torch.testing.assert_close(two_weights[name], tensor, rtol=1e-2, atol=1e-3)
    assert not (tmp_path / "model" / "job.json").exists()


@pytest.mark.slow
def test_two_processes_learn_the_same_answers_of_a_teacher(tokens: DatasetRef, tmp_path: Path) -> None:
    one, _ = train(job(tokens, tmp_path / "one", distillation=True, epochs=1))
    two, weights = train(job(tokens, tmp_path / "two", distillation=True, epochs=1, processes=2))
    for answered in (one.answered, two.answered):  # of two processes, one tells
        assert answered == [(batch + 1, len(answered)) for batch in range(len(answered))] != []
    assert len(one.teacher) == len(two.teacher) == len(one.epochs) == len(two.epochs) == 1
    for figure in ("train_loss", "validation_loss"):
        assert getattr(two.teacher[0], figure) == pytest.approx(getattr(one.teacher[0], figure), rel=1e-3, abs=1e-4)
    assert two.teacher_losses == pytest.approx(one.teacher_losses, rel=1e-2, abs=5e-3)  # products may be in bfloat16
    # The student's dropout differs between one process and two, what it learns from does not.
    assert len(two.losses) == len(one.losses)
    assert two.epochs[0].train_loss == pytest.approx(one.epochs[0].train_loss, rel=0.05)
    assert two.epochs[0].validation_loss == pytest.approx(one.epochs[0].validation_loss, rel=0.2)
    description = ModelDescription.read(tmp_path / "two" / "model")
    assert description.network == student_of(MODEL)
    SentimentModel(len(WORDS) + 2, description.network).load_state_dict(weights)


@pytest.mark.slow
def test_two_processes_pretrain_like_one(tokens: DatasetRef, tmp_path: Path) -> None:
    """With so few tokens each is drawn in every step, so that all processes tell the next one from the same."""
    changes = {"pretraining_tokens": 20_000, "epochs": 1}
    one, _ = train(job(tokens, tmp_path / "one", **changes))
    two, _ = train(job(tokens, tmp_path / "two", **changes, processes=2))
    assert len(one.pretraining) == 2
    for figure in ("train_loss", "validation_loss"):
        expected = [getattr(metrics, figure) for metrics in one.pretraining]
        assert [getattr(metrics, figure) for metrics in two.pretraining] == pytest.approx(expected, rel=1e-3)


def test_the_wide_part_is_weighed_on_the_validation_reviews(tokens: DatasetRef, tmp_path: Path) -> None:
    deep = job(tokens, tmp_path / "deep", epochs=1)
    deep = deep.model_copy(update={"model": MODEL.model_copy(update={"ngrams": 0})})
    both = job(tokens, tmp_path / "both", epochs=1)
    both = both.model_copy(update={"model": MODEL.model_copy(update={"ngrams": 2})})
    validation = TokenizedReviews.from_frame(split(100, 1))
    losses = {}
    for name, of in {"deep": deep, "both": both}.items():
        train(of)
        predictor = Predictor.load(of.output)
        logits = predict_logits(predictor.model, validation, 640, torch.device("cpu"))
        assert bool(logits[:, 1].any()) == (name == "both")
        scaled = logits.sum(dim=1).squeeze(1) / predictor.description.temperature
        losses[name] = F.binary_cross_entropy_with_logits(scaled, validation.labels).item()
    # One epoch teaches the network little, while the words that decide are plain to the wide part.
    assert losses["both"] < 0.5 * losses["deep"]


def test_an_error_in_another_process_arrives_as_one(tokens: DatasetRef, tmp_path: Path) -> None:
    diverging = job(tokens, tmp_path, processes=2, learning_rate=1e30, ema_decay=0.0)
    with pytest.raises(ModelError, match="lower the learning rate"):
        train(diverging)


KILLED = """
import os, signal, sys
from sentiment_model.store.datasets import DatasetWriter
from sentiment_model.training.job import TrainingJob, write_model
class KillAtStep:
    def on_step(self, phase, step, total_steps, loss):
        if step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    def on_epoch(self, phase, metrics):
        pass
job = TrainingJob.model_validate_json(sys.argv[1])
write_model(DatasetWriter(job.output), job, KillAtStep())
"""


def test_a_killed_training_goes_on_to_the_same_result(
    alone: tuple[Recorder, dict[str, torch.Tensor]], tokens: DatasetRef, tmp_path: Path
) -> None:
    killed = job(tokens, tmp_path, checkpoint_seconds=0)
    _, expected = alone
    steps = len(alone[0].losses)
    # Once in the middle of an epoch from the start, once more after resuming, in the other epoch.
    for stop_at in (steps // 4, 3 * steps // 4):
        run = subprocess.run([sys.executable, "-c", KILLED, killed.model_dump_json(), str(stop_at)], check=False)
        assert run.returncode == -signal.SIGKILL
        assert not (killed.output / "weights.safetensors").exists()
    recorder, weights = train(killed)
    assert len(recorder.losses) == steps - 3 * steps // 4 + 1
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name
    history = json.loads((killed.output / "history.json").read_text())
    assert [m["validation_loss"] for m in history] == [m.validation_loss for m in alone[0].epochs]


@pytest.mark.slow
def test_processes_end_when_the_one_that_started_them_is_killed(tokens: DatasetRef, tmp_path: Path) -> None:
    whole, expected = train(job(tokens, tmp_path / "whole", processes=2))
    killed = job(tokens, tmp_path / "killed", processes=2, checkpoint_seconds=0)
    run = subprocess.run([sys.executable, "-c", KILLED, killed.model_dump_json(), "10"], check=False)
    assert run.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while orphans := [
        process for process in psutil.process_iter(["cmdline"]) if str(killed.output) in str(process.info["cmdline"])
    ]:
        assert time.monotonic() < deadline, f"still running: {orphans}"
        time.sleep(0.2)
    assert not (killed.output / "weights.safetensors").exists()
    recorder, weights = train(killed)
    assert 0 < len(recorder.losses) <= len(whole.losses) - 9, "the training did not resume"
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name
