"""Which n-grams get a weight, and how many reviews of each class have them.

Two passes over the token ids. The first finds the n-gram of each bucket that most reviews have, by Space-Saving of
Metwally et al. (2005), "Efficient Computation of Frequent and Top-k Elements in Data Streams": each bucket remembers a
few n-grams and how many reviews had them, and a new one takes the place of the rarest. The second counts those exactly.
Each thread goes through all reviews, in their order, and minds the n-grams of its own buckets, so that the number of
threads does not change what is found, and memory does not grow with the reviews.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sentiment_model.compiled import share_out
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.networks.device import count_cores
from sentiment_model.networks.ngrams import BUCKET_BITS, BUCKETS
from sentiment_model.training.count_loop import MIN_REVIEWS, count_known, find_frequent


@dataclass(frozen=True)
class NGramCounts:
    """How many reviews have the n-grams that get a weight.

    Attributes:
        hashes: of the n-grams, int64, of one bucket each, in the order of the buckets.
        reviews: that have each, float64, shape (n-grams,), and
        labelled: the sums of these reviews' labels, float64, shape (n-grams, labels).
    """

    hashes: NDArray[np.int64]
    reviews: NDArray[np.float64]
    labelled: NDArray[np.float64]


def count_ngrams(reviews: TokenizedReviews, labels: NDArray[np.float32], max_order: int) -> NGramCounts:
    """Count the n-grams of two reviews or more, of each bucket the most frequent one.

    An n-gram counts once a review. Which one is the most frequent is exact where a bucket has no more n-grams than it
    remembers; in others it is found for certain if it is more than an eighth of all that occur.

    Args:
        reviews: the reviews.
        labels: what is added up over the reviews that have an n-gram, shape (reviews, labels).
        max_order: largest number of tokens in an n-gram.
    """
    values, starts, lengths = reviews.values.numpy(), reviews.starts.numpy(), reviews.lengths.numpy()
    best = np.empty(BUCKETS, dtype=np.int64)
    cores = count_cores()
    share_out(
        lambda first, end: find_frequent(values, starts, lengths, max_order, first, best[first:end]), BUCKETS, cores
    )
    hashes = best[best >= 0]
    entries = entries_of(hashes)
    counts = np.zeros((len(hashes), 1 + labels.shape[1]))
    share_out(
        lambda first, end: count_known(values, starts, lengths, labels, max_order, first, end, entries, counts),
        BUCKETS,
        cores,
    )
    kept = counts[:, 0] >= MIN_REVIEWS
    return NGramCounts(hashes[kept], counts[kept, 0], counts[kept, 1:])


def entries_of(hashes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a table of all buckets: the n-gram's check above its place in `hashes` plus one; 0 where there is none."""
    entries = np.zeros(BUCKETS, dtype=np.uint64)
    places = np.arange(1, len(hashes) + 1)
    entries[hashes & (BUCKETS - 1)] = ((hashes >> BUCKET_BITS) << 32) | places
    return entries
