"""Scoring on a CPU in one pass over a review's tokens, for models of one layer that can be looked up.

What such a layer computes of a token depends on the token alone, so that all of it is a table; what is left is to read
a token's line of it, to go on with the state, and to look the n-grams up. PyTorch does that an operation at a time,
each of which writes what the next one reads. Here one compiled loop does it for one review after the other, whose state
never leaves the nearest cache. A review is computed alone: its score is the same to the last bit whatever is scored
beside it.
"""

from typing import cast

import numpy as np
import torch
from torch import Tensor

from sentiment_model.networks.batching import TokenizedReviews, score_in_threads
from sentiment_model.networks.mingru import MinGRULayer
from sentiment_model.networks.network import Direction, SentimentModel
from sentiment_model.networks.pooling_loop import POOLINGS
from sentiment_model.networks.review_loop import score_reviews


class FusedModel:
    """The parameters of a :class:`SentimentModel`, laid out for the loop."""

    def __init__(self, model: SentimentModel) -> None:
        """Lay out.

        Args:
            model: one that :func:`can_be_fused`, on the CPU.
        """
        encoder, config = model.recurrent.encoder, model.recurrent.config
        with torch.inference_mode():
            lines = []
            for direction in encoder.directions:
                layer = cast("MinGRULayer", cast("Direction", direction).layers[0])
                # In float64, so that neither the processor nor its libraries have a say in what is looked up.
                embedding = encoder.embedding.weight.double()
                update = torch.sigmoid(embedding @ layer.update.weight.double().T + layer.update.bias.double())
                candidate = embedding @ layer.candidate.weight.double().T + layer.candidate.bias.double()
                lines.append(torch.stack([1 - update, update * candidate], dim=1).float())
            self._table = torch.stack(lines).numpy()
            classifier = model.recurrent.classifier
            self._classifier = classifier.weight.view(-1, len(lines), len(config.pooling), config.hidden_size).numpy()
            self._bias = classifier.bias.numpy()
        self._poolings = np.array([POOLINGS.index(kind) for kind in config.pooling], dtype=np.int64)
        wide = model.wide
        self._max_order = 0 if wide is None else wide.max_order
        self._entries = np.zeros(0, dtype=np.uint64)
        self._weights = np.zeros((0, len(self._bias)), dtype=np.float32)
        self._counts_once, self._wide_bias = True, np.zeros_like(self._bias)
        if wide is not None:
            check, weight = wide.check.numpy().view(np.uint16).astype(np.uint64), wide.weight.numpy()
            if wide.place is None:
                # Weight and check in one word: one access to memory in place of two.
                said = weight.ravel().view(np.uint32)
            else:
                said, self._weights = wide.place.numpy().view(np.uint32), weight
            self._entries = (check << np.uint64(32)) | said
            self._counts_once, self._wide_bias = bool(wide.counts_once), wide.bias.numpy()

    def score(self, reviews: TokenizedReviews) -> Tensor:
        """Return the logits of the parts, as :class:`SentimentModel` does, float32, shape (reviews, 2, outputs)."""
        logits = np.empty((len(reviews), 2, len(self._bias)), dtype=np.float32)
        parameters = self._table, self._classifier, self._poolings, self._bias
        of_ngrams = self._entries, self._weights, self._max_order, self._counts_once, self._wide_bias
        score_in_threads(score_reviews, reviews, *parameters, *of_ngrams, scores=logits)
        return torch.from_numpy(logits)


def can_be_fused(model: SentimentModel) -> bool:
    """Return whether a model has one layer of minimal gated recurrent units in each direction."""
    config = model.recurrent.config
    return config.cell == "mingru" and config.layers == 1
