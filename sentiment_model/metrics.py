"""Metrics of a binary classifier with bootstrap intervals.

Every metric is computed from row weights, many weightings at once. A bootstrap resample is a weighting by how often
each row was drawn, so the intervals of all metrics come from the same resamples and a few matrix products.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

Floats = NDArray[np.float64]

METRICS = ("accuracy", "f1", "roc_auc", "average_precision", "brier", "log_loss", "calibration_error")
_CHUNK_CELLS = 4_000_000


class Interval(BaseModel):
    """An estimate with its percentile bootstrap interval."""

    value: float
    low: float
    high: float


class ReliabilityBin(BaseModel):
    """Reviews of similar probability: what was predicted and what was true."""

    rows: int
    mean_probability: float
    positive_share: float


class WeightedMetrics:
    """Metrics of one set of predictions under any row weights."""

    def __init__(self, labels: Floats, probabilities: Floats, bins: int) -> None:
        """Prepare.

        Args:
            labels: 1 positive, 0 negative, shape (rows,).
            probabilities: probability of positive, shape (rows,).
            bins: number of equal-mass bins of the calibration error.
        """
        clipped = np.clip(probabilities, 1e-15, 1 - 1e-15)
        predicted = probabilities >= 0.5
        self._positive = labels
        self._per_row = np.stack(
            [
                predicted == (labels > 0.5),
                (probabilities - labels) ** 2,
                -(labels * np.log(clipped) + (1 - labels) * np.log(1 - clipped)),
                predicted & (labels > 0.5),
                predicted,
                labels,
            ],
            axis=1,
        ).astype(np.float64)
        self._order = np.argsort(-probabilities, kind="stable")
        ordered = probabilities[self._order]
        self._ties = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # where each distinct score starts
        self._bins = np.unique(np.linspace(0, len(ordered), min(bins, len(ordered)) + 1).astype(int)[:-1])
        self._residuals = (probabilities - labels)[self._order]

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Return each metric under each weighting.

        Args:
            weights: shape (weightings, rows).

        Returns:
            arrays of shape (weightings,) by the names in :data:`METRICS`. Those that rank are NaN where a weighting
            has rows of one class only.
        """
        total = weights.sum(axis=1)
        accuracy, brier, log_loss, hits, predicted, positive = (weights @ self._per_row / total[:, None]).T
        ordered = weights[:, self._order]
        is_positive = self._positive[self._order]
        positives = np.add.reduceat(ordered * is_positive, self._ties, axis=1)
        negatives = np.add.reduceat(ordered * (1 - is_positive), self._ties, axis=1)
        seen_positives, seen = positives.cumsum(axis=1), (positives + negatives).cumsum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(seen > 0, seen_positives / seen, 0.0)
            average_precision = (precision * positives).sum(axis=1) / seen_positives[:, -1]
            pairs = (negatives * (seen_positives - positives / 2)).sum(axis=1)
            roc_auc = pairs / (seen_positives[:, -1] * negatives.sum(axis=1))
            f1 = np.where(predicted + positive > 0, 2 * hits / (predicted + positive), 0.0)
        gaps = np.abs(np.add.reduceat(ordered * self._residuals, self._bins, axis=1))
        return {
            "accuracy": accuracy,
            "f1": f1,
            "roc_auc": roc_auc,
            "average_precision": average_precision,
            "brier": brier,
            "log_loss": log_loss,
            "calibration_error": gaps.sum(axis=1) / total,
        }


def intervals(
    labels: Floats, probabilities: Floats, *, bins: int, samples: int, confidence: float
) -> dict[str, Interval]:
    """Return every metric with its bootstrap interval.

    Args:
        labels: 1 positive, 0 negative, shape (rows,).
        probabilities: probability of positive, shape (rows,).
        bins: number of equal-mass bins of the calibration error (Nixon et al., 2019).
        samples: number of resamples (Efron & Tibshirani, 1993: percentile intervals).
        confidence: coverage of the intervals.
    """
    metrics = WeightedMetrics(labels, probabilities, bins)
    values = metrics(np.ones((1, len(labels))))
    drawn = [metrics(weights) for weights in resamples(len(labels), samples)]
    return {
        name: _interval(values[name][0], np.concatenate([chunk[name] for chunk in drawn]), confidence)
        for name in METRICS
    }


def mean_interval(values: Floats, *, samples: int, confidence: float) -> Interval:
    """Return the mean of per-row values, shape (rows,), with its bootstrap interval."""
    drawn = [weights @ values / len(values) for weights in resamples(len(values), samples)]
    return _interval(values.mean(), np.concatenate(drawn), confidence)


def resamples(rows: int, samples: int) -> Iterator[Floats]:
    """Yield how often each resample draws each row, in chunks of shape (resamples, rows); always the same ones."""
    generator = np.random.default_rng(0)
    chunk = max(1, _CHUNK_CELLS // rows)
    for start in range(0, samples, chunk):
        drawn = generator.integers(rows, size=(min(chunk, samples - start), rows))
        yield np.stack([np.bincount(draw, minlength=rows) for draw in drawn]).astype(np.float64)


def reliability(labels: Floats, probabilities: Floats, bins: int) -> list[ReliabilityBin]:
    """Return equal-mass bins of predicted probability against what was true, from low to high."""
    order = np.argsort(probabilities, kind="stable")
    return [
        ReliabilityBin(
            rows=len(part),
            mean_probability=float(probabilities[part].mean()),
            positive_share=float(labels[part].mean()),
        )
        for part in np.array_split(order, min(bins, len(order)))
    ]


def _interval(value: float, drawn: Floats, confidence: float) -> Interval:
    low, high = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value=float(value), low=float(low), high=float(high))
