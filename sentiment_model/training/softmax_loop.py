"""The loop of the sampled softmax in :mod:`sentiment_model.training.language_model`."""

import numpy as np
from numpy.typing import NDArray

from sentiment_model.compiled import compiled
from sentiment_model.networks.arithmetic import Numbers, exp, read, write

LARGEST_MARGIN = 40.0
"""Of a logit over the right one; its exponential is far below infinity."""

_ONE = np.float32(1.0)
_LANES = 16  # sums side by side, which a processor adds at once


@compiled
def odds_against(
    logits: Numbers,
    right_logits: NDArray[np.float32],
    places: NDArray[np.int64],
    odds: Numbers,
    chances: NDArray[np.float32],
) -> None:
    """Write the odds of drawn classes against the right one, and the chance of the right one among all.

    Args:
        logits: of the drawn classes, shape (predictions, drawn).
        right_logits: of the right class, shape (predictions,).
        places: the right class's number among the drawn ones, whose odds are 0, or -1, shape (predictions,).
        odds: filled, shape (predictions, drawn).
        chances: filled, shape (predictions,).
    """
    rows, drawn = logits.shape
    largest = chances.dtype.type(LARGEST_MARGIN)
    row_odds = np.zeros(-(-drawn // _LANES) * _LANES, chances.dtype)
    sums = np.empty(_LANES, chances.dtype)
    for row in range(rows):
        given, right = logits[row], right_logits[row]
        for place in range(drawn):
            row_odds[place] = exp(min(read(given[place]) - right, largest))
        if places[row] >= 0:
            row_odds[places[row]] = 0
        sums[:] = 0
        for place in range(0, len(row_odds), _LANES):
            for lane in range(_LANES):
                sums[lane] += row_odds[place + lane]
        into = odds[row]
        for place in range(drawn):
            write(into, place, row_odds[place])
        total = _ONE
        for lane in range(_LANES):
            total += sums[lane]
        chances[row] = _ONE / total
