"""Calibration: from logits to probabilities that mean what they say."""

from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from sentiment_model.errors import QualityError

Floats = NDArray[np.floating]

_LOG_TEMPERATURE = (-4.0, 4.0)


def fit_temperature(logits: Floats, labels: Floats) -> float:
    """Return the divisor of the logits that minimises the log loss.

    Temperature scaling of Guo et al. (2017), "On Calibration of Modern Neural Networks": one number, so the order of
    the classes stays as it is. The targets are Platt's (1999), a little inside 0 and 1: reviews that the network tells
    apart without an error would else be met best by a temperature of zero, and by probabilities that claim to be
    certain.

    Args:
        logits: of all classes on held-out reviews, shape (reviews, classes).
        labels: numbers of their classes, shape (reviews,).

    Raises:
        QualityError: there are no reviews, or only of one class.
    """
    targets, exact = _targets(labels, logits.shape[1]), logits.astype(np.float64)
    found = minimize_scalar(
        lambda log_temperature: _log_loss(exact / np.exp(log_temperature), targets),
        bounds=_LOG_TEMPERATURE,
        method="bounded",
    )
    return float(np.exp(found.x))


def calibrated_loss(logits: Floats, labels: Floats) -> float:
    """Return the mean log loss, in nats, with the temperature that makes it smallest.

    Args:
        logits: of all classes, shape (reviews, classes).
        labels: numbers of the reviews' classes, shape (reviews,).

    Raises:
        QualityError: there are no reviews, or only of one class.
    """
    scaled = logits.astype(np.float64) / fit_temperature(logits, labels)
    return _log_loss(scaled, np.eye(logits.shape[1])[labels.astype(np.intp)])


def fit_combination(logits: Floats, others: Floats, labels: Floats) -> tuple[float, float, NDArray[np.float64]]:
    """Return how to add another model's logits so that the log loss is smallest.

    The sum, `logits + scale * others + shift`, is then to be divided by the temperature. Stacking of Wolpert (1992),
    "Stacked Generalization", with Platt's targets as in :func:`fit_temperature`.

    Args:
        logits: of all classes on reviews that neither model was trained on, shape (reviews, classes).
        others: those of the other model, of that shape.
        labels: numbers of the reviews' classes, shape (reviews,).

    Returns:
        temperature (positive), scale (not negative) and the shift of each class, that of the first 0.

    Raises:
        QualityError: there are no reviews, or only of one class.
    """
    classes = logits.shape[1]
    targets = _targets(labels, classes)
    # Of like size, so that the optimiser's steps suit both.
    sizes = [float(np.std(part - part[:, :1]) * np.sqrt(classes / (classes - 1))) or 1.0 for part in (logits, others)]
    columns = [part.astype(np.float64) / size for part, size in zip((logits, others), sizes, strict=True)]
    low, high = (sizes[0] * float(np.exp(-bound)) for bound in reversed(_LOG_TEMPERATURE))

    def log_loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        combined = weights[0] * columns[0] + weights[1] * columns[1] + np.r_[0.0, weights[2:]]
        residual = np.exp(combined - _log_sum(combined)[:, None]) - targets
        of_parts = [(residual * column).sum(axis=1).mean() for column in columns]
        return _log_loss(combined, targets), np.r_[of_parts, residual.mean(axis=0)[1:]]

    found = minimize(
        log_loss,
        np.r_[np.clip(1.0, low, high), 1.0, np.zeros(classes - 1)],
        jac=True,
        method="L-BFGS-B",
        bounds=[(low, high), (0.0, None), *[(None, None)] * (classes - 1)],
    )
    temperature = sizes[0] / found.x[0]
    return float(temperature), float(found.x[1] / sizes[1] * temperature), np.r_[0.0, found.x[2:]] * temperature


def _targets(labels: Floats, classes: int) -> NDArray[np.float64]:
    """Return what probabilities to aim at, shape (reviews, classes)."""
    numbers = labels.astype(np.intp)
    reviews = np.bincount(numbers, minlength=classes)
    if (reviews > 0).sum() < 2:
        raise QualityError("calibration needs validation reviews of more than one class; check the cleaned data")
    return ((np.eye(classes)[numbers].T * reviews[numbers] + 1) / (reviews[numbers] + classes)).T


def _log_loss(logits: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    return float((_log_sum(logits) - (targets * logits).sum(axis=1)).mean())


def _log_sum(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithm of the sum of the exponentials of each row, a column at a time: the rows are short."""
    total: NDArray[np.float64] = reduce(np.logaddexp, logits.T)
    return total
