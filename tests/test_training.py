"""Training learns, repeats itself exactly, and resumes to the same result from wherever it stopped."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parameters_to_vector

from sentiment_model.config import ModelConfig, TrainConfig
from sentiment_model.errors import ModelError, QualityError
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.networks.device import choose_device
from sentiment_model.networks.network import SentimentNetwork
from sentiment_model.networks.outputs import logits_of
from sentiment_model.training.calibration import fit_temperature
from sentiment_model.training.checkpoint import load_checkpoint
from sentiment_model.training.classification import TrainingResult, _Classification, train
from sentiment_model.training.history import EpochMetrics, PretrainingMetrics
from sentiment_model.training.loop import _Trainer, run_training
from sentiment_model.training.schedule import learning_rate

CPU = torch.device("cpu")
VOCABULARY = 60
MODEL = ModelConfig(cell="lstm", hidden_size=12, embedding_size=10, pooling=("max", "mean"))
CONFIG = TrainConfig(epochs=3, tokens_per_batch=512, learning_rate=1e-2, ema_decay=0.9, checkpoint_seconds=0)


def reviews(count: int, seed: int) -> TokenizedReviews:
    """Reviews whose sentiment is decided by two of their words, as in life."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    ids = []
    for label in labels.tolist():
        length = int(torch.randint(3, 60, (1,), generator=generator))
        words = torch.randint(4, VOCABULARY, (length,), generator=generator)
        words[int(torch.randint(0, length, (1,), generator=generator))] = 2 + label
        ids.append(words.tolist())
    return TokenizedReviews.from_frame(
        pl.DataFrame({"ids": ids, "label": labels.tolist()}, schema={"ids": pl.List(pl.Int32), "label": pl.Int8})
    )


TRAIN, VALIDATION = reviews(600, 0), reviews(200, 1)


class Recorder:
    """Keeps what it is told; stops the training before step `stop_at` as a crash would."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.steps: list[int] = []
        self.epochs: list[EpochMetrics] = []

    def on_step(self, step: int, total_steps: int, loss: float) -> None:
        self.steps.append(step)
        if step == self.stop_at:
            raise InterruptedError

    def on_epoch(self, metrics: PretrainingMetrics) -> None:
        assert isinstance(metrics, EpochMetrics)
        self.epochs.append(metrics)


def run(
    checkpoint: Path,
    config: TrainConfig = CONFIG,
    observer: Recorder | None = None,
    model: ModelConfig = MODEL,
    device: torch.device = CPU,
    fixed: torch.Tensor | None = None,
) -> TrainingResult:
    """Train; a `fixed` embedding stays as it is."""
    return train(
        TRAIN,
        VALIDATION,
        VOCABULARY,
        model,
        config,
        device=device,
        checkpoint=checkpoint,
        observer=observer,
        pretrained=None if fixed is None else {"embedding.weight": fixed},
        fixed_embedding=fixed is not None,
    )


def assert_same_weights(one: TrainingResult, other: TrainingResult) -> None:
    assert one.weights.keys() == other.weights.keys()
    for name, tensor in one.weights.items():
        assert torch.equal(tensor, other.weights[name]), name


def without_times(history: list[EpochMetrics]) -> list[EpochMetrics]:
    return [replace(metrics, seconds=0.0, tokens_per_second=0.0) for metrics in history]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return run(tmp_path_factory.mktemp("unbroken") / "c.safetensors")


def test_it_learns(unbroken: TrainingResult) -> None:
    assert unbroken.history[unbroken.best_epoch].validation_accuracy > 0.95
    assert len(unbroken.validation_answers) == len(VALIDATION)
    accuracy = ((unbroken.validation_answers[:, 0] > 0) == (VALIDATION.labels > 0.5)).double().mean().item()
    assert accuracy == unbroken.history[unbroken.best_epoch].validation_accuracy


def test_the_epoch_is_chosen_by_the_calibrated_loss_of_the_weights_that_are_kept(unbroken: TrainingResult) -> None:
    logits, labels = logits_of(unbroken.validation_answers.double()), VALIDATION.labels
    calibrated = logits / fit_temperature(logits.numpy(), labels.numpy())
    raw, loss = (F.cross_entropy(of, labels.long()).item() for of in (logits, calibrated))
    losses = [metrics.validation_loss for metrics in unbroken.history]
    assert losses[unbroken.best_epoch] == min(losses) == pytest.approx(loss, rel=1e-6)
    assert raw > 1.01 * loss


def test_the_loss_is_the_cross_entropy_of_labels_and_of_their_probabilities() -> None:
    labels = torch.arange(len(TRAIN)) % 3
    rows, network = torch.arange(20), SentimentNetwork(VOCABULARY, MODEL, 3).eval()
    logits = network(*TRAIN.batch(rows, 64))
    soft = F.one_hot(labels, 3) * 0.7 + 0.1
    for given, expected in ((labels.float(), labels[rows]), (soft, soft[rows])):
        taught = replace(TRAIN, labels=given)
        objective = _Classification(network, taught, VALIDATION, CONFIG.tokens_per_batch, CPU)
        torch.testing.assert_close(
            objective.loss(network, rows, 64), F.cross_entropy(logits, expected, reduction="sum")
        )


@pytest.mark.parametrize("cell", ["rnn", "gru", "mingru"])
def test_other_cells_learn(cell: str, tmp_path: Path) -> None:
    model = MODEL.model_copy(update={"cell": cell})
    result = run(tmp_path / "c.safetensors", model=model)
    assert result.history[result.best_epoch].validation_accuracy > 0.9


@pytest.mark.parametrize("stop_at", [1, 17, 40])
def test_interrupted_training_ends_the_same(stop_at: int, unbroken: TrainingResult, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    with pytest.raises(InterruptedError):
        run(checkpoint, observer=Recorder(stop_at))
    resumed = Recorder()
    result = run(checkpoint, observer=resumed)
    # The checkpoint of the interrupted step was not written, so exactly that step is repeated.
    assert resumed.steps[0] == stop_at
    assert without_times(result.history) == without_times(unbroken.history)
    assert_same_weights(result, unbroken)


def test_a_fixed_embedding_stays_as_it_is(tmp_path: Path) -> None:
    """It is in no average and no moment of the optimizer, and an interrupted training ends the same without them."""
    embedding = torch.randn(VOCABULARY, MODEL.embedding_size)
    whole = run(tmp_path / "whole", fixed=embedding)
    with pytest.raises(InterruptedError):
        run(tmp_path / "stopped", observer=Recorder(stop_at=17), fixed=embedding)
    saved = load_checkpoint(tmp_path / "stopped")
    assert saved
    name = "encoder.embedding.weight"
    assert [key for key in saved[0] if key.endswith(name)] == [f"network.{name}"]
    resumed = run(tmp_path / "stopped", fixed=embedding)
    assert torch.equal(resumed.weights[name], embedding)
    assert_same_weights(resumed, whole)


def test_kept_weights_are_the_moving_average_of_the_learned_ones(tmp_path: Path) -> None:
    objective = _Classification(SentimentNetwork(VOCABULARY, MODEL), TRAIN, VALIDATION, CONFIG.tokens_per_batch, CPU)
    trainer = _Trainer(objective, CONFIG, CPU, tmp_path / "c.safetensors", None)
    expected = torch.tensor([])
    for step, batch in enumerate(trainer._batches(0)[:5]):
        trainer.progress.step = step
        trainer._step(batch, len(batch.rows))
        learned = parameters_to_vector(objective.network.parameters())
        expected = CONFIG.ema_decay * expected + (1 - CONFIG.ema_decay) * learned if step else learned
    torch.testing.assert_close(parameters_to_vector(trainer.kept.parameters()), expected)
    assert not torch.allclose(expected, learned, atol=1e-4)


def test_gradients_are_clipped_to_their_norm_over_all_weights(tmp_path: Path) -> None:
    def gradient(clip_norm: float) -> torch.Tensor:
        torch.manual_seed(0)
        network = SentimentNetwork(VOCABULARY, MODEL)
        config = CONFIG.model_copy(update={"clip_norm": clip_norm})
        objective = _Classification(network, TRAIN, VALIDATION, config.tokens_per_batch, CPU)
        trainer = _Trainer(objective, config, CPU, tmp_path / "c.safetensors", None)
        batch = trainer._batches(0)[0]
        trainer._step(batch, len(batch.rows))
        return torch.cat([weight.grad.flatten() for weight in network.parameters() if weight.grad is not None])

    whole = gradient(1e9)
    norm = whole.norm().item()
    torch.testing.assert_close(gradient(norm / 2), whole / 2, rtol=1e-4, atol=1e-9)
    assert torch.equal(gradient(norm * 2), whole)


@dataclass
class ReadOrder(_Classification):
    """Keeps which reviews were read together, in order."""

    read: list[list[int]] = field(default_factory=list)

    def loss(self, network: torch.nn.Module, rows: torch.Tensor, padded_length: int) -> torch.Tensor:
        self.read.append(rows.tolist())
        return super().loss(network, rows, padded_length)


def test_each_epoch_and_each_seed_reads_all_reviews_in_an_order_of_its_own(tmp_path: Path) -> None:
    few = TRAIN.take(torch.arange(60))

    def orders(seed: int, name: str) -> list[list[list[int]]]:
        config = CONFIG.model_copy(update={"seed": seed, "epochs": 2})
        network = SentimentNetwork(VOCABULARY, MODEL)
        objective = ReadOrder(network, few, VALIDATION, config.tokens_per_batch, CPU)
        run_training(objective, config, device=CPU, checkpoint=tmp_path / name)
        half = len(objective.read) // 2
        return [objective.read[:half], objective.read[half:]]

    found = [*orders(0, "a"), *orders(1, "b")]
    for order in found:
        assert sorted(row for rows in order for row in rows) == list(range(60))
    assert len({str(order) for order in found}) == 4
    assert orders(0, "c") == found[:2]


def test_finished_training_is_not_repeated(unbroken: TrainingResult, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    run(checkpoint)
    again = Recorder()
    result = run(checkpoint, observer=again)
    assert again.steps == []
    assert torch.equal(result.validation_answers, unbroken.validation_answers)


def test_another_seed_trains_another_network(unbroken: TrainingResult, tmp_path: Path) -> None:
    other = run(tmp_path / "c.safetensors", CONFIG.model_copy(update={"seed": 1}))
    assert not torch.equal(other.validation_answers, unbroken.validation_answers)


def test_training_stops_when_validation_does_not_improve(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 30, "learning_rate": 3e-2, "patience": 2})
    result = run(tmp_path / "c.safetensors", config)
    assert len(result.history) < 30
    assert result.best_epoch == len(result.history) - 1 - config.patience
    losses = [metrics.validation_loss for metrics in result.history]
    assert losses[result.best_epoch] == min(losses)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_learning_rate_rises_to_its_peak_and_falls(schedule: str) -> None:
    config = TrainConfig(schedule=schedule, learning_rate=0.5, warmup_share=0.2)  # type: ignore[arg-type]
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert max(rates) == pytest.approx(0.5)
    assert 0 < min(rates[0], rates[-1]) < 0.05


def test_divergence_is_an_error(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"learning_rate": 1e30, "ema_decay": 0.0})
    with pytest.raises(ModelError, match="lower the learning rate"):
        run(tmp_path / "c.safetensors", config)


def test_unlabelled_reviews_cannot_be_trained_on(tmp_path: Path) -> None:
    unlabelled = replace(TRAIN, labels=torch.full_like(TRAIN.labels, torch.nan))
    with pytest.raises(QualityError, match="train split"):
        train(unlabelled, VALIDATION, VOCABULARY, MODEL, CONFIG, device=CPU, checkpoint=tmp_path / "c.safetensors")


def test_damaged_or_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    with pytest.raises(InterruptedError):
        run(checkpoint, observer=Recorder(5))
    with pytest.raises(ModelError, match="another network"):
        run(checkpoint, model=MODEL.model_copy(update={"hidden_size": 13}))
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="damaged"):
        load_checkpoint(checkpoint)


def test_device_names() -> None:
    assert choose_device("cpu") == CPU
    if not torch.cuda.is_available():
        assert choose_device("auto") == CPU
        with pytest.raises(ModelError, match="CUDA"):
            choose_device("cuda")
