"""Metrics of a binary classifier with bootstrap intervals.

Every metric is computed from row weights, many weightings at once. A bootstrap resample is a weighting by how often
each row was drawn, so the intervals of all metrics come from the same resamples and a few matrix products.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator

Floats = NDArray[np.float64]

METRICS = ("accuracy", "f1", "roc_auc", "average_precision", "brier", "log_loss", "calibration_error")
_CHUNK_CELLS = 1_000_000  # resamples are weighed in chunks, each temporary array of which takes 8 bytes a cell

Figure = Annotated[float, BeforeValidator(lambda value: np.nan if value is None else value)]
"""A number that is NaN where the data does not define it; JSON has no NaN, so there it is null."""


class Interval(BaseModel):
    """An estimate with its confidence interval; all NaN where the data does not define it."""

    value: Figure
    low: Figure
    high: Figure


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
        self._ties = _starts_of_ties(probabilities[self._order])
        self._bins = _starts_of_bins(probabilities[self._order], bins)
        self._residuals = (probabilities - labels)[self._order]

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Return each metric under each weighting.

        Args:
            weights: shape (weightings, rows).

        Returns:
            arrays of shape (weightings,) by the names in :data:`METRICS`. ROC AUC is NaN where a weighting has rows of
            one class only, average precision where it has no positive ones.
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

    The intervals are percentile intervals (Efron & Tibshirani, 1993), but for the calibration error: chance differences
    in its bins only add up, in a resample more than in the data. Its interval is the basic one, which mirrors the
    resamples at the estimate and so takes that excess away, though not all of it where calibration is near perfect.

    Args:
        labels: 1 positive, 0 negative, shape (rows,).
        probabilities: probability of positive, shape (rows,).
        bins: number of equal-mass bins of the calibration error (Nixon et al., 2019).
        samples: number of resamples.
        confidence: coverage of the intervals.
    """
    metrics = WeightedMetrics(labels, probabilities, bins)
    values = metrics(np.ones((1, len(labels))))
    chunks = [metrics(weights) for weights in resamples(len(labels), samples)]
    found = {
        name: _interval(values[name][0], np.concatenate([chunk[name] for chunk in chunks]), confidence)
        for name in METRICS
    }
    error = found["calibration_error"]
    mirrored = {"low": max(0.0, 2 * error.value - error.high), "high": max(error.value, 2 * error.value - error.low)}
    return found | {"calibration_error": error.model_copy(update=mirrored)}


def mean_interval(values: Floats, *, samples: int, confidence: float) -> Interval:
    """Return the mean of per-row values, shape (rows,), with its bootstrap interval."""
    chunks = [weights @ values / len(values) for weights in resamples(len(values), samples)]
    return _interval(values.mean(), np.concatenate(chunks), confidence)


def resamples(rows: int, samples: int) -> Iterator[Floats]:
    """Yield how often each resample draws each row, in chunks of shape (resamples, rows); always the same ones."""
    generator = np.random.default_rng(0)
    chunk = max(1, _CHUNK_CELLS // rows)
    for start in range(0, samples, chunk):
        drawn = generator.integers(rows, size=(min(chunk, samples - start), rows))
        yield np.stack([np.bincount(draw, minlength=rows) for draw in drawn]).astype(np.float64)


def reliability(labels: Floats, probabilities: Floats, bins: int) -> list[ReliabilityBin]:
    """Return bins of predicted probability against what was true, from low to high.

    The bins are of equal mass, but for rows of equal probability, which share one.
    """
    order = np.argsort(-probabilities, kind="stable")
    starts = _starts_of_bins(probabilities[order], bins)
    return [
        ReliabilityBin(
            rows=len(part),
            mean_probability=float(probabilities[part].mean()),
            positive_share=float(labels[part].mean()),
        )
        for part in reversed(np.split(order, starts[1:]))
    ]


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Return how far prediction and truth are apart in these bins, in the mean over the rows."""
    gaps = [found.rows * abs(found.mean_probability - found.positive_share) for found in bins]
    return sum(gaps) / sum(found.rows for found in bins)


def _starts_of_ties(ordered: Floats) -> NDArray[np.intp]:
    """Return where each distinct value starts."""
    return np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])


def _starts_of_bins(ordered: Floats, bins: int) -> NDArray[np.intp]:
    """Return where each of at most so many bins starts: of equal mass, moved so that no bin splits a tie.

    The bins of tied rows would depend on the order in which the rows happen to come.
    """
    ties = _starts_of_ties(ordered)
    equal = np.linspace(0, len(ordered), bins, endpoint=False).astype(int)
    return np.unique(ties[np.searchsorted(ties, equal, side="right") - 1])


def _interval(value: float, drawn: Floats, confidence: float) -> Interval:
    if not np.isfinite(value):
        return Interval(value=np.nan, low=np.nan, high=np.nan)
    low, high = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value=float(value), low=float(low), high=float(high))
