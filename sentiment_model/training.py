"""Training of the recurrent network: reproducible, interruptible, on one process or several.

Every source of randomness is a function of (seed, position): batch order of (seed, epoch), dropout of (seed, step,
rank). A training that resumes from a checkpoint therefore ends with the same weights as one that was never stopped.
"""

import copy
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sentiment_model.batching import Batch, TokenizedReviews, plan_batches
from sentiment_model.calibration import fit_temperature
from sentiment_model.checkpoint import load_checkpoint, save_checkpoint
from sentiment_model.config import ModelConfig, TrainConfig
from sentiment_model.errors import ModelError, QualityError
from sentiment_model.inference import autocast, predict_logits
from sentiment_model.network import SentimentNetwork

_determinism: Any = torch.utils.deterministic  # its types leave out its one setting

Phase = Literal["pretraining", "teacher", "answers", "training"]
"""An encoder learns; a network that only teaches another learns; it answers; the network that is kept learns."""


@dataclass(frozen=True, kw_only=True)
class PretrainingMetrics:
    """Figures of one epoch of predicting tokens; losses are in nats a token, rates are per second of training."""

    epoch: int
    train_loss: float
    validation_loss: float
    learning_rate: float
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True, kw_only=True)
class EpochMetrics(PretrainingMetrics):
    """Figures of one epoch; losses are mean binary cross-entropy in nats, rates are per second of training.

    The validation loss is taken after temperature scaling, as the model is used; the training loss is before it.
    """

    validation_accuracy: float


@dataclass(frozen=True)
class TrainingResult:
    """The best weights by validation loss, and how training went."""

    weights: dict[str, Tensor]
    history: list[EpochMetrics]
    best_epoch: int
    validation_logits: Tensor


@dataclass(frozen=True)
class Trained:
    """The state with the best validation loss, and how training went: the figures of each epoch."""

    weights: dict[str, Tensor]
    history: list[dict[str, Any]]
    best_epoch: int


class Objective(Protocol):
    """What a network is trained for."""

    @property
    def network(self) -> nn.Module:
        """What is trained."""

    @property
    def reviews(self) -> TokenizedReviews:
        """What it learns from."""

    def loss(self, network: nn.Module, rows: Tensor, padded_length: int) -> Tensor:
        """Return the sum of the losses of some reviews; `network` is the one above or stands for it."""

    def count(self, rows: Tensor) -> int:
        """Return how many losses are summed over these reviews."""

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return the figures of a network of the same kind, `validation_loss` among them."""

    def report(self, observer: "Observer", metrics: dict[str, Any]) -> None:
        """Tell the observer of an epoch."""


class Observer(Protocol):
    """Is told how training goes; called on the first process only."""

    def on_step(self, step: int, total_steps: int, loss: float) -> None:
        """Called after each optimizer step with the number of steps done."""

    def on_epoch(self, metrics: PretrainingMetrics) -> None:
        """Called after each epoch. A resumed training repeats no epoch that was checkpointed."""


@dataclass
class _Progress:
    """Where training stands; kept in the checkpoint."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    losses: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_epoch: int = -1
    best_loss: float = math.inf
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def finished_early(self) -> int:
        """Epochs since the best one."""
        return self.epoch - 1 - self.best_epoch


def choose_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` means here.

    Raises:
        ModelError: CUDA was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("SENTIMENT_DEVICE is cuda, but PyTorch finds no CUDA device; set it to auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", dist.get_node_local_rank(0) if dist.is_initialized() else 0)


def count_cores() -> int:
    """Return how many cores this process may use, which can be fewer than the machine has."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Return the learning rate of a step, counted from 0.

    `one-cycle` follows Smith & Topin (2018), "Super-Convergence": a cosine rise from 1/25 of the peak over the warm-up
    share, then a cosine fall to nearly zero. `cosine` rises linearly from zero instead.
    """
    warmup = max(1, round(config.warmup_share * total_steps))
    if step < warmup:
        if config.schedule == "cosine":
            return config.learning_rate * (step + 1) / warmup
        rise = (1 - math.cos(math.pi * step / warmup)) / 2
        return config.learning_rate * (0.04 + 0.96 * rise)
    fall = (step - warmup) / max(1, total_steps - warmup)
    return config.learning_rate * max(1e-4, (1 + math.cos(math.pi * fall)) / 2)


def train(
    train_reviews: TokenizedReviews,
    validation_reviews: TokenizedReviews,
    vocabulary_size: int,
    model_config: ModelConfig,
    config: TrainConfig,
    *,
    device: torch.device,
    checkpoint: Path,
    observer: Observer | None = None,
    pretrained: Mapping[str, Tensor] | None = None,
    fixed_embedding: bool = False,
) -> TrainingResult:
    """Train until the epochs are done or validation stops improving, resuming from `checkpoint` where it exists.

    With an initialised process group, each process computes its share of every global batch and all end with the same
    weights; the loss is that of one process on the global batch.

    Args:
        train_reviews: labelled reviews; a label may be a probability.
        validation_reviews: labelled reviews that choose the epoch.
        vocabulary_size: number of token ids.
        model_config: architecture.
        config: optimisation.
        device: where to compute.
        checkpoint: file from which an interrupted training resumes.
        observer: is told how training goes.
        pretrained: tensors of the encoder's state to start from, instead of random ones.
        fixed_embedding: whether the embedding stays as it is.

    Raises:
        QualityError: a split is empty or has a row without a label.
        ModelError: the loss is no longer finite, or the checkpoint is damaged.
    """
    check_labels(train_reviews, validation_reviews)
    torch.manual_seed(config.seed)
    network = SentimentNetwork(vocabulary_size, model_config)
    if pretrained:
        network.encoder.load_state_dict({**network.encoder.state_dict(), **pretrained})
    network.encoder.embedding.requires_grad_(not fixed_embedding)
    objective = _Classification(network.to(device), train_reviews, validation_reviews, config.tokens_per_batch, device)
    trained = run_training(objective, config, device=device, checkpoint=checkpoint, observer=observer)
    network.load_state_dict(trained.weights)
    return TrainingResult(
        weights={name: tensor.cpu() for name, tensor in trained.weights.items()},
        history=[EpochMetrics(**metrics) for metrics in trained.history],
        best_epoch=trained.best_epoch,
        validation_logits=predict_logits(network, validation_reviews, config.tokens_per_batch, device),
    )


def check_labels(train_reviews: TokenizedReviews, validation_reviews: TokenizedReviews) -> None:
    """Raise where the reviews cannot be learned from.

    Raises:
        QualityError: a split is empty or has a row without a label.
    """
    for name, split in (("train", train_reviews), ("validation", validation_reviews)):
        if len(split) == 0 or bool(split.labels.isnan().any()):
            raise QualityError(f"the {name} split is empty or has reviews without a label; check the cleaned data")


@dataclass
class _Classification:
    """To tell positive reviews from negative ones."""

    network: SentimentNetwork
    reviews: TokenizedReviews
    validation_reviews: TokenizedReviews
    tokens_per_batch: int
    device: torch.device

    def loss(self, network: nn.Module, rows: Tensor, padded_length: int) -> Tensor:
        ids, lengths = self.reviews.batch(rows, padded_length)
        logits = network(ids.to(self.device), lengths.to(self.device))
        labels = self.reviews.labels[rows].to(self.device)
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")

    def count(self, rows: Tensor) -> int:
        return len(rows)

    def validate(self, network: nn.Module) -> dict[str, float]:
        kept = cast("SentimentNetwork", network)
        logits = predict_logits(kept, self.validation_reviews, self.tokens_per_batch, self.device)
        labels = self.validation_reviews.labels
        # The loss that the model will have in use: with calibrated probabilities, over-confidence costs nothing.
        logits = logits.double() / fit_temperature(logits.numpy(), labels.numpy())
        return {
            "validation_loss": F.binary_cross_entropy_with_logits(logits, labels.double()).item(),
            "validation_accuracy": ((logits > 0) == (labels > 0.5)).double().mean().item(),
        }

    def report(self, observer: Observer, metrics: dict[str, Any]) -> None:
        observer.on_epoch(EpochMetrics(**metrics))


def run_training(
    objective: Objective,
    config: TrainConfig,
    *,
    device: torch.device,
    checkpoint: Path,
    observer: Observer | None = None,
) -> Trained:
    """Train for an objective, see :func:`train`."""
    with _deterministic(device):
        return _Trainer(objective, config, device, checkpoint, observer).run()


class _Trainer:
    def __init__(
        self,
        objective: Objective,
        config: TrainConfig,
        device: torch.device,
        checkpoint: Path,
        observer: Observer | None,
    ) -> None:
        self.objective, self.network = objective, objective.network
        self.config, self.device, self.checkpoint = config, device, checkpoint
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.observer = observer if self.rank == 0 else None
        self.learned = {name: weight for name, weight in self.network.named_parameters() if weight.requires_grad}
        # The network whose weights are validated and kept. What is not learned is the same in both.
        self.kept = self.network
        if config.ema_decay:
            fixed = {id(weight): weight for weight in self.network.parameters() if not weight.requires_grad}
            self.kept = copy.deepcopy(self.network, fixed)
        self.averaged = {name: weight for name, weight in self.kept.named_parameters() if weight.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.learned.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.total_steps = config.epochs * len(self._batches(0))
        self.progress = _Progress()
        self.best: dict[str, Tensor] = {}
        self._resume()
        self.parallel = self.network
        if self.world > 1:
            # Buffers never change, and gradients need no copy of their own beside what is sent.
            self.parallel = DistributedDataParallel(
                self.network, forward_sync_buffers=False, gradient_as_bucket_view=True
            )

    def run(self) -> Trained:
        while self.progress.epoch < self.config.epochs and self.progress.finished_early < self.config.patience:
            self._run_epoch()
        progress = self.progress
        return Trained(self.best, progress.history, progress.best_epoch)

    def _batches(self, epoch: int) -> list[Batch]:
        seed = self.config.seed * 1_000_003 + epoch
        return plan_batches(self.objective.reviews.lengths, self.config.tokens_per_batch, seed)

    def _run_epoch(self) -> None:
        progress = self.progress
        started, saved = time.perf_counter() - progress.seconds, time.monotonic()
        for batch in self._batches(progress.epoch)[progress.batch :]:
            count = self.objective.count(batch.rows)
            loss = self._step(batch, count)
            progress.batch += 1
            progress.step += 1
            progress.loss_sum += loss * count
            progress.losses += count
            progress.tokens += len(batch.rows) * batch.padded_length
            progress.seconds = time.perf_counter() - started
            if self.observer:
                self.observer.on_step(progress.step, self.total_steps, loss)
            if time.monotonic() - saved >= self.config.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        metrics = {
            "epoch": progress.epoch,
            "train_loss": progress.loss_sum / max(1, progress.losses),
            "learning_rate": learning_rate(progress.step - 1, self.total_steps, self.config),
            "seconds": progress.seconds,
            "tokens_per_second": progress.tokens / progress.seconds,
            **self._validate(),
        }
        progress.history.append(metrics)
        if metrics["validation_loss"] < progress.best_loss:
            progress.best_loss, progress.best_epoch = metrics["validation_loss"], progress.epoch
            self.best = {name: tensor.clone() for name, tensor in self.kept.state_dict().items()}
        progress.epoch += 1
        progress.batch = progress.losses = progress.tokens = 0
        progress.loss_sum = progress.seconds = 0.0
        if self.observer:
            self.objective.report(self.observer, metrics)
        self._save()

    def _step(self, batch: Batch, count: int) -> float:
        """Take one optimizer step; return the mean loss over the global batch, in which there are `count` losses."""
        torch.manual_seed(((self.config.seed * 1_000_003 + self.progress.step) * 65_537 + self.rank) % 2**63)
        rate = learning_rate(self.progress.step, self.total_steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        share = batch.rows[self.rank :: self.world]
        # A process without a row of its own computes one at weight 0, so that all take part in the all-reduce.
        rows, weight = (share, 1.0) if len(share) else (batch.rows[:1], 0.0)
        self.parallel.train()
        with autocast(self.device):
            loss = weight * self.objective.loss(self.parallel, rows, batch.padded_length) / max(1, count)
        self.optimizer.zero_grad()
        # DistributedDataParallel averages the gradients; the loss over the global batch wants their sum.
        torch.autograd.backward(loss * self.world)
        nn.utils.clip_grad_norm_(self.learned.values(), self.config.clip_norm)
        self.optimizer.step()
        if self.config.ema_decay:
            self._average()
        total = loss.detach()
        if self.world > 1:
            dist.all_reduce(total)
        if not math.isfinite(value := total.item()):
            raise ModelError(
                f"the training loss is {value} at step {self.progress.step}; lower the learning rate or clip_norm"
            )
        return value

    def _validate(self) -> dict[str, float]:
        """Return the kept network's figures; one process computes them, and all go by them."""
        figures = [self.objective.validate(self.kept) if self.rank == 0 else {}]
        if self.world > 1:
            dist.broadcast_object_list(figures, 0, device=self.device)
        return figures[0]

    def _average(self) -> None:
        averaged: list[Tensor] = list(self.averaged.values())
        learned = [weight.detach() for weight in self.learned.values()]
        if self.progress.step:
            get_ema_multi_avg_fn(self.config.ema_decay)(averaged, learned, self.progress.step)  # type: ignore[no-untyped-call]
        else:
            for average, weight in zip(averaged, learned, strict=True):
                average.detach().copy_(weight)

    def _save(self) -> None:
        if self.rank:
            return
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for name, parameter in self.learned.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = value
        if self.config.ema_decay:
            tensors |= {f"averaged.{name}": weight for name, weight in self.averaged.items()}
        save_checkpoint(self.checkpoint, tensors, asdict(self.progress))

    def _resume(self) -> None:
        saved = load_checkpoint(self.checkpoint)
        if saved is None:
            return
        tensors, progress = saved
        groups: dict[str, dict[str, Tensor]] = {"network": {}, "averaged": {}, "best": {}}
        for key, tensor in tensors.items():
            group, _, name = key.partition(".")
            if group in groups:
                groups[group][name] = tensor.to(self.device)
        try:
            self.network.load_state_dict(groups["network"])
            for name, parameter in self.learned.items():
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    self.optimizer.state[parameter][key] = tensors[f"optimizer.{key}.{name}"].to(self.device)
            if self.config.ema_decay:
                self.kept.load_state_dict({**groups["network"], **groups["averaged"]})
        except (RuntimeError, KeyError) as error:
            raise ModelError(
                f"checkpoint {self.checkpoint} is of another network; delete it to start the training anew"
            ) from error
        self.best = groups["best"]
        self.progress = _Progress(**progress)


class _deterministic:  # noqa: N801 - reads as the context manager it is
    """Makes kernels deterministic and denormal numbers zero (they can slow a CPU a hundredfold) while it lasts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = torch.are_deterministic_algorithms_enabled(), _determinism.fill_uninitialized_memory

    def __enter__(self) -> None:
        torch.set_flush_denormal(True)
        if self.device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it sums may differ from run to run
            torch.use_deterministic_algorithms(True, warn_only=True)
            # All that is computed here writes to new memory before it reads from it; to fill it first takes time.
            _determinism.fill_uninitialized_memory = False

    def __exit__(self, *exception: object) -> None:
        torch.set_flush_denormal(False)
        torch.use_deterministic_algorithms(self.before[0])
        _determinism.fill_uninitialized_memory = self.before[1]
