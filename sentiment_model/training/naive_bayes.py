"""Fitting of the wide part: logistic regression on n-grams weighted by naive Bayes.

The method is NB-SVM of Wang & Manning (2012), "Baselines and Bigrams: Simple, Good Sentiment and Topic
Classification", with the logistic loss. As there, an n-gram that a review repeats counts once: what is repeated is
often the name of what is reviewed. Unlike there, the sum is divided by the root of the review's length, and validation
says how strong the regularisation is: what suits 14,000 long reviews is far too weak for 37,000 of a few words.
"""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from sentiment_model.models.bundle import TOKENS_PER_BATCH
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.networks.inference import predict_logits
from sentiment_model.networks.ngrams import HASH_BITS, NGramScore, bucket_of, check_of, ngram_hashes
from sentiment_model.training.calibration import calibrated_loss

# What fits in 4 GB; more reviews change a linear model little.
MAX_TOKENS = 20_000_000
_INVERSE_REGULARISATIONS = (1.0, 3.0, 10.0, 30.0, 100.0)
_TOLERANCE = 0.01  # a hundredth of it takes three times as long and labels no review differently
_PRIOR_REVIEWS = 1.0
_MIN_REVIEWS = 2

_Numbers = NDArray[np.int64]


def fit_ngrams(reviews: TokenizedReviews, validation: TokenizedReviews, max_order: int) -> NGramScore:
    """Fit the n-gram weights on labelled reviews of both classes.

    The regularisation is made weaker for as long as that lowers the calibrated log loss of the validation reviews.

    N-grams of fewer than two reviews get no weight, nor those that are not the most frequent of their bucket. More than
    :data:`MAX_TOKENS` tokens are thinned to evenly spaced reviews.

    Args:
        reviews: reviews with labels.
        validation: others with labels.
        max_order: largest number of tokens in an n-gram.

    Raises:
        QualityError: the validation reviews are of one class.
    """
    thinned = reviews.take(torch.arange(0, len(reviews), max(1, -(-reviews.tokens // MAX_TOKENS))))
    labels = thinned.labels.double().numpy()
    rows, hashes = _occurrences(thinned, max_order)
    known, column_of, frequency = np.unique(hashes, return_inverse=True, return_counts=True)
    chosen = _choose(known, frequency)
    kept = chosen[column_of]
    rows, columns = rows[kept], (np.cumsum(chosen, dtype=np.int32) - 1)[column_of[kept]]
    positive, negative = (
        _PRIOR_REVIEWS + np.bincount(columns, weights=truth[rows], minlength=np.count_nonzero(chosen))
        for truth in (labels, 1 - labels)
    )
    ratio = np.log(positive / positive.sum()) - np.log(negative / negative.sum())
    ends = np.cumsum(np.bincount(rows, minlength=len(labels)), dtype=np.int32)
    weighted = sparse.csr_array(
        (ratio[columns] / np.sqrt(thinned.lengths.numpy())[rows], columns, np.append(np.int32(0), ends)),
        shape=(len(labels), len(ratio)),
    )
    learned = torch.from_numpy(known[chosen])

    def fit(strength: float) -> tuple[float, NGramScore]:
        model = LogisticRegression(
            C=strength, solver="liblinear", dual=True, tol=_TOLERANCE, random_state=0, max_iter=1000
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # validation judges what came of it
            model.fit(weighted, labels)
        score = NGramScore(max_order)
        score.weight[bucket_of(learned)] = torch.from_numpy(model.coef_[0] * ratio).float()
        score.check[bucket_of(learned)] = check_of(learned)
        score.bias.fill_(float(model.intercept_[0]))
        logits = predict_logits(score, validation, TOKENS_PER_BATCH, torch.device("cpu"))
        return calibrated_loss(logits.numpy(), validation.labels.numpy()), score

    lowest, best = fit(_INVERSE_REGULARISATIONS[0])
    for strength in _INVERSE_REGULARISATIONS[1:]:
        loss, score = fit(strength)
        if loss >= lowest:
            break
        lowest, best = loss, score
    return best


def _occurrences(reviews: TokenizedReviews, max_order: int) -> tuple[_Numbers, _Numbers]:
    """Return which n-grams each review has: row and hash, each pair once, ordered by row."""
    row = torch.repeat_interleave(torch.arange(len(reviews)), reviews.lengths)
    ids = reviews.flat()
    keys = []
    for order in range(1, min(max_order, len(row)) + 1):
        starts = len(row) - order + 1
        within = row[:starts] == row[order - 1 :]
        keys.append(((row[:starts] << HASH_BITS) + ngram_hashes(ids, order))[within])
    distinct = np.unique(torch.cat(keys).numpy())
    return distinct >> HASH_BITS, distinct & ((1 << HASH_BITS) - 1)


def _choose(hashes: _Numbers, frequency: _Numbers) -> NDArray[np.bool_]:
    """Return which n-grams get a weight, of these and how many reviews have them."""
    frequent = np.flatnonzero(frequency >= _MIN_REVIEWS)
    buckets = bucket_of(torch.from_numpy(hashes[frequent])).numpy()
    by_bucket = np.lexsort((frequency[frequent], buckets))
    ordered = buckets[by_bucket]
    is_last = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
    chosen = np.zeros(len(hashes), dtype=bool)
    chosen[frequent[by_bucket[is_last]]] = True
    return chosen
