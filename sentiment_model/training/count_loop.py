"""The loops of :mod:`sentiment_model.training.ngram_counts`."""

import numpy as np
from numpy.typing import NDArray

from sentiment_model.compiled import compiled
from sentiment_model.networks.ngram_loops import bucket_in, check_in, hash_ngrams, is_first, room_for
from sentiment_model.networks.ngrams import BUCKET_BITS

_REMEMBERED = 8  # of a bucket, 32 bytes; 25,000 long reviews have one or two n-grams a bucket
_COUNT_BITS = 16
_MOST = (1 << _COUNT_BITS) - 1
MIN_REVIEWS = 2


@compiled
def _own(ids, max_order, first, end, hashes, seen, review):
    """Write the hashes of a review's n-grams in some buckets, each once, and return how many there are."""
    count = hash_ngrams(ids, max_order, hashes)
    own = 0
    for number in range(count):
        hashed = hashes[number]
        if first <= np.int64(bucket_in(hashed)) < end and is_first(hashed, review, seen):
            hashes[own] = hashed
            own += 1
    return own


@compiled
def find_frequent(
    values: NDArray[np.int32],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    max_order: int,
    first: int,
    best: NDArray[np.int64],
) -> None:
    """Go through all reviews and find the most frequent n-gram of each of some buckets.

    Args:
        values: token ids.
        starts: where in them each review starts.
        lengths: and how many it has.
        max_order: tokens of the longest n-grams.
        first: of the buckets.
        best: gets the hash of each bucket's n-gram, or -1 where none is in :data:`MIN_REVIEWS` reviews.
    """
    count_bits, most = np.uint32(_COUNT_BITS), np.uint32(_MOST)
    remembered = np.zeros((len(best), _REMEMBERED), np.uint32)  # the check above the count
    hashes, seen = room_for(lengths, max_order)
    found = np.empty(len(hashes), np.uint32)
    for row in range(len(lengths)):
        ids = values[starts[row] : starts[row] + lengths[row]]
        count = _own(ids, max_order, first, first + len(best), hashes, seen, row + 1)
        # All are fetched before any is changed: memory answers many questions at a time.
        for number in range(count):
            found[number] = remembered[np.int64(bucket_in(hashes[number])) - first, 0]
        for number in range(count):
            slots = remembered[np.int64(bucket_in(hashes[number])) - first]
            check = np.uint32(check_in(hashes[number]))
            taken = 0
            for slot in range(len(slots)):
                if slots[slot] == 0 or slots[slot] >> count_bits == check:
                    taken = slot
                    break
                if slots[slot] & most < slots[taken] & most:
                    taken = slot
            slots[taken] = (check << count_bits) | (min(slots[taken] & most, most - np.uint32(1)) + np.uint32(1))
    for number in range(len(best)):
        highest = remembered[number, 0]
        for slot in remembered[number]:
            if slot & most > highest & most:
                highest = slot
        is_frequent = highest & most >= MIN_REVIEWS
        best[number] = (np.int64(highest >> count_bits) << BUCKET_BITS) + first + number if is_frequent else -1


@compiled
def count_known(
    values: NDArray[np.int32],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    labels: NDArray[np.float32],
    max_order: int,
    first: int,
    end: int,
    entries: NDArray[np.uint64],
    counts: NDArray[np.float64],
) -> None:
    """Go through all reviews and count the known n-grams of some buckets.

    Args:
        values: token ids.
        starts: where in them each review starts.
        lengths: and how many it has.
        labels: of the reviews, shape (reviews, labels).
        max_order: tokens of the longest n-grams.
        first: of the buckets.
        end: the bucket after the last.
        entries: what :func:`sentiment_model.training.ngram_counts.entries_of` makes of the known n-grams.
        counts: is added to: the reviews that have each, and the sums of their labels, shape (n-grams, 1 + labels).
    """
    hashes, seen = room_for(lengths, max_order)
    found = np.empty(len(hashes), np.uint64)
    for row in range(len(lengths)):
        ids = values[starts[row] : starts[row] + lengths[row]]
        count = _own(ids, max_order, first, end, hashes, seen, row + 1)
        for number in range(count):
            found[number] = entries[bucket_in(hashes[number])]
        for number in range(count):
            entry = found[number]
            if entry != 0 and entry >> np.uint64(32) == check_in(hashes[number]):
                place = (entry & np.uint64(0xFFFFFFFF)) - np.uint64(1)
                counts[place, 0] += 1
                for label in range(labels.shape[1]):
                    counts[place, 1 + label] += labels[row, label]
