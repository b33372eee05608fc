"""Logistic regression on the n-grams of reviews, for several strengths of the regularisation at a time.

Dual coordinate ascent of Yu, Huang & Lin (2011), "Dual Coordinate Descent Methods for Logistic Regression and Maximum
Entropy Models", on shards of the reviews at a time, as CoCoA+ puts it: Ma et al. (2015), "Adding vs. Averaging in
Distributed Primal-Dual Optimization". In a round each shard goes through its reviews once, as if each were there as
often as there are shards, and what the shards changed is averaged. An n-gram that fewer reviews have than there are
shards is averaged over that many. There are as many shards whatever the number of threads, and what they found is added
in their order, so that the same reviews give the same weights to the last bit.

The n-grams are hashed anew in each round: that is cheaper than memory for them, which would grow with the reviews.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sentiment_model.networks.batching import TokenizedReviews, score_in_threads
from sentiment_model.networks.device import count_cores
from sentiment_model.training.ascent_loop import ascend, score_reviews

_SHARDS = 8
_LEAST_CURVATURE = 1e-9


@dataclass(frozen=True)
class NGramValues:
    """The n-grams that are learned from.

    Attributes:
        entries: what :func:`sentiment_model.training.ngram_counts.entries_of` makes of their hashes.
        values: of a review that has it, times the root of the review's length, float64, shape (n-grams,).
        reviews: that have it, shape (n-grams,).
        max_order: largest number of tokens in one.
    """

    entries: NDArray[np.uint64]
    values: NDArray[np.float64]
    reviews: NDArray[np.float64]
    max_order: int


@dataclass(frozen=True)
class Regressions:
    """Logistic regressions of one strength each.

    Attributes:
        lines: of each n-gram its value and then what each regression multiplies it with, float32, shape
            (n-grams, 1 + strengths). The value is times the root of the shards over which the n-gram is averaged,
            the other is divided by it.
        biases: float64, shape (strengths,).
    """

    ngrams: NGramValues
    lines: NDArray[np.float32]
    biases: NDArray[np.float64]

    def weights(self, strength: int) -> NDArray[np.float32]:
        """Return what an n-gram adds to a review's score, times the root of its length, float32, shape (n-grams,)."""
        weights: NDArray[np.float32] = self.lines[:, 0] * self.lines[:, 1 + strength]
        return weights

    def scores(self, reviews: TokenizedReviews) -> NDArray[np.float32]:
        """Return the logits of reviews, float32, shape (reviews, strengths)."""
        scores = np.empty((len(reviews), len(self.biases)), dtype=np.float32)
        ngrams = self.ngrams
        score_in_threads(
            score_reviews, reviews, ngrams.entries, ngrams.max_order, self.lines, self.biases, scores=scores
        )
        return scores


def rounds(
    reviews: TokenizedReviews, labels: NDArray[np.float32], ngrams: NGramValues, strengths: NDArray[np.float64]
) -> Iterator[Regressions]:
    """Fit, and yield what there is after each round, without end.

    Args:
        reviews: the reviews.
        labels: 0 to 1: how likely each is of the class in question, shape (reviews,).
        ngrams: their n-grams.
        strengths: what each regression multiplies the losses with, whose sum it adds to half of its weights' squares.
            The bias is not regularised.
    """
    values, starts, lengths = reviews.values.numpy(), reviews.starts.numpy(), reviews.lengths.numpy()
    averaged = np.clip(ngrams.reviews, 1, _SHARDS)
    share = (1 / averaged).astype(np.float32)[:, None]
    lines = np.zeros((len(ngrams.values), 1 + len(strengths)), dtype=np.float32)
    lines[:, 0] = ngrams.values * np.sqrt(averaged)
    biases = np.zeros(len(strengths))
    residuals = np.zeros((len(labels), len(strengths)), dtype=np.float32)

    def climb(rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        changed, slopes = lines.copy(), np.zeros((2, len(strengths)))
        ascend(
            rows,
            values,
            starts,
            lengths,
            labels,
            ngrams.entries,
            ngrams.max_order,
            strengths,
            biases,
            residuals,
            changed,
            slopes,
        )
        changed -= lines
        changed *= share
        return changed, slopes

    generator = np.random.default_rng(0)
    with ThreadPoolExecutor(count_cores()) as threads:
        while True:
            order = generator.permutation(len(labels))
            slope, change = np.zeros((2, len(strengths))), np.zeros_like(lines)
            for changed, slopes in threads.map(climb, [order[shard::_SHARDS] for shard in range(_SHARDS)]):
                change += changed
                slope += slopes
            # The bias is in all reviews: ascending it as one n-gram of many would take very many rounds.
            # Newton's step, bounded: where nearly all probabilities are 0 or 1, it would go anywhere.
            lines, biases = lines + change, biases + np.clip(slope[0] / np.maximum(slope[1], _LEAST_CURVATURE), -1, 1)
            yield Regressions(ngrams, lines, biases)
