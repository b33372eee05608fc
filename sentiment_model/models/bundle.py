"""A trained model as a folder, and the predictor that answers from it.

The folder holds ``weights.safetensors``, ``vocabulary.parquet`` and ``model.json``, which names the digests of the
other two, so parts of different models are never mixed. Nothing in it is executable.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sentiment_model.classes import BINARY, Classes
from sentiment_model.config import ModelConfig
from sentiment_model.errors import ModelError
from sentiment_model.models.drift import Histograms, misfit
from sentiment_model.networks.inference import predict_logits
from sentiment_model.networks.network import SentimentModel
from sentiment_model.networks.outputs import logits_of, probabilities_of
from sentiment_model.store.datasets import sha256_of
from sentiment_model.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from sentiment_model.networks.fused import FusedModel
    from sentiment_model.text.scanner import Scanner

WEIGHTS, VOCABULARY, DESCRIPTION = "weights.safetensors", "vocabulary.parquet", "model.json"
TOKENS_PER_BATCH = 16_384
FORMAT = 6
"""Of the folder, and of what its numbers mean: the network's layers, the tokens of a text, the bins of the reference.

A new one tells the models written before apart, which this code would load wrongly or not at all.
"""


class ModelDescription(BaseModel):
    """Everything but the weights and the vocabulary that a prediction depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    classes: Classes = BINARY
    network: ModelConfig
    max_tokens: int
    vocabulary_size: int
    temperature: float
    weights_sha256: str
    vocabulary_digest: str
    trained_on: dict[str, str]
    reference: dict[str, tuple[int, ...]]
    scripts: tuple[str, ...] = ()  # of its training reviews; older models do not know them

    @property
    def digest(self) -> str:
        """Hash that names weights, vocabulary and configuration together."""
        # What does not change a prediction has no part in it, and older models name neither that nor their classes.
        unnamed: dict[str, Any] = {"network": {"vectors"}, "scripts": True}
        if self.classes == BINARY:
            unnamed["classes"] = True
        content = self.model_dump_json(exclude=unnamed)
        return hashlib.sha256(content.encode()).hexdigest()[:20]

    @classmethod
    def read(cls, folder: Path) -> "ModelDescription":
        """Read the description of the model in a folder.

        Raises:
            ModelError: there is none, it is damaged, or of another format.
        """
        try:
            content = (folder / DESCRIPTION).read_bytes()
            found = _Versioned.model_validate_json(content).format
            if found != FORMAT:
                raise _other_version(folder, f"format {found}, where this one reads {FORMAT}")
            description = cls.model_validate_json(content)
        except FileNotFoundError as error:
            raise ModelError(f"{folder} is not a model: it has no {DESCRIPTION}") from error
        except ValidationError as error:
            raise ModelError(f"{folder / DESCRIPTION} is damaged; register the model again") from error
        if fault := misfit(description.reference, len(description.classes)):
            raise _other_version(folder, fault)
        return description


class _Versioned(BaseModel):
    """What every format of a description has."""

    format: int


def _other_version(folder: Path, fault: str) -> ModelError:
    return ModelError(
        f"{folder / DESCRIPTION} is of another version of the project ({fault}); train the model again, or install the "
        "version that wrote it"
    )


def save_bundle(
    folder: Path,
    weights: Mapping[str, Tensor],
    vocabulary: Vocabulary,
    network: ModelConfig,
    classes: Classes,
    *,
    max_tokens: int,
    temperature: float,
    trained_on: Mapping[str, str],
    reference: Histograms,
) -> ModelDescription:
    """Write a model's three files into an existing folder.

    Args:
        folder: where to write.
        weights: state of a :class:`SentimentModel`.
        vocabulary: the vocabulary it was trained with.
        network: its architecture.
        classes: what it tells apart.
        max_tokens: length to which reviews are cut, in tokens.
        temperature: divisor of the logits that calibrates the probabilities.
        trained_on: fingerprints of the datasets it was made from, by stage.
        reference: distributions of its scores of the validation reviews, to notice drift by; may be empty.
    """
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    vocabulary.save(folder / VOCABULARY)
    description = ModelDescription(
        classes=classes,
        network=network,
        max_tokens=max_tokens,
        vocabulary_size=len(vocabulary),
        temperature=temperature,
        weights_sha256=sha256_of(folder / WEIGHTS),
        vocabulary_digest=vocabulary.digest,
        trained_on=dict(trained_on),
        reference=dict(reference),
        scripts=tuple(vocabulary.scripts),
    )
    (folder / DESCRIPTION).write_text(description.model_dump_json(indent=2))
    return description


@dataclass(frozen=True)
class Predictor:
    """Labels raw text with a trained model, through the same text functions as training."""

    model: SentimentModel
    vocabulary: Vocabulary
    description: ModelDescription
    device: torch.device

    @classmethod
    def load(cls, folder: Path, device: torch.device | None = None) -> "Predictor":
        """Load a model folder.

        Raises:
            ModelError: a file is missing or damaged, or weights and vocabulary do not belong together.
        """
        description = ModelDescription.read(folder)
        for name in (WEIGHTS, VOCABULARY):
            if not (folder / name).is_file():
                raise ModelError(f"{folder} is not a model: it has no {name}")
        try:
            if sha256_of(folder / WEIGHTS) != description.weights_sha256:
                raise ModelError(f"{folder / WEIGHTS} is damaged or of another model; register the model again")
            weights = load_file(folder / WEIGHTS)
        except SafetensorError as error:
            raise ModelError(f"{folder / WEIGHTS} is damaged: {error}") from error
        vocabulary = Vocabulary.load(folder / VOCABULARY)
        if vocabulary.digest != description.vocabulary_digest or len(vocabulary) != description.vocabulary_size:
            raise ModelError(
                f"the vocabulary in {folder} ({len(vocabulary)} tokens) does not fit the model "
                f"({description.vocabulary_size} tokens); register the model again"
            )
        model = SentimentModel(len(vocabulary), description.network, len(description.classes))
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelError(f"the weights in {folder} do not fit {DESCRIPTION}; register the model again") from error
        device = device or torch.device("cpu")
        return cls(model.to(device).eval(), vocabulary, description, device)

    @property
    def digest(self) -> str:
        """Hash that names weights, vocabulary and configuration together."""
        return self.description.digest

    @property
    def classes(self) -> Classes:
        """What it tells apart."""
        return self.description.classes

    def predict(self, texts: pl.Series) -> pl.DataFrame:
        """Score raw texts.

        Args:
            texts: raw text without nulls, length n. A text without tokens gets the model's answer to nothing.

        Returns:
            n rows in the same order: of each class, as arrays, the `probabilities` (calibrated), `logits`
            (uncalibrated) and `recurrent` (the recurrent part of the logits); `n_tokens` (before truncation) and
            `n_unknown`.
        """
        read = self._scanner.read(texts.cast(pl.String))
        if self._fused:
            parts = self._fused.score(read.reviews).double()
        else:
            parts = predict_logits(self.model, read.reviews, TOKENS_PER_BATCH, self.device).double()
        answers = parts.sum(dim=1)
        return pl.DataFrame(
            {
                "probabilities": probabilities_of(answers, self.description.temperature).numpy(),
                "logits": logits_of(answers).numpy(),
                "recurrent": logits_of(parts[:, 0]).numpy(),
                "n_tokens": read.n_tokens,
                "n_unknown": read.n_unknown,
            }
        )

    @cached_property
    def _scanner(self) -> "Scanner":
        from sentiment_model.text.scanner import Scanner  # what it compiles loads in half a second

        return Scanner(self.vocabulary, self.description.max_tokens)

    @cached_property
    def _fused(self) -> "FusedModel | None":
        from sentiment_model.networks.fused import FusedModel, can_be_fused

        return FusedModel(self.model) if self.device.type == "cpu" and can_be_fused(self.model) else None
