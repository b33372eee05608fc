"""What tests of any number of classes share."""

import numpy as np
from numpy.typing import NDArray


def of_both(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the logits of both classes, shape (reviews, 2), from those of the second, any shape of that size."""
    return np.stack([np.zeros(logits.size), logits.ravel()], axis=1)
