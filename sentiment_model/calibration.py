"""Calibration of the network's probabilities."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from sentiment_model.errors import QualityError


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """Return the divisor of the logits that minimises the log loss.

    Temperature scaling of Guo et al. (2017), "On Calibration of Modern Neural Networks": one number, so the order of
    the reviews and the labels at 0.5 stay as they are. The targets are Platt's (1999), a little inside 0 and 1: reviews
    that the network tells apart without an error would else be met best by a temperature of zero, and by probabilities
    that claim to be certain.

    Args:
        logits: logits of the positive class on held-out reviews, shape (reviews,).
        labels: 1 positive, 0 negative, shape (reviews,).

    Raises:
        QualityError: there are no reviews, or only of one class.
    """
    positive = labels > 0.5
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        raise QualityError("calibration needs validation reviews of both classes; check the cleaned data")
    targets = np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    exact = logits.astype(np.float64)

    def log_loss(log_temperature: float) -> float:
        scaled = exact / np.exp(log_temperature)
        return float((np.logaddexp(0.0, scaled) - targets * scaled).mean())

    return float(np.exp(minimize_scalar(log_loss, bounds=(-4.0, 4.0), method="bounded").x))
