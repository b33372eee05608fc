"""Everything that is learned from reviews: the encoder, the network, the wide part, their weights; self-training."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from sentiment_model.batching import TokenizedReviews
from sentiment_model.calibration import Floats, fit_combination, fit_temperature
from sentiment_model.config import ModelConfig, TrainConfig
from sentiment_model.inference import predict_logits
from sentiment_model.language_model import pretrain
from sentiment_model.naive_bayes import fit_ngrams
from sentiment_model.network import SentimentModel
from sentiment_model.ngrams import NGramScore
from sentiment_model.training import EpochMetrics, Observer, PretrainingMetrics, TrainingResult, check_labels, train

_TOKENS_PER_BATCH = 16_384


@dataclass(frozen=True)
class FittedModel:
    """State of a :class:`SentimentModel`, and what came with it.

    Attributes:
        weights: the state.
        temperature: divisor of the logits that calibrates them.
        probabilities: calibrated, of the validation reviews, float64, shape (reviews,).
        history: how training went.
    """

    weights: dict[str, Tensor]
    temperature: float
    probabilities: Tensor
    history: list[EpochMetrics]


def fit_model(
    reviews: TokenizedReviews,
    validation: TokenizedReviews,
    unlabelled: TokenizedReviews | None,
    vocabulary_size: int,
    model_config: ModelConfig,
    config: TrainConfig,
    *,
    device: torch.device,
    checkpoint: Path,
    observer: Observer | None = None,
) -> FittedModel | None:
    """Train the network, fit the wide part beside it, and weigh both on the validation reviews.

    With `config.pretraining_tokens`, networks start from an encoder that has learned to predict the tokens of all these
    reviews. With `config.self_training`, a second network learns the labelled reviews and the first model's
    probabilities of the others, and replaces the first if that makes the model's validation loss lower: self-training
    with soft labels, as in Xie et al. (2020), "Self-Training with Noisy Student". The wide part learns from the
    labelled reviews alone; taught by the model it repeats what the network says and the sum gets worse.

    Args:
        reviews: labelled reviews to train on.
        validation: labelled reviews that choose the epoch, the weights of the parts and the temperature.
        unlabelled: reviews whose labels are not looked at, or None.
        vocabulary_size: number of token ids.
        model_config: architecture.
        config: optimisation.
        device: where to compute.
        checkpoint: file from which an interrupted training resumes; each phase has one of its own beside it.
        observer: is told how training goes.

    Returns:
        the model; None on all of several processes but the first.

    Raises:
        QualityError: a split is empty or has a row without a label, or the validation reviews are of one class.
        ModelError: the loss is no longer finite, or the checkpoint is damaged.
    """
    check_labels(reviews, validation)  # before an hour of pretraining
    phases = _Phases(observer)
    pretrained = None
    if config.pretraining_tokens:
        encoder = pretrain(
            reviews if unlabelled is None else reviews.join(unlabelled),
            validation,
            vocabulary_size,
            model_config,
            config,
            device=device,
            checkpoint=_phase_checkpoint(checkpoint, "pretraining"),
            observer=phases,
        )
        pretrained = encoder.weights
        phases.end(encoder.steps)

    def fit_network(learned_from: TokenizedReviews, phase: str) -> TrainingResult:
        result = train(
            learned_from,
            validation,
            vocabulary_size,
            model_config,
            config,
            device=device,
            checkpoint=_phase_checkpoint(checkpoint, phase),
            observer=phases,
            pretrained=pretrained,
        )
        phases.end(result.steps, len(result.history))
        return result

    networks = [fit_network(reviews, "first")]
    is_first = not dist.is_initialized() or dist.get_rank() == 0
    wide = fit_ngrams(reviews, model_config.ngrams) if is_first and model_config.ngrams else None
    if config.self_training and unlabelled is not None and len(unlabelled):
        labels = torch.empty(len(unlabelled), device=device)
        if is_first:
            teacher = _weigh(networks[0], wide, validation)
            labels.copy_(_probabilities(teacher, unlabelled, vocabulary_size, model_config, device))
        if dist.is_initialized():
            dist.broadcast(labels, 0)
        networks.append(fit_network(reviews.join(replace(unlabelled, labels=labels.cpu())), "second"))
    if not is_first:
        return None
    history: list[EpochMetrics] = []
    for network in networks:
        history += [_later(metrics, len(history)) for metrics in network.history]
    models = (_weigh(network, wide, validation) for network in networks)
    return replace(min(models, key=lambda model: _loss(model, validation)), history=history)


def _phase_checkpoint(checkpoint: Path, phase: str) -> Path:
    return checkpoint.with_stem(f"{checkpoint.stem}-{phase}")


def checkpoints(checkpoint: Path) -> list[Path]:
    """Return the checkpoints that there are of a training."""
    return sorted(checkpoint.parent.glob(f"{checkpoint.stem}-*{checkpoint.suffix}"))


class _Phases:
    """Numbers the steps and epochs of each phase after those of the ones before."""

    def __init__(self, observer: Observer | None) -> None:
        self._observer, self._steps, self._epochs = observer, 0, 0

    def end(self, steps: int, epochs: int = 0) -> None:
        """Begin another phase; the one before took so many."""
        self._steps += steps
        self._epochs += epochs

    def on_step(self, step: int, total_steps: int, loss: float) -> None:
        if self._observer:
            self._observer.on_step(step + self._steps, total_steps + self._steps, loss)

    def on_pretraining_epoch(self, metrics: PretrainingMetrics) -> None:
        if self._observer:
            self._observer.on_pretraining_epoch(metrics)

    def on_epoch(self, metrics: EpochMetrics) -> None:
        if self._observer:
            self._observer.on_epoch(_later(metrics, self._epochs))


def _later(metrics: EpochMetrics, epochs: int) -> EpochMetrics:
    return replace(metrics, epoch=metrics.epoch + epochs)


def _loss(model: FittedModel, validation: TokenizedReviews) -> float:
    return F.binary_cross_entropy(model.probabilities, validation.labels.double()).item()


def _weigh(result: TrainingResult, wide: NGramScore | None, validation: TokenizedReviews) -> FittedModel:
    """Put the parts together, the wide one scaled so that their sum is the logit."""
    weights = {f"recurrent.{name}": tensor for name, tensor in result.weights.items()}
    logits, labels = result.validation_logits.numpy(), validation.labels.numpy()
    if wide is None:
        temperature = fit_temperature(logits, labels)
        return FittedModel(weights, temperature, _sigmoid(logits, temperature), result.history)
    scores = predict_logits(wide, validation, _TOKENS_PER_BATCH, torch.device("cpu")).numpy()
    temperature, scale, shift = fit_combination(logits, scores, labels)
    weights |= {
        "wide.weight": wide.weight * scale,
        "wide.check": wide.check,
        "wide.bias": wide.bias * scale + shift,
    }
    probabilities = _sigmoid(logits + scale * scores + shift, temperature)
    return FittedModel(weights, temperature, probabilities, result.history)


def _sigmoid(logits: Floats, temperature: float) -> Tensor:
    return torch.sigmoid(torch.from_numpy(logits).double() / temperature)


def _probabilities(
    fitted: FittedModel, reviews: TokenizedReviews, vocabulary_size: int, config: ModelConfig, device: torch.device
) -> Tensor:
    model = SentimentModel(vocabulary_size, config)
    model.load_state_dict(fitted.weights)
    parts = predict_logits(model.to(device), reviews, _TOKENS_PER_BATCH, device, parts=(2,))
    return torch.sigmoid(parts.sum(dim=1) / fitted.temperature)
