"""Models small enough to make in a test."""

from pathlib import Path

import polars as pl
import torch

from sentiment_model.bundle import ModelDescription, save_bundle
from sentiment_model.config import ModelConfig, TokenizeConfig
from sentiment_model.network import SentimentModel
from sentiment_model.vocabulary import Vocabulary

WORDS = "a film that is good bad great awful , . not"


def tiny_bundle(
    folder: Path, seed: int = 0, words: str = WORDS, reference: dict[str, tuple[int, ...]] | None = None
) -> ModelDescription:
    """Write an untrained model into `folder`; another seed is another model."""
    folder.mkdir(parents=True, exist_ok=True)
    reviews = pl.LazyFrame({"text": [words, words]})
    vocabulary = Vocabulary.fit(reviews, TokenizeConfig(max_vocabulary=100, min_count=1))
    config = ModelConfig(hidden_size=8, embedding_size=8)
    torch.manual_seed(seed)
    model = SentimentModel(len(vocabulary), config)
    torch.nn.init.normal_(model.recurrent.embedding.weight)  # so that words differ clearly
    return save_bundle(
        folder,
        model.state_dict(),
        vocabulary,
        config,
        max_tokens=20,
        temperature=1.5,
        trained_on={"tokenize": "0123456789abcdef0123"},
        reference=reference or {},
    )
