"""Metrics of a binary classifier with bootstrap intervals.

Every metric is computed from row weights, many weightings at once. A bootstrap resample is a weighting by how often
each row was drawn, so the intervals of all metrics come from the same resamples and a few matrix products.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator
from statsmodels.stats.proportion import proportion_confint

Floats = NDArray[np.float64]

Groups = NDArray[np.intp]

METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "matthews": "Matthews correlation",
    "recall_positive": "recall of positive",
    "recall_negative": "recall of negative",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "log_loss": "log loss (nats)",
    "calibration_error": "calibration error",
}
"""The metrics and what people call them."""

SHARES = {"accuracy", "macro_f1", "balanced_accuracy", "recall_positive", "recall_negative"}
"""Metrics that are told in per cent."""

LOWER_IS_BETTER = {"brier", "log_loss", "calibration_error"}
_CHUNK_CELLS = 1_000_000  # resamples are weighed in chunks, each temporary array of which takes 8 bytes a cell

Figure = Annotated[float, BeforeValidator(lambda value: np.nan if value is None else value)]
"""A number that is NaN where the data does not define it; JSON has no NaN, so there it is null."""


class Interval(BaseModel):
    """An estimate with its confidence interval; NaN where the data does not define them.

    Nothing is known of how far chance reaches where all rows are of one group.
    """

    value: Figure
    low: Figure
    high: Figure


class Difference(Interval):
    """How much better one set of predictions is than another, positive where it is better.

    Attributes:
        better_share: the share of the resamples in which it is better.
    """

    better_share: Figure


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
            arrays of shape (weightings,) by the names in :data:`METRICS`. A recall is NaN where a weighting has no rows
            of its class, as is what is computed of it; so are ROC AUC, and average precision without positive rows.
            Matthews' (1975) correlation is 0 where only one class was predicted.
        """
        total = weights.sum(axis=1)
        right, brier, log_loss, hits, predicted, positive = (weights @ self._per_row).T
        negative, rejected = total - positive, right - hits
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
            recall_positive, recall_negative = hits / positive, rejected / negative
            one_class = (positive == 0) | (negative == 0)
            f1 = hits / (predicted + positive) + rejected / (total - predicted + negative)  # the mean of both classes'
            spread = np.sqrt(predicted * (total - predicted)) * np.sqrt(positive * negative)
            matthews = np.where(spread > 0, (hits * negative - (predicted - hits) * positive) / spread, 0.0)
        gaps = np.abs(np.add.reduceat(ordered * self._residuals, self._bins, axis=1))
        return {
            "accuracy": right / total,
            "macro_f1": np.where(one_class, np.nan, f1),
            "balanced_accuracy": (recall_positive + recall_negative) / 2,
            "matthews": np.where(one_class, np.nan, matthews),
            "recall_positive": recall_positive,
            "recall_negative": recall_negative,
            "roc_auc": roc_auc,
            "average_precision": average_precision,
            "brier": brier / total,
            "log_loss": log_loss / total,
            "calibration_error": gaps.sum(axis=1) / total,
        }


@dataclass(frozen=True)
class Bootstrap:
    """Metrics of one set of predictions, and of resamples of its groups.

    Reviews of a film or a product are alike, so that a hundred reviews of one product tell less than one of each of a
    hundred. So whole groups are drawn (Cameron, Gelbach & Miller 2008, "Bootstrap-Based Improvements for Inference with
    Clustered Errors"). The draws depend on the number of groups alone: two sets of predictions for the same reviews are
    compared in the same resamples.

    Attributes:
        groups: how many groups there are.
        values: each of :data:`METRICS`.
        draws: each metric in the resamples, shape (samples,).
    """

    groups: int
    values: dict[str, float]
    draws: dict[str, Floats]

    @classmethod
    def of(cls, labels: Floats, probabilities: Floats, groups: Groups, *, bins: int, samples: int) -> "Bootstrap":
        """Draw the groups.

        Args:
            labels: 1 positive, 0 negative, shape (rows,).
            probabilities: probability of positive, shape (rows,).
            groups: the number of each row's group, counted from 0, shape (rows,).
            bins: number of equal-mass bins of the calibration error (Nixon et al., 2019).
            samples: number of resamples.
        """
        metrics, number = WeightedMetrics(labels, probabilities, bins), int(groups.max()) + 1
        values = metrics(np.ones((1, len(labels))))
        chunks = [metrics(weights) for weights in resamples(groups, samples)]
        if number == 1:  # drawn again and again, it would seem certain
            chunks = [dict.fromkeys(METRICS, np.full(samples, np.nan))]
        return cls(
            number,
            {name: float(values[name][0]) for name in METRICS},
            {name: np.concatenate([chunk[name] for chunk in chunks]) for name in METRICS},
        )

    def intervals(self, confidence: float) -> dict[str, Interval]:
        """Return every metric with its interval of this coverage.

        The intervals are percentile intervals (Efron & Tibshirani, 1993), but for the calibration error: chance
        differences in its bins only add up, in a resample more than in the data. Its interval is the basic one, which
        mirrors the resamples at the estimate and so takes that excess away, though not all of it where calibration is
        near perfect.
        """
        found = {name: _interval(self.values[name], self.draws[name], confidence) for name in METRICS}
        error = found["calibration_error"]
        low, high = 2 * error.value - error.high, 2 * error.value - error.low
        if np.isfinite(low):
            low, high = max(0.0, low), max(error.value, high)
        return found | {"calibration_error": error.model_copy(update={"low": low, "high": high})}

    def differences(self, other: "Bootstrap", confidence: float) -> dict[str, Difference]:
        """Return by metric how much better these predictions are than others for the same rows."""
        return {name: self._difference(other, name, confidence) for name in METRICS}

    def _difference(self, other: "Bootstrap", metric: str, confidence: float) -> Difference:
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        value = sign * (self.values[metric] - other.values[metric])
        draws = sign * (self.draws[metric] - other.draws[metric])
        defined = draws[np.isfinite(draws)]
        share = float((defined > 0).mean()) if np.isfinite(value) and len(defined) else np.nan
        return Difference(**_interval(value, draws, confidence).model_dump(), better_share=share)


def number_groups(names: pl.Series) -> Groups:
    """Return the number of each row's group, counted from 0; a row whose group has no name is a group of its own."""
    row = pl.int_range(pl.len()).cast(pl.String)
    numbers = pl.select(names.alias("name")).select(pl.coalesce("g" + pl.col("name"), "r" + row).rank("dense") - 1)
    return numbers.to_series().to_numpy().astype(np.intp)


def mean_interval(values: Floats, groups: Groups, *, samples: int, confidence: float) -> Interval:
    """Return the mean of per-row values, shape (rows,), with its bootstrap interval over the rows' groups."""
    chunks = [weights @ values / weights.sum(axis=1) for weights in resamples(groups, samples)]
    return _interval(values.mean(), np.concatenate(chunks), confidence)


def share_interval(right: Floats, groups: Groups, confidence: float) -> Interval:
    """Return the share of rows that are right, with Wilson's (1927) interval for as many rows as the groups are worth.

    Kish's design effect says how many independent rows tell as much as these, some of which are of one group. Unlike
    the bootstrap, this knows that of 30 rows that are all right the next one may be wrong.

    Args:
        right: 1 right, 0 wrong, shape (rows,).
        groups: the number of each row's group, shape (rows,).
        confidence: coverage of the interval.
    """
    rows, share = len(right), float(right.mean())
    number = len(np.unique(groups))
    of_groups = np.bincount(groups, weights=right - share)
    variance = (of_groups**2).sum() / rows**2 * number / max(1, number - 1)
    independent = share * (1 - share) / max(1, rows - 1)
    # Where the groups do not differ, as a single one never does, a group tells no more than one row.
    worth = rows * min(1.0, independent / variance) if variance > 0 and number > 1 else float(number)
    low, high = proportion_confint(share * worth, worth, alpha=1 - confidence, method="wilson")
    return Interval(value=share, low=float(low), high=float(high))


def resamples(groups: Groups, samples: int) -> Iterator[Floats]:
    """Yield how often each resample of the groups has each row, in chunks of shape (resamples, rows); always the same.

    Args:
        groups: the number of each row's group, counted from 0, shape (rows,).
        samples: number of resamples.
    """
    generator = np.random.default_rng(0)
    number, chunk = int(groups.max()) + 1, max(1, _CHUNK_CELLS // len(groups))
    for start in range(0, samples, chunk):
        drawn = generator.integers(number, size=(min(chunk, samples - start), number))
        yield np.stack([np.bincount(draw, minlength=number) for draw in drawn]).astype(np.float64)[:, groups]


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
    if not np.isfinite(value) or np.isnan(drawn).all():
        return Interval(value=value, low=np.nan, high=np.nan)
    low, high = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value=float(value), low=float(low), high=float(high))
