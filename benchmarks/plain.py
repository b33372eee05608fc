"""Recurrent classifiers as tutorials write them: the peers in quality and the yardstick in speed.

They read the same tokens as ours. Batches are random, padded at the end to their longest review; nothing is masked, so
the last state is that of the padding.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.data import Split
from sentiment_model.config import TokenizeConfig
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.text.normalise import normalise
from sentiment_model.text.tokenize import encode
from sentiment_model.text.vocabulary import Vocabulary

BATCH, EPOCHS, HIDDEN, EMBEDDING, LEARNING_RATE = 64, 4, 64, 100, 1e-3
_TOKENS = TokenizeConfig()
_CELLS: dict[str, type[nn.RNN | nn.LSTM]] = {"rnn": nn.RNN, "lstm": nn.LSTM}


class PlainNetwork(nn.Module):
    """Embedding, one recurrent layer of PyTorch, last states, linear layer."""

    def __init__(self, cell: str, bidirectional: bool, vocabulary_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, EMBEDDING)
        self.recurrent = _CELLS[cell](EMBEDDING, HIDDEN, batch_first=True, bidirectional=bidirectional)
        self.classifier = nn.Linear(HIDDEN * (2 if bidirectional else 1), 1)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits of the positive class, shape (batch,), of ids of shape (batch, time)."""
        last = self.recurrent(self.embedding(ids))[1]
        hidden: Tensor = last[0] if isinstance(last, tuple) else last
        logits: Tensor = self.classifier(hidden.transpose(0, 1).flatten(1)).squeeze(-1)
        return logits


class PlainTrainer:
    """Adam on random batches."""

    def __init__(self, network: PlainNetwork, reviews: TokenizedReviews, seed: int) -> None:
        self._network, self._reviews = network, reviews
        self._generator = torch.Generator().manual_seed(seed)
        self._optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

    def epoch(self) -> Iterator[int]:
        """Go once through the reviews; yield the number of tokens, without padding, after each step."""
        self._network.train()
        for rows in torch.randperm(len(self._reviews), generator=self._generator).split(BATCH):
            ids, lengths = self._reviews.batch(rows, int(self._reviews.lengths[rows].max()))
            loss = F.binary_cross_entropy_with_logits(self._network(ids), self._reviews.labels[rows])
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            self._optimizer.step()
            yield int(lengths.sum())


def plain_logits(network: PlainNetwork, reviews: TokenizedReviews) -> Tensor:
    """Return the logits of all reviews, in batches in their order, shape (reviews,)."""
    network.eval()
    with torch.inference_mode():
        parts = [
            network(reviews.batch(rows, int(reviews.lengths[rows].clamp(min=1).max()))[0])
            for rows in torch.arange(len(reviews)).split(BATCH)
        ]
    return torch.cat(parts)


def fit(train: Split, folder: Path, seed: int, cell: str, *, bidirectional: bool) -> None:
    """Train a plain network and write its weights and vocabulary."""
    frame = pl.DataFrame({"text": train.text, "label": train.labels})
    vocabulary = Vocabulary.fit(frame.lazy(), _TOKENS)
    reviews = TokenizedReviews.from_frame(encode(frame, vocabulary, _TOKENS.max_tokens))
    torch.manual_seed(seed)
    network = PlainNetwork(cell, bidirectional, len(vocabulary))
    trainer = PlainTrainer(network, reviews, seed)
    # Not in tutorials, but without it gradients that fade in the padding make the training several times slower on CPU.
    torch.set_flush_denormal(True)
    for _ in range(EPOCHS):
        for _ in trainer.epoch():
            pass
    save_file(network.state_dict(), folder / "weights.safetensors")
    vocabulary.save(folder / "vocabulary.parquet")


def load(folder: Path, cell: str, *, bidirectional: bool) -> Callable[[pl.Series], NDArray[np.float64]]:
    """Return the function from raw texts to the probability of positive."""
    vocabulary = Vocabulary.load(folder / "vocabulary.parquet")
    network = PlainNetwork(cell, bidirectional, len(vocabulary))
    network.load_state_dict(load_file(folder / "weights.safetensors"))

    def score(raw: pl.Series) -> NDArray[np.float64]:
        frame = pl.DataFrame({"text": raw}).select(normalise(pl.col("text")))
        reviews = TokenizedReviews.from_frame(encode(frame, vocabulary, _TOKENS.max_tokens).select("ids"))
        probabilities: NDArray[np.float64] = torch.sigmoid(plain_logits(network, reviews).double()).numpy()
        return probabilities

    return score
