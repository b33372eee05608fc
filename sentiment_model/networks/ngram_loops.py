"""What the compiled loops over the n-grams of reviews have in common."""

import numpy as np
from numpy.typing import NDArray

from sentiment_model.compiled import compiled
from sentiment_model.networks.ngrams import BUCKET_BITS, BUCKETS, HASH_BITS, HASH_MULTIPLIER

BUCKET_MASK, CHECK_MASK = BUCKETS - 1, (1 << (HASH_BITS - BUCKET_BITS)) - 1
_HASH_MASK = (1 << HASH_BITS) - 1
_MULTIPLIER = HASH_MULTIPLIER % (1 << 64)


@compiled
def room_for(lengths: NDArray[np.int64], max_order: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return room for the hashes of the n-grams of one of these reviews, and an empty memory for :func:`is_first`."""
    longest = 1
    for length in lengths:
        longest = max(longest, length)
    room = 64
    while room < 2 * max_order * longest:
        room *= 2
    return np.empty(max_order * longest, np.uint64), np.zeros(room, np.uint64)


@compiled
def hash_ngrams(ids: NDArray[np.int32], max_order: int, hashes: NDArray[np.uint64]) -> int:
    """Write the hashes of all n-grams of a review, with bits above those that count, and return how many there are."""
    count = 0
    for start in range(len(ids)):
        hashed = np.uint64(0)
        for order in range(min(max_order, len(ids) - start)):
            hashed = (hashed + np.uint64(ids[start + order]) + np.uint64(1)) * np.uint64(_MULTIPLIER)
            hashed ^= hashed >> np.uint64(32)
            hashes[count] = hashed
            count += 1
    return count


@compiled
def bucket_in(hashed: np.uint64) -> np.uint64:
    """Return the bucket of an n-gram."""
    return hashed & np.uint64(BUCKET_MASK)


@compiled
def check_in(hashed: np.uint64) -> np.uint64:
    """Return what tells an n-gram from others of its bucket."""
    return (hashed >> np.uint64(BUCKET_BITS)) & np.uint64(CHECK_MASK)


@compiled
def find_known(
    ids: NDArray[np.int32],
    max_order: int,
    entries: NDArray[np.uint64],
    counts_once: bool,
    review: int,
    hashes: NDArray[np.uint64],
    found: NDArray[np.uint64],
    seen: NDArray[np.uint64],
) -> int:
    """Write what a table says of a review's n-grams that are in it, and return how many there are.

    Args:
        ids: token ids of the review.
        max_order: tokens of the longest n-grams.
        entries: the table, of all buckets: an n-gram's check above 32 bits of whatever it says; 0 where there is none.
        counts_once: whether an n-gram that the review repeats counts once.
        review: a number from 1, see :func:`is_first`.
        hashes: room, see :func:`room_for`.
        found: gets the 32 bits of each, as numbers of 64; as long as `hashes`.
        seen: the memory.
    """
    count = hash_ngrams(ids, max_order, hashes)
    # All are fetched before any is looked at: memory answers many questions at a time if no answer decides the next.
    for number in range(count):
        found[number] = entries[bucket_in(hashes[number])]
    known = 0
    for number in range(count):
        entry, hashed = found[number], hashes[number]
        if entry == 0 or entry >> np.uint64(32) != check_in(hashed):
            continue
        if not counts_once or is_first(hashed, review, seen):
            found[known] = entry & np.uint64(0xFFFFFFFF)
            known += 1
    return known


@compiled
def is_first(hashed: np.uint64, review: int, seen: NDArray[np.uint64]) -> bool:
    """Return whether a review has not been asked for this n-gram before, and remember it.

    Args:
        hashed: of the n-gram.
        review: a number from 1; what is remembered of the reviews before is forgotten little by little.
        seen: the memory; its length is a power of two.
    """
    mark = (np.uint64(review) << np.uint64(HASH_BITS)) | (hashed & np.uint64(_HASH_MASK))
    room = np.uint64(len(seen) - 1)
    place = hashed & room
    while seen[place] != mark:
        if seen[place] >> np.uint64(HASH_BITS) != mark >> np.uint64(HASH_BITS):
            seen[place] = mark
            return True
        place = (place + np.uint64(1)) & room
    return False
