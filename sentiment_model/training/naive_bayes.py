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
from sentiment_model.networks.ngrams import NGramScore, bucket_of, check_of
from sentiment_model.training.calibration import calibrated_loss
from sentiment_model.training.dual_ascent import NGramValues, Regressions, rounds
from sentiment_model.training.ngram_counts import NGramCounts, count_ngrams, entries_of

_INVERSE_REGULARISATIONS = (1.0, 3.0, 10.0, 30.0, 100.0)
_MOST_ROUNDS = 20
_PATIENCE = 2
_WORTH_A_ROUND = 1e-4  # nats of validation loss
_PRIOR_REVIEWS = 1.0


def fit_ngrams(reviews: TokenizedReviews, validation: TokenizedReviews, max_order: int) -> NGramScore:
    """Fit the n-gram weights on labelled reviews of both classes.

    The calibrated log loss of the validation reviews chooses among strengths of the regularisation, and says when to
    stop. N-grams of fewer than two reviews get no weight, nor those that are not the most frequent of their bucket.

    The time is linear in the tokens. Beside the reviews, memory is taken for the n-grams, at most four million, and
    little for a review: the sets of weights that the threads work on, and 28 bytes.

    Args:
        reviews: reviews with labels.
        validation: others with labels.
        max_order: largest number of tokens in an n-gram.

    Raises:
        QualityError: the validation reviews are of one class.
    """
    counts = count_ngrams(reviews, max_order)
    ngrams = NGramValues(entries_of(counts.hashes), log_ratio(counts), counts.reviews, max_order)
    labels = validation.labels.numpy()
    lowest, best, waited = np.inf, NGramScore(max_order), 0
    for fitted in islice(rounds(reviews, ngrams, np.array(_INVERSE_REGULARISATIONS)), _MOST_ROUNDS):
        losses = [calibrated_loss(logits, labels) for logits in fitted.scores(validation).T]
        waited = 0 if min(losses) < lowest - _WORTH_A_ROUND else waited + 1
        if min(losses) < lowest:
            lowest, best = min(losses), _score(fitted, int(np.argmin(losses)), torch.from_numpy(counts.hashes))
        if waited == _PATIENCE:
            break
    return best


def log_ratio(counts: NGramCounts) -> NDArray[np.float64]:
    """Return by how much each n-gram is more frequent in positive reviews than in negative ones, in nats."""
    positive = _PRIOR_REVIEWS + counts.positive
    negative = _PRIOR_REVIEWS + counts.reviews - counts.positive
    ratio: NDArray[np.float64] = np.log(positive / positive.sum()) - np.log(negative / negative.sum())
    return ratio


def _score(fitted: Regressions, strength: int, hashes: torch.Tensor) -> NGramScore:
    score = NGramScore(fitted.ngrams.max_order)
    score.weight[bucket_of(hashes)] = torch.from_numpy(fitted.weights(strength))
    score.check[bucket_of(hashes)] = check_of(hashes)
    score.bias.fill_(float(fitted.biases[strength]))
    return score
