"""Fitting of the wide part: logistic regression on n-grams weighted by naive Bayes.

The method is NB-SVM of Wang & Manning (2012), "Baselines and Bigrams: Simple, Good Sentiment and Topic
Classification", with the logistic loss, on hashed n-grams.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from sentiment_model.batching import TokenizedReviews
from sentiment_model.ngrams import BUCKETS, NGramScore, ngram_buckets

# What fits in 4 GB; more reviews change a linear model little.
MAX_TOKENS = 20_000_000
_INVERSE_REGULARISATION = 0.1
_MIN_REVIEWS = 2


def fit_ngrams(reviews: TokenizedReviews, max_order: int) -> NGramScore:
    """Fit the n-gram weights on labelled reviews of both classes.

    N-grams of fewer than two reviews get no weight. More than :data:`MAX_TOKENS` tokens are thinned to evenly spaced
    reviews.

    Args:
        reviews: reviews with labels.
        max_order: largest number of tokens in an n-gram.
    """
    thinned = reviews.take(torch.arange(0, len(reviews), max(1, -(-len(reviews.values) // MAX_TOKENS))))
    labels = thinned.labels.double().numpy()
    rows, buckets = _present(thinned, max_order)
    is_frequent = np.bincount(buckets, minlength=BUCKETS) >= _MIN_REVIEWS
    frequent = np.flatnonzero(is_frequent)
    column_of = np.cumsum(is_frequent, dtype=np.int32) - 1
    kept = is_frequent[buckets]
    rows, columns = rows[kept], column_of[buckets[kept]]
    positive, negative = (
        1 + np.bincount(columns, weights=truth[rows], minlength=len(frequent)) for truth in (labels, 1 - labels)
    )
    ratio = np.log(positive / positive.sum()) - np.log(negative / negative.sum())
    ends = np.cumsum(np.bincount(rows, minlength=len(labels)), dtype=np.int32)
    weighted = sparse.csr_array(
        (ratio[columns], columns, np.append(np.int32(0), ends)), shape=(len(labels), len(ratio))
    )
    model = LogisticRegression(
        C=_INVERSE_REGULARISATION, solver="liblinear", dual=True, random_state=0, max_iter=1000
    ).fit(weighted, labels)
    score = NGramScore(max_order)
    score.weight[torch.from_numpy(frequent)] = torch.from_numpy(model.coef_[0] * ratio).float()
    score.bias.fill_(float(model.intercept_[0]))
    return score


def _present(reviews: TokenizedReviews, max_order: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which buckets each review has: pairs of row and bucket, each once, in the order of the rows."""
    row = torch.repeat_interleave(torch.arange(len(reviews)), reviews.lengths)
    keys = []
    for order in range(1, min(max_order, len(row)) + 1):
        starts = len(row) - order + 1
        within = row[:starts] == row[order - 1 :]
        keys.append((row[:starts] * BUCKETS + ngram_buckets(reviews.values, order))[within])
    distinct = np.unique(torch.cat(keys).numpy())
    return distinct // BUCKETS, distinct % BUCKETS
