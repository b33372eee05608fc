"""The loop of :mod:`sentiment_model.networks.fused`."""

import numpy as np
from numpy.typing import NDArray

from sentiment_model.compiled import compiled
from sentiment_model.networks.ngram_loops import find_known, room_for
from sentiment_model.networks.pooling_loop import MAX, MEAN


@compiled
def score_reviews(
    values: NDArray[np.int32],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    table: NDArray[np.float32],
    classifier: NDArray[np.float32],
    poolings: NDArray[np.int64],
    bias: NDArray[np.float32],
    entries: NDArray[np.uint64],
    ngram_weights: NDArray[np.float32],
    max_order: int,
    counts_once: bool,
    wide_bias: NDArray[np.float32],
    logits: NDArray[np.float32],
) -> None:
    """Write the logits of some reviews.

    Args:
        values: token ids.
        starts: where in them each review starts.
        lengths: and how many it has.
        table: what each token keeps of each unit's state, and what it adds; shape (directions, tokens, 2, units).
        classifier: weights, shape (outputs, directions, poolings, units).
        poolings: places in :data:`sentiment_model.networks.pooling_loop.POOLINGS`.
        bias: of the classifier, shape (outputs,).
        entries: of the n-grams' buckets: the check above the weight where there is one output, or else above the line
            of the weights.
        ngram_weights: where there are more outputs, shape (lines, outputs).
        max_order: tokens of the longest n-grams; 0 for none.
        counts_once: whether an n-gram that a review repeats counts once.
        wide_bias: of the n-grams' score, shape (outputs,).
        logits: gets those of both parts, shape (reviews, 2, outputs).
    """
    hidden, outputs = table.shape[3], len(bias)
    state, total, top = np.empty(hidden, np.float32), np.empty(hidden, np.float32), np.empty(hidden, np.float32)
    hashes, seen = room_for(lengths, max_order)
    found = np.empty(len(hashes), np.uint64)
    padding = np.zeros(1, np.int32)
    scores = np.empty(outputs, np.float64)
    for row in range(len(lengths)):
        # A review without tokens is read as one padding token, as batches have it.
        ids = values[starts[row] : starts[row] + lengths[row]] if lengths[row] else padding
        logits[row, 0] = bias
        for direction in range(table.shape[0]):
            state[:] = 0
            total[:] = 0
            top[:] = -np.inf
            _read(ids, direction, table[direction], state, total, top)
            for part in range(len(poolings)):
                pooled = total if poolings[part] == MEAN else top if poolings[part] == MAX else state
                for output in range(outputs):
                    weights = classifier[output, direction, part]
                    dot = np.float32(0)
                    for unit in range(hidden):
                        dot += weights[unit] * pooled[unit]
                    logits[row, 0, output] += dot / np.float32(len(ids)) if poolings[part] == MEAN else dot
        logits[row, 1] = 0
        if max_order:
            known = find_known(ids, max_order, entries, counts_once, row + 1, hashes, found, seen)
            scores[:] = 0
            if outputs == 1:
                score = np.float64(0)
                for weight in found[:known]:
                    score += np.uint32(weight).view(np.float32)
                scores[0] = score
            else:
                for line in found[:known]:
                    for output in range(outputs):
                        scores[output] += ngram_weights[line, output]
            for output in range(outputs):
                logits[row, 1, output] = np.float32(scores[output]) / np.sqrt(np.float32(len(ids))) + wide_bias[output]


@compiled
def _read(ids, direction, lines, state, total, top):
    """Read a review, backwards in the second direction; leave the last state, the sum of all states and the largest."""
    hidden, last = len(state), len(ids) - 1
    for step in range(len(ids)):
        token = ids[last - step if direction else step]
        for unit in range(hidden):
            new = lines[token, 0, unit] * state[unit] + lines[token, 1, unit]
            state[unit] = new
            total[unit] += new
            top[unit] = new if new > top[unit] else top[unit]
