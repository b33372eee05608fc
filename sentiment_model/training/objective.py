"""What a network is trained for, as the training loop sees it."""

from typing import Any, Protocol

from torch import Tensor, nn

from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.training.history import Observer


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

    def report(self, observer: Observer, metrics: dict[str, Any]) -> None:
        """Tell the observer of an epoch."""
