"""The loops of :mod:`sentiment_model.networks.lookup`."""

import numpy as np
from numpy.typing import NDArray

from sentiment_model.compiled import compiled
from sentiment_model.networks.arithmetic import Numbers, read, write


@compiled
def look_up_masked(ids: NDArray[np.int64], vectors: Numbers, mask: Numbers, out: Numbers, first: int, end: int) -> None:
    """Write the vectors of the tokens of some sequences, times their masks.

    Args:
        ids: token ids, shape (orders, time, batch).
        vectors: of each token, shape (vocabulary, width).
        mask: factors, shape (orders, batch, width).
        out: filled, shape (orders, time, batch, width).
        first: number of the first sequence.
        end: number of the one after the last.
    """
    orders, steps, _ = ids.shape
    width = vectors.shape[1]
    for order in range(orders):
        for step in range(steps):
            for sequence in range(first, end):
                vector, factors = vectors[ids[order, step, sequence]], mask[order, sequence]
                into = out[order, step, sequence]
                for unit in range(width):
                    write(into, unit, vector[unit] * factors[unit])


@compiled
def add_gradients(
    ids: NDArray[np.int64],
    gradient: Numbers,
    mask: Numbers,
    padding: int,
    to_vectors: Numbers,
    parts: int,
    first: int,
    end: int,
) -> None:
    """Add the gradients of what :func:`look_up_masked` wrote to those of the vectors, of all ids but the padding.

    Args:
        ids: token ids, shape (orders, time, batch).
        gradient: shape (orders, time, batch, width).
        mask: factors, shape (orders, batch, width).
        padding: the id that has none.
        to_vectors: what to add to, shape (vocabulary, width).
        parts: into how many the ids are divided, by their remainders, so that threads do not meet.
        first: number of the first part to do.
        end: number of the one after the last.
    """
    orders, steps, sequences = ids.shape
    width = to_vectors.shape[1]
    for order in range(orders):
        for step in range(steps):
            for sequence in range(sequences):
                token = ids[order, step, sequence]
                if token == padding or not first <= token % parts < end:
                    continue
                back, factors, total = gradient[order, step, sequence], mask[order, sequence], to_vectors[token]
                for unit in range(width):
                    total[unit] += read(back[unit]) * factors[unit]
