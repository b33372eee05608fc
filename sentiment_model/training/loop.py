"""The training loop: reproducible, interruptible, on one process or several.

Every source of randomness is a function of (seed, position): batch order of (seed, epoch), dropout of (seed, step,
rank). A training that resumes from a checkpoint therefore ends with the same weights as one that was never stopped.
"""

import copy
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sentiment_model.config import TrainConfig
from sentiment_model.errors import ModelError
from sentiment_model.networks.batching import Batch, plan_batches
from sentiment_model.networks.inference import autocast
from sentiment_model.training.checkpoint import load_checkpoint, save_checkpoint
from sentiment_model.training.heap import kept_memory
from sentiment_model.training.history import Observer
from sentiment_model.training.objective import Objective
from sentiment_model.training.schedule import learning_rate

_determinism: Any = torch.utils.deterministic  # its types leave out its one setting


@dataclass(frozen=True)
class Trained:
    """The state with the best validation loss, and how training went: the figures of each epoch."""

    weights: dict[str, Tensor]
    history: list[dict[str, Any]]
    best_epoch: int


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


def run_training(
    objective: Objective,
    config: TrainConfig,
    *,
    device: torch.device,
    checkpoint: Path,
    observer: Observer | None = None,
) -> Trained:
    """Train until the epochs are done or validation stops improving, resuming from `checkpoint` where it exists.

    With an initialised process group, each process computes its share of every global batch and all end with the same
    weights; the loss is that of one process on the global batch.

    Args:
        objective: what the network is trained for, and on what.
        config: optimisation.
        device: where to compute.
        checkpoint: file from which an interrupted training resumes.
        observer: is told how training goes.

    Raises:
        ModelError: the loss is no longer finite, or the checkpoint is damaged.
    """
    with _deterministic(device), kept_memory():
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
