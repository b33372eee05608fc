"""The loops of :mod:`sentiment_model.training.dual_ascent`."""

import numpy as np
from numpy.typing import NDArray

from sentiment_model.compiled import compiled
from sentiment_model.networks.arithmetic import sigmoid
from sentiment_model.networks.ngram_loops import find_known, room_for


@compiled
def _read(lines, places, scores):
    """Set the scores of a review, without biases, to the sums over its n-grams; return that of the values' squares.

    Their places are from 1, since the table of entries has 0 where there is none.
    """
    square = np.float64(0)
    scores[:] = 0
    for one_after in places:
        place = one_after - np.uint64(1)
        value = lines[place, 0]
        square += value * value
        for strength in range(len(scores)):
            scores[strength] += value * lines[place, 1 + strength]
    return square


@compiled
def score_reviews(
    values: NDArray[np.int32],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    entries: NDArray[np.uint64],
    max_order: int,
    lines: NDArray[np.float32],
    biases: NDArray[np.float64],
    scores: NDArray[np.float32],
) -> None:
    """Write the scores of some reviews.

    Args:
        values: token ids.
        starts: where in them each review starts.
        lengths: and how many it has.
        entries: of the n-grams.
        max_order: tokens of the longest ones.
        lines: of each n-gram its value and its weights, shape (n-grams, 1 + strengths).
        biases: shape (strengths,).
        scores: gets them, shape (reviews, strengths).
    """
    hashes, seen = room_for(lengths, max_order)
    places = np.empty(len(hashes), np.uint64)
    sums = np.empty(len(biases), np.float64)
    for row in range(len(lengths)):
        ids = values[starts[row] : starts[row] + lengths[row]]
        known = find_known(ids, max_order, entries, True, row + 1, hashes, places, seen)
        _read(lines, places[:known], sums)
        scores[row] = sums / np.sqrt(np.float64(max(1, len(ids)))) + biases


@compiled
def ascend(
    rows: NDArray[np.int64],
    values: NDArray[np.int32],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    labels: NDArray[np.float32],
    entries: NDArray[np.uint64],
    max_order: int,
    strengths: NDArray[np.float64],
    biases: NDArray[np.float64],
    residuals: NDArray[np.float32],
    lines: NDArray[np.float32],
    slopes: NDArray[np.float64],
) -> None:
    """Go through some reviews, and after each change the weights and its dual variables to what is best for them.

    Args:
        rows: which reviews, in this order.
        values: token ids.
        starts: where in them each review starts.
        lengths: and how many it has.
        labels: of the reviews.
        entries: of the n-grams.
        max_order: tokens of the longest ones.
        strengths: what each regression multiplies the losses with.
        biases: shape (strengths,).
        residuals: the dual variables over the strengths: by how much a label is above its probability; they are
            changed, shape (reviews, strengths).
        lines: of each n-gram its value and its weights, which are changed, shape (n-grams, 1 + strengths).
        slopes: is added to: the first derivatives of the sum of the log likelihoods by the biases, and the second
            ones with the sign changed, shape (2, strengths).
    """
    hashes, seen = room_for(lengths, max_order)
    places = np.empty(len(hashes), np.uint64)
    steps = np.empty(len(strengths), np.float64)
    scores = np.empty(len(strengths), np.float64)
    for number in range(len(rows)):
        row = rows[number]
        length = np.float64(max(1, lengths[row]))
        ids = values[starts[row] : starts[row] + lengths[row]]
        known = find_known(ids, max_order, entries, True, number + 1, hashes, places, seen)
        square = _read(lines, places[:known], scores) / length
        for strength in range(len(strengths)):
            score = scores[strength] / np.sqrt(length) + biases[strength]
            probability = sigmoid(score)
            slopes[0, strength] += labels[row] - probability
            slopes[1, strength] += probability * (1 - probability)
            before = np.float64(residuals[row, strength])
            after = labels[row] - _probability_after(score, strengths[strength] * square, labels[row], before)
            residuals[row, strength] = after
            steps[strength] = strengths[strength] * (after - before) / np.sqrt(length)
        for one_after in places[:known]:
            place = one_after - np.uint64(1)
            for strength in range(len(strengths)):
                lines[place, 1 + strength] += steps[strength] * lines[place, 0]


@compiled
def _probability_after(score, curvature, label, residual):
    """Return the probability p with which `score + curvature * (label - p - residual)` is the score of p."""
    low, high = score + curvature * (label - 1 - residual), score + curvature * (label - residual)
    middle = min(max(score, low), high)
    for _ in range(50):
        probability = sigmoid(middle)
        excess = middle - score + curvature * (probability - label + residual)
        if excess > 0:
            high = middle
        else:
            low = middle
        # Newton's step where it stays between the bounds.
        step = excess / (1 + curvature * probability * (1 - probability))
        following = middle - step
        if not low < following < high:
            following = 0.5 * (low + high)
        moved = abs(following - middle)
        middle = following
        if moved <= 1e-6:
            break
    return sigmoid(middle)
