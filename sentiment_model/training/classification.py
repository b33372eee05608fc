"""Training of the recurrent classifier: to tell the classes of reviews apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sentiment_model.config import ModelConfig, TrainConfig
from sentiment_model.errors import QualityError
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.networks.inference import predict_logits
from sentiment_model.networks.network import SentimentNetwork
from sentiment_model.networks.outputs import logits_of, shares_of
from sentiment_model.training.calibration import calibrated_loss
from sentiment_model.training.history import EpochMetrics, Observer
from sentiment_model.training.loop import run_training


@dataclass(frozen=True)
class TrainingResult:
    """The best weights by validation loss, how training went, and the network's answers to the validation reviews."""

    weights: dict[str, Tensor]
    history: list[EpochMetrics]
    best_epoch: int
    validation_answers: Tensor


def train(
    train_reviews: TokenizedReviews,
    validation_reviews: TokenizedReviews,
    vocabulary_size: int,
    model_config: ModelConfig,
    config: TrainConfig,
    *,
    device: torch.device,
    checkpoint: Path,
    classes: int = 2,
    observer: Observer | None = None,
    pretrained: Mapping[str, Tensor] | None = None,
    fixed_embedding: bool = False,
) -> TrainingResult:
    """Train a classifier, see :func:`sentiment_model.training.loop.run_training`.

    Args:
        train_reviews: labelled reviews; a label may be probabilities.
        validation_reviews: labelled reviews that choose the epoch.
        vocabulary_size: number of token ids.
        model_config: architecture.
        config: optimisation.
        device: where to compute.
        checkpoint: file from which an interrupted training resumes.
        classes: how many there are.
        observer: is told how training goes.
        pretrained: tensors of the encoder's state to start from, instead of random ones.
        fixed_embedding: whether the embedding stays as it is.

    Raises:
        QualityError: a split is empty or has a row without a label.
        ModelError: the loss is no longer finite, or the checkpoint is damaged.
    """
    check_labels(train_reviews, validation_reviews)
    torch.manual_seed(config.seed)
    network = SentimentNetwork(vocabulary_size, model_config, classes)
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
        validation_answers=predict_logits(network, validation_reviews, config.tokens_per_batch, device),
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
    """To tell the classes of reviews apart."""

    network: SentimentNetwork
    reviews: TokenizedReviews
    validation_reviews: TokenizedReviews
    tokens_per_batch: int
    device: torch.device

    def loss(self, network: nn.Module, rows: Tensor, padded_length: int) -> Tensor:
        ids, lengths = self.reviews.batch(rows, padded_length)
        logits = logits_of(network(ids.to(self.device), lengths.to(self.device)))
        shares = shares_of(self.reviews.labels[rows].to(self.device), logits.shape[1])
        return -(shares * logits.log_softmax(dim=1)).sum()

    def count(self, rows: Tensor) -> int:
        return len(rows)

    def validate(self, network: nn.Module) -> dict[str, float]:
        kept = cast("SentimentNetwork", network)
        logits = logits_of(predict_logits(kept, self.validation_reviews, self.tokens_per_batch, self.device))
        labels = self.validation_reviews.labels
        # The loss that the model will have in use: with calibrated probabilities, over-confidence costs nothing.
        return {
            "validation_loss": calibrated_loss(logits.numpy(), labels.numpy()),
            "validation_accuracy": (logits.argmax(dim=1) == labels).double().mean().item(),
        }

    def report(self, observer: Observer, metrics: dict[str, Any]) -> None:
        observer.on_epoch(EpochMetrics(**metrics))
