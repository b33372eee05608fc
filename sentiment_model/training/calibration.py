"""Calibration: from logits to probabilities that mean what they say."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit

from sentiment_model.errors import QualityError

Floats = NDArray[np.floating]

_LOG_TEMPERATURE = (-4.0, 4.0)


def fit_temperature(logits: Floats, labels: Floats) -> float:
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
    targets, exact = _targets(labels), logits.astype(np.float64)
    found = minimize_scalar(
        lambda log_temperature: _log_loss(exact / np.exp(log_temperature), targets),
        bounds=_LOG_TEMPERATURE,
        method="bounded",
    )
    return float(np.exp(found.x))


def calibrated_loss(logits: Floats, labels: Floats) -> float:
    """Return the mean log loss, in nats, with the temperature that makes it smallest.

    Args:
        logits: logits of the positive class, shape (reviews,).
        labels: 1 positive, 0 negative, shape (reviews,).

    Raises:
        QualityError: there are no reviews, or only of one class.
    """
    return _log_loss(logits.astype(np.float64) / fit_temperature(logits, labels), labels.astype(np.float64))


def fit_combination(logits: Floats, others: Floats, labels: Floats) -> tuple[float, float, float]:
    """Return how to add another model's logits so that the log loss is smallest.

    The sum, `logits + scale * others + shift`, is then to be divided by the temperature. Stacking of Wolpert (1992),
    "Stacked Generalization", with Platt's targets as in :func:`fit_temperature`.

    Args:
        logits: logits of the positive class on reviews that neither model was trained on, shape (reviews,).
        others: those of the other model, shape (reviews,).
        labels: 1 positive, 0 negative, shape (reviews,).

    Returns:
        temperature (positive), scale (not negative) and shift.

    Raises:
        QualityError: there are no reviews, or only of one class.
    """
    targets = _targets(labels)
    # Of like size, so that the optimiser's steps suit both.
    sizes = [float(np.std(part)) or 1.0 for part in (logits, others)]
    columns = [part.astype(np.float64) / size for part, size in zip((logits, others), sizes, strict=True)]
    low, high = (sizes[0] * float(np.exp(-bound)) for bound in reversed(_LOG_TEMPERATURE))

    def log_loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        combined = weights[0] * columns[0] + weights[1] * columns[1] + weights[2]
        residual = expit(combined) - targets
        gradient = [(residual * columns[0]).mean(), (residual * columns[1]).mean(), residual.mean()]
        return _log_loss(combined, targets), np.array(gradient)

    found = minimize(
        log_loss,
        np.array([np.clip(1.0, low, high), 1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(low, high), (0.0, None), (None, None)],
    )
    temperature = sizes[0] / found.x[0]
    return float(temperature), float(found.x[1] / sizes[1] * temperature), float(found.x[2] * temperature)


def _targets(labels: Floats) -> NDArray[np.float64]:
    positive = labels > 0.5
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        raise QualityError("calibration needs validation reviews of both classes; check the cleaned data")
    return np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def _log_loss(logits: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    return float((np.logaddexp(0.0, logits) - targets * logits).mean())
