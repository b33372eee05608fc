"""Everything that is learned from reviews: the encoder, the network, the wide part, their weights; distillation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from sentiment_model.config import ModelConfig, TrainConfig
from sentiment_model.models.bundle import TOKENS_PER_BATCH
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.networks.inference import predict_logits
from sentiment_model.networks.network import EMBEDDING_STD, PAD_ID, SentimentNetwork
from sentiment_model.networks.ngrams import NGramScore
from sentiment_model.networks.outputs import answers_of, logits_of, probabilities_of
from sentiment_model.sources.vectors import WordVectors
from sentiment_model.training.calibration import fit_combination, fit_temperature
from sentiment_model.training.checkpoint import load_checkpoint, save_checkpoint
from sentiment_model.training.classification import TrainingResult, check_labels, train
from sentiment_model.training.history import EpochMetrics, Phase, PretrainingMetrics
from sentiment_model.training.language_model import pretrain
from sentiment_model.training.naive_bayes import fit_ngrams

# A single layer of minimal gated recurrent units looks up what others compute, see Encoder.tabulate. What it can learn
# beside a given embedding is so little that dropout would only blur it.
_STUDENT = {
    "cell": "mingru",
    "layers": 1,
    "hidden_size": 128,
    "bidirectional": True,
    "word_dropout": 0.0,
    "embedding_dropout": 0.1,
    "dropout": 0.1,
}


class PhaseObserver(Protocol):
    """Is told how all of it goes; called on the first process only."""

    def on_step(self, phase: Phase, step: int, total_steps: int, loss: float | None) -> None:
        """Called after each step of a phase with the number of steps done: of the optimizer, or batches of answers.

        Answers have no loss.
        """

    def on_epoch(self, phase: Phase, metrics: PretrainingMetrics) -> None:
        """Called after each epoch of a training, with :class:`EpochMetrics` for all but pretraining."""


@dataclass(frozen=True)
class FittedModel:
    """State of a :class:`SentimentModel`, and what came with it.

    Attributes:
        network: architecture.
        weights: the state.
        temperature: divisor of the logits that calibrates them.
        probabilities: calibrated, of the validation reviews, float64, shape (reviews, classes).
        history: how the training of this network went.
    """

    network: ModelConfig
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
    classes: int = 2,
    vectors: WordVectors | None = None,
    observer: PhaseObserver | None = None,
) -> FittedModel | None:
    """Train the network, fit the wide part beside it, and weigh both on the validation reviews.

    With `vectors`, the embeddings of their tokens start from them. With `config.pretraining_tokens`, the network starts
    from an encoder that has learned to predict the tokens of all these reviews. With `config.distillation`, it only
    teaches a smaller one, see :func:`student_of`, which takes its embedding over as it is, and learns its probabilities
    of all these reviews and of their halves: Hinton et al. (2015), "Distilling the Knowledge in a Neural Network". The
    wide part has no part in that, since it stands beside the student too, and learns from the labelled reviews alone.

    Args:
        reviews: labelled reviews to train on.
        validation: labelled reviews that choose the epoch, the weights of the parts and the temperature.
        unlabelled: reviews whose labels are not looked at, or None.
        vocabulary_size: number of token ids.
        model_config: architecture.
        config: optimisation.
        device: where to compute.
        checkpoint: file from which an interrupted training resumes; each phase has one of its own beside it.
        classes: how many there are.
        vectors: of some tokens, with as many numbers as an embedding.
        observer: is told how training goes.

    Returns:
        the model; None on all of several processes but the first.

    Raises:
        QualityError: a split is empty or has a row without a label, or the validation reviews are of one class.
        ModelError: the loss is no longer finite, or the checkpoint is damaged.
    """
    check_labels(reviews, validation)  # before an hour of pretraining
    everything = reviews if unlabelled is None else reviews.join(unlabelled)
    model_config = model_config.model_copy(update={"vectors": None})  # what the model was made from it does not need
    start: Mapping[str, Tensor] = {}
    if vectors:
        start = {"embedding.weight": _embedding(vectors, vocabulary_size, config.seed)}
    if config.pretraining_tokens:
        start = pretrain(
            everything,
            validation,
            vocabulary_size,
            model_config,
            config,
            device=device,
            checkpoint=_phase_checkpoint(checkpoint, "pretraining"),
            start=start,
            observer=_PhaseReporter(observer, "pretraining"),
        )

    def fit_network(
        phase: Phase,
        learned_from: TokenizedReviews,
        architecture: ModelConfig,
        start: Mapping[str, Tensor],
        fixed_embedding: bool = False,
    ) -> TrainingResult:
        return train(
            learned_from,
            validation,
            vocabulary_size,
            architecture,
            config,
            device=device,
            checkpoint=_phase_checkpoint(checkpoint, phase),
            classes=classes,
            observer=_PhaseReporter(observer, phase),
            pretrained=start,
            fixed_embedding=fixed_embedding,
        )

    if config.distillation:
        teacher = fit_network("teacher", reviews, model_config, start)
        questions = everything.join(everything.halves())
        answers = _answers(
            teacher,
            questions,
            validation,
            SentimentNetwork(vocabulary_size, model_config, classes),
            device=device,
            checkpoint=_phase_checkpoint(checkpoint, "answers"),
            observer=_PhaseReporter(observer, "answers"),
        )
        model_config = student_of(model_config)
        start = {"embedding.weight": teacher.weights["encoder.embedding.weight"]}
        taught = replace(questions, labels=answers)
        result = fit_network("training", taught, model_config, start, fixed_embedding=True)
    else:
        result = fit_network("training", reviews, model_config, start)
    if dist.is_initialized() and dist.get_rank() > 0:
        return None
    order = model_config.ngram_order
    wide = fit_ngrams(reviews, validation, order, classes) if order else None
    prior = reviews.labels.long().bincount(minlength=classes).double() / len(reviews)
    return _weigh(model_config, result, wide, validation, -config.prior_shift * prior.log())


def student_of(teacher: ModelConfig) -> ModelConfig:
    """Return the architecture that learns from a teacher: one that scoring has little work with."""
    return teacher.model_copy(update=_STUDENT)


def _embedding(vectors: WordVectors, vocabulary_size: int, seed: int) -> Tensor:
    """Return an embedding of all tokens, random where there is no vector, and all of the size of a random one."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(vocabulary_size, vectors.values.shape[1]).normal_(std=EMBEDDING_STD, generator=generator)
    weight[PAD_ID] = 0.0
    size = vectors.values.double().square().mean().sqrt().clamp(min=1e-12)
    weight[vectors.ids] = (vectors.values * (EMBEDDING_STD / size)).float()
    return weight


def _phase_checkpoint(checkpoint: Path, phase: Phase) -> Path:
    return checkpoint.with_stem(f"{checkpoint.stem}-{phase}")


def checkpoints(checkpoint: Path) -> list[Path]:
    """Return the checkpoints that there are of a training."""
    return sorted(checkpoint.parent.glob(f"{checkpoint.stem}-*{checkpoint.suffix}"))


@dataclass(frozen=True)
class _PhaseReporter:
    """Tells the observer which phase it is."""

    observer: PhaseObserver | None
    phase: Phase

    def on_step(self, step: int, total_steps: int, loss: float | None = None) -> None:
        if self.observer:
            self.observer.on_step(self.phase, step, total_steps, loss)

    def on_epoch(self, metrics: PretrainingMetrics) -> None:
        if self.observer:
            self.observer.on_epoch(self.phase, metrics)


def _weigh(
    network: ModelConfig,
    result: TrainingResult,
    wide: NGramScore | None,
    validation: TokenizedReviews,
    prior_shift: Tensor,
) -> FittedModel:
    """Put the parts together, the wide one scaled so that their sums are the logits.

    `prior_shift` is added to the calibrated logits of the classes, shape (classes,).
    """
    weights = {f"recurrent.{name}": tensor for name, tensor in result.weights.items()}
    answers, labels = result.validation_answers.double(), validation.labels.numpy()
    if wide is None:
        temperature = fit_temperature(logits_of(answers).numpy(), labels)
        shift = answers_of(prior_shift * temperature)
        weights["recurrent.classifier.bias"] = weights["recurrent.classifier.bias"] + shift.float()
    else:
        scores = predict_logits(wide, validation, TOKENS_PER_BATCH, torch.device("cpu")).double()
        temperature, scale, shifts = fit_combination(logits_of(answers).numpy(), logits_of(scores).numpy(), labels)
        shift = answers_of(torch.from_numpy(shifts) + prior_shift * temperature)
        weights |= {
            **{f"wide.{name}": tensor for name, tensor in wide.state_dict().items()},
            "wide.weight": wide.weight * scale,
            "wide.bias": wide.bias * scale + shift.float(),
        }
        answers = answers + scale * scores
    return FittedModel(network, weights, temperature, probabilities_of(answers + shift, temperature), result.history)


def _answers(
    teacher: TrainingResult,
    reviews: TokenizedReviews,
    validation: TokenizedReviews,
    network: SentimentNetwork,
    *,
    device: torch.device,
    checkpoint: Path,
    observer: _PhaseReporter,
) -> Tensor:
    """Return the teacher's calibrated probabilities, float32, shape (reviews, classes).

    Each process computes its share. They are kept in a checkpoint, so that a training that stops later does not ask
    again.
    """
    if saved := load_checkpoint(checkpoint):
        return saved[0]["answers"]
    network.to(device).load_state_dict(teacher.weights)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    share = torch.arange(rank, len(reviews), world)
    temperature = fit_temperature(logits_of(teacher.validation_answers).numpy(), validation.labels.numpy())
    found = predict_logits(
        network, reviews.take(share), TOKENS_PER_BATCH, device, on_batch=observer.on_step if rank == 0 else None
    )
    probabilities = probabilities_of(found, temperature).to(device, torch.float32)
    answers = torch.zeros(len(reviews), probabilities.shape[1], device=device)
    answers[share.to(device)] = probabilities
    if world > 1:
        dist.all_reduce(answers)
    answers = answers.cpu()
    if rank == 0:
        save_checkpoint(checkpoint, {"answers": answers}, {})
    return answers
