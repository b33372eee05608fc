"""The loops of :mod:`sentiment_model.networks.pooling_cpu`."""

import numpy as np
from numpy.typing import NDArray

from sentiment_model.compiled import compiled
from sentiment_model.networks.arithmetic import Numbers, read, write

POOLINGS = ("last", "max", "mean")
LAST, MAX, MEAN = range(3)
"""Their places."""

_ZERO = np.float32(0)


@compiled
def pool_states(states: Numbers, lengths: NDArray[np.int64], pooled: Numbers, first: int, end: int) -> None:
    """Write what the states of some sequences are pooled to.

    Args:
        states: shape (time, batch, width).
        lengths: of the sequences, at least 1.
        pooled: filled, shape (batch, 3, width).
        first: number of the first sequence.
        end: number of the one after the last.
    """
    width = states.shape[2]
    for sequence in range(first, end):
        length = lengths[sequence]
        last, top, total = pooled[sequence, LAST], pooled[sequence, MAX], pooled[sequence, MEAN]
        top[:] = -np.inf
        total[:] = 0
        for step in range(length):
            state = states[step, sequence]
            for unit in range(width):
                number = read(state[unit])
                top[unit] = max(top[unit], number)
                total[unit] += number
        for unit in range(width):
            last[unit] = read(states[length - 1, sequence, unit])
            total[unit] /= total.dtype.type(length)


@compiled
def pool_back(
    states: Numbers,
    lengths: NDArray[np.int64],
    pooled: Numbers,
    gradient: Numbers,
    to_states: Numbers,
    is_max_used: bool,
    first: int,
    end: int,
) -> None:
    """Write the gradients of the states that :func:`pool_states` was given; equal maxima share theirs."""
    steps, _, width = states.shape
    each, share = np.empty(width, gradient.dtype), np.empty(width, gradient.dtype)
    for sequence in range(first, end):
        length, top = lengths[sequence], pooled[sequence, MAX]
        for unit in range(width):
            each[unit] = gradient[sequence, MEAN, unit] / each.dtype.type(length)
        if is_max_used:
            share[:] = 0
            for step in range(length):
                state = states[step, sequence]
                for unit in range(width):
                    share[unit] += read(state[unit]) == top[unit]
            for unit in range(width):
                share[unit] = gradient[sequence, MAX, unit] / share[unit]
        for step in range(length):
            state, back = states[step, sequence], to_states[step, sequence]
            if step == length - 1:
                for unit in range(width):
                    each[unit] += gradient[sequence, LAST, unit]
            if is_max_used:
                for unit in range(width):
                    write(back, unit, each[unit] + (share[unit] if read(state[unit]) == top[unit] else _ZERO))
            else:
                for unit in range(width):
                    write(back, unit, each[unit])
        for step in range(length, steps):
            to_states[step, sequence, :] = 0
