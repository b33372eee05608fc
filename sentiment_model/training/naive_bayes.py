"""Fitting of the wide part: logistic regression on n-grams weighted by naive Bayes.

The method is NB-SVM of Wang & Manning (2012), "Baselines and Bigrams: Simple, Good Sentiment and Topic
Classification", with the logistic loss. As there, an n-gram that a review repeats counts once: what is repeated is
often the name of what is reviewed. Unlike there, the sum is divided by the root of the review's length, and validation
says how strong the regularisation is: what suits 14,000 long reviews is far too weak for 37,000 of a few words.
"""

from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.networks.ngrams import NGramScore
from sentiment_model.networks.outputs import count_outputs, shares_of
from sentiment_model.training.calibration import calibrated_loss
from sentiment_model.training.dual_ascent import NGramValues, rounds
from sentiment_model.training.ngram_counts import NGramCounts, count_ngrams, entries_of

_INVERSE_REGULARISATIONS = (1.0, 3.0, 10.0, 30.0, 100.0)
_MOST_ROUNDS = 20
_PATIENCE = 2
_WORTH_A_ROUND = 1e-4  # nats of validation loss
_PRIOR_REVIEWS = 1.0


def fit_ngrams(reviews: TokenizedReviews, validation: TokenizedReviews, max_order: int, classes: int = 2) -> NGramScore:
    """Fit the n-gram weights on labelled reviews: of the second of two classes, or of each of more against the others.

    The calibrated log loss of the validation reviews chooses among strengths of the regularisation, and says when to
    stop. N-grams of fewer than two reviews get no weight, nor those that are not the most frequent of their bucket.

    The time is linear in the tokens. Beside the reviews, memory is taken for the n-grams, at most four million, and
    little for a review: the sets of weights that the threads work on, and 28 bytes.

    Args:
        reviews: reviews with labels.
        validation: others with labels.
        max_order: largest number of tokens in an n-gram.
        classes: how many there are.

    Raises:
        QualityError: the validation reviews are of one class.
    """
    score = NGramScore(max_order, classes)
    labels, truth = (_labels(split, classes) for split in (reviews, validation))
    counts = count_ngrams(reviews, labels, max_order)
    entries, weights = entries_of(counts.hashes), np.empty((len(counts.hashes), labels.shape[1]), dtype=np.float32)
    for output in range(labels.shape[1]):
        ngrams = NGramValues(entries, log_ratio(counts, output), counts.reviews, max_order)
        weights[:, output], bias = _fit(reviews, labels[:, output], ngrams, validation, truth[:, output])
        score.bias[output] = bias
    score.learn(torch.from_numpy(counts.hashes), torch.from_numpy(weights))
    return score


def log_ratio(counts: NGramCounts, label: int) -> NDArray[np.float64]:
    """Return by how much each n-gram is more frequent in reviews of a label than in others, in nats."""
    with_label = _PRIOR_REVIEWS + counts.labelled[:, label]
    without = _PRIOR_REVIEWS + counts.reviews - counts.labelled[:, label]
    ratio: NDArray[np.float64] = np.log(with_label / with_label.sum()) - np.log(without / without.sum())
    return ratio


def _labels(reviews: TokenizedReviews, classes: int) -> NDArray[np.float32]:
    """Return how much of each review is of the class that each output stands for, shape (reviews, outputs)."""
    shares = shares_of(reviews.labels, classes).numpy()
    return np.ascontiguousarray(shares[:, -count_outputs(classes) :])


def _fit(
    reviews: TokenizedReviews,
    labels: NDArray[np.float32],
    ngrams: NGramValues,
    validation: TokenizedReviews,
    truth: NDArray[np.float32],
) -> tuple[NDArray[np.float32], float]:
    """Return the weights of one output's n-grams, shape (n-grams,), and its bias."""
    lowest, waited = np.inf, 0
    best = np.zeros(len(ngrams.values), dtype=np.float32), 0.0
    for fitted in islice(rounds(reviews, labels, ngrams, np.array(_INVERSE_REGULARISATIONS)), _MOST_ROUNDS):
        scores = fitted.scores(validation).T
        losses = [calibrated_loss(np.stack([np.zeros_like(logits), logits], axis=1), truth) for logits in scores]
        waited = 0 if min(losses) < lowest - _WORTH_A_ROUND else waited + 1
        if min(losses) < lowest:
            strength = int(np.argmin(losses))
            lowest, best = min(losses), (fitted.weights(strength), float(fitted.biases[strength]))
        if waited == _PATIENCE:
            break
    return best
