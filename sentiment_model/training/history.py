"""How a training goes, epoch by epoch, and who is told of it."""

from dataclasses import dataclass
from typing import Literal, Protocol

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
    """Figures of one epoch; losses are mean cross-entropy in nats, rates are per second of training.

    The validation loss is taken after temperature scaling, as the model is used; the training loss is before it.
    """

    validation_accuracy: float


class Observer(Protocol):
    """Is told how training goes; called on the first process only."""

    def on_step(self, step: int, total_steps: int, loss: float) -> None:
        """Called after each optimizer step with the number of steps done."""

    def on_epoch(self, metrics: PretrainingMetrics) -> None:
        """Called after each epoch. A resumed training repeats no epoch that was checkpointed."""
