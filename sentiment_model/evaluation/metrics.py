"""Metrics of a classifier with bootstrap intervals.

Every metric is computed from row weights, many weightings at once. A bootstrap resample is a weighting by how often
each row was drawn, so the intervals of all metrics come from the same resamples and a few matrix products.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator
from scipy.sparse import csr_array
from statsmodels.stats.proportion import proportion_confint

from sentiment_model.classes import BINARY, Classes, class_keys
from sentiment_model.models.answers import most_likely

Floats = NDArray[np.float64]

Labels = NDArray[np.intp]

Groups = NDArray[np.intp]

_CHUNK_CELLS = 1_000_000  # resamples are weighed in chunks, each temporary array of which takes 8 bytes a cell

Figure = Annotated[float, BeforeValidator(lambda value: np.nan if value is None else value)]
"""A number that is NaN where the data does not define it; JSON has no NaN, so there it is null."""


class Metric(NamedTuple):
    """How a metric is told.

    Attributes:
        title: what people call it; it may hold the name of a class, as its user spells it.
        is_share: whether it is told in per cent.
        lower_is_better: whether less of it is better.
        is_detail: whether it is of one class, and told in the table of classes rather than among those of them all.
    """

    title: str
    is_share: bool = False
    lower_is_better: bool = False
    is_detail: bool = False


def metrics_of(classes: Classes) -> dict[str, Metric]:
    """Return the metrics for these classes by key, in the order in which they are told."""
    several = len(classes) > len(BINARY)
    mean = "mean " if several else ""
    named = list(zip(class_keys(classes), classes.names, strict=True))[::-1]
    of_order = {
        "mean_absolute_error": Metric("mean absolute error (classes)", lower_is_better=True),
        "quadratic_kappa": Metric("quadratic weighted kappa"),
    }
    return {
        "accuracy": Metric("accuracy", is_share=True),
        "macro_f1": Metric("macro-F1", is_share=True),
        "balanced_accuracy": Metric("balanced accuracy", is_share=True),
        "matthews": Metric("Matthews correlation"),
        **(of_order if classes.ordered else {}),
        **{f"recall_{key}": Metric(f"recall of {name}", is_share=True, is_detail=several) for key, name in named},
        "roc_auc": Metric(f"{mean}ROC AUC"),
        "average_precision": Metric(f"{mean}average precision"),
        "brier": Metric("Brier score", lower_is_better=True),
        "log_loss": Metric("log loss (nats)", lower_is_better=True),
        "calibration_error": Metric("calibration error", lower_is_better=True),
        **{f"precision_{key}": Metric(f"precision of {name}", is_share=True, is_detail=True) for key, name in named},
        **{f"f1_{key}": Metric(f"F1 of {name}", is_share=True, is_detail=True) for key, name in named},
    }


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
    """Reviews of similar probability: what was predicted and what was true.

    Attributes:
        rows: how many reviews.
        mean_probability: of what :func:`events` tells.
        positive_share: of how many of them that is true.
    """

    rows: int
    mean_probability: float
    positive_share: float


class WeightedMetrics:
    """Metrics of one set of predictions under any row weights."""

    def __init__(self, labels: Labels, probabilities: Floats, classes: Classes, bins: int) -> None:
        """Prepare.

        Args:
            labels: numbers of the true classes, shape (rows,).
            probabilities: of all classes, shape (rows, classes).
            classes: what is told apart.
            bins: number of equal-mass bins of the calibration error.
        """
        self._classes, numbers = classes, np.arange(len(classes))
        predicted = most_likely(probabilities)
        is_true, is_predicted = labels[:, None] == numbers, predicted[:, None] == numbers
        log_loss = -np.log(np.clip(probabilities[is_true], 1e-15, 1 - 1e-15))
        brier = ((probabilities - is_true) ** 2).sum(axis=1) / 2
        distance = np.abs(labels - predicted)
        of_rows = np.stack([brier, log_loss, distance, distance**2], axis=1)
        of_classes = np.concatenate([is_true & is_predicted, is_predicted, is_true], axis=1)
        self._per_row = np.concatenate([of_rows, of_classes, _residuals(labels, probabilities, bins)], axis=1)
        # The order by the second of two classes is that by the first, backwards.
        ranked = numbers if len(classes) > len(BINARY) else numbers[1:]
        self._rankings = [_Ranking.of(is_true[:, number], probabilities[:, number]) for number in ranked]

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Return each metric under each weighting.

        Args:
            weights: shape (weightings, rows).

        Returns:
            arrays of shape (weightings,) by the keys of :func:`metrics_of`. What is of a class is NaN where a weighting
            has no rows of it, or none predicted as it for its precision. What is of all classes is of those that a
            weighting has rows of, and all but the average precision and what is a mean over the rows is NaN where
            these are fewer than two. Matthews' (1975) correlation, for more than two classes that of Gorodkin (2004),
            is 0 where only one class was predicted. The Brier score is half the sum over the classes, so that it is the
            usual one of two. The kappa is Cohen's (1968), with squares as weights.
        """
        total, sums = weights.sum(axis=1), weights @ self._per_row
        brier, log_loss, distance, squares = sums[:, :4].T
        numbers = np.arange(len(self._classes))
        hits, predicted, actual, gaps = np.split(sums[:, 4:], len(numbers) * np.arange(1, 4), axis=1)
        one_class = (actual > 0).sum(axis=1) < 2
        by_row = np.ascontiguousarray(weights.T)
        ranked = [ranking(by_row) for ranking in self._rankings]
        roc_auc, average_precision = (_mean(np.stack(values, axis=1)) for values in zip(*ranked, strict=True))
        with np.errstate(invalid="ignore", divide="ignore"):
            recall, precision = hits / actual, hits / predicted
            f1 = np.where(actual > 0, 2 * hits / (predicted + actual), np.nan)
            spread = np.sqrt(_spread(predicted, total)) * np.sqrt(_spread(actual, total))
            covariance = hits.sum(axis=1) * total - (predicted * actual).sum(axis=1)
            matthews = np.where(spread > 0, covariance / spread, 0.0)
            squares_by_chance = ((actual @ (numbers[:, None] - numbers) ** 2) * predicted).sum(axis=1) / total
            quadratic_kappa = 1 - squares / squares_by_chance
        found = {
            "accuracy": hits.sum(axis=1) / total,
            "macro_f1": np.where(one_class, np.nan, _mean(f1)),
            "balanced_accuracy": np.where(one_class, np.nan, _mean(recall)),
            "matthews": np.where(one_class, np.nan, matthews),
            "mean_absolute_error": distance / total,
            "quadratic_kappa": np.where(one_class, np.nan, quadratic_kappa),
            "roc_auc": roc_auc,
            "average_precision": average_precision,
            "brier": brier / total,
            "log_loss": log_loss / total,
            "calibration_error": np.abs(gaps).sum(axis=1) / total,
        }
        for kind, values in {"recall": recall, "precision": precision, "f1": f1}.items():
            found |= {
                f"{kind}_{key}": of_class for key, of_class in zip(class_keys(self._classes), values.T, strict=True)
            }
        return {key: found[key] for key in metrics_of(self._classes)}


@dataclass(frozen=True)
class _Ranking:
    """Rows from the highest probability of a class to the lowest, in parts.

    Rows of equal probability, some of which are of the class, are a part, as are all others between two such. So there
    are at most about twice as many parts as rows of the class: many classes have hardly more than two together.

    Attributes:
        positives: which rows of the class each part has, shape (parts, rows).
        negatives: which other rows.
    """

    positives: csr_array
    negatives: csr_array

    @classmethod
    def of(cls, is_true: NDArray[np.bool_], probabilities: Floats) -> "_Ranking":
        order = np.argsort(-probabilities, kind="stable")
        ties, ordered = _starts_of_ties(probabilities[order]), is_true[order]
        has_positives = np.logical_or.reduceat(ordered, ties)
        parts = (has_positives | np.r_[True, has_positives[:-1]]).cumsum() - 1
        part_of_row = parts.repeat(np.diff(ties, append=len(order)))

        def members(chosen: NDArray[np.bool_]) -> csr_array:
            places = part_of_row[chosen], order[chosen]
            return csr_array((np.ones(len(places[0])), places), shape=(parts[-1] + 1, len(order)))

        return cls(members(ordered), members(~ordered))

    def __call__(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return the ROC AUC and the average precision under weightings of shape (rows, weightings)."""
        positives, negatives = self.positives @ weights, self.negatives @ weights
        seen_positives, seen_negatives = positives.cumsum(axis=0), negatives.cumsum(axis=0)
        pairs = (negatives * (seen_positives - positives / 2)).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(positives > 0, seen_positives / (seen_positives + seen_negatives), 0.0)
            average_precision = (precision * positives).sum(axis=0) / seen_positives[-1]
            roc_auc = pairs / (seen_positives[-1] * seen_negatives[-1])
        return roc_auc, average_precision


def _residuals(labels: Labels, probabilities: Floats, bins: int) -> Floats:
    """Return how far prediction and truth are apart, shape (rows, bins): each row's in the column of its bin."""
    outcomes, claimed = events(labels, probabilities)
    order = np.argsort(-claimed, kind="stable")
    starts = _starts_of_bins(claimed[order], bins)
    found = np.zeros((len(labels), len(starts)))
    found[order, np.searchsorted(starts, np.arange(len(labels)), side="right") - 1] = (claimed - outcomes)[order]
    return found


def _mean(values: Floats) -> Floats:
    """Return the mean over the classes, shape (weightings,), of those for which it is defined."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, values, 0.0).sum(axis=1) / defined.sum(axis=1))


def _spread(weights: Floats, total: Floats) -> Floats:
    """Return how much is shared out among classes, shape (weightings,): 0 where one has it all."""
    return np.asarray((weights * (total[:, None] - weights)).sum(axis=1))


def events(labels: Labels, probabilities: Floats) -> tuple[Floats, Floats]:
    """Return what the calibration is judged by: whether something is true of each row, and its probability.

    Of two classes that is to be of the second; of more, to be of the class with the largest probability.

    Args:
        labels: numbers of the true classes, shape (rows,).
        probabilities: of all classes, shape (rows, classes).
    """
    asked = most_likely(probabilities) if probabilities.shape[1] > len(BINARY) else np.ones_like(labels)
    return (labels == asked).astype(np.float64), probabilities[np.arange(len(labels)), asked]


@dataclass(frozen=True)
class Bootstrap:
    """Metrics of one set of predictions, and of resamples of its groups.

    Reviews of a film or a product are alike, so that a hundred reviews of one product tell less than one of each of a
    hundred. So whole groups are drawn (Cameron, Gelbach & Miller 2008, "Bootstrap-Based Improvements for Inference with
    Clustered Errors"). The draws depend on the number of groups alone: two sets of predictions for the same reviews are
    compared in the same resamples.

    Attributes:
        classes: what is told apart.
        groups: how many groups there are.
        values: each of :func:`metrics_of` them.
        draws: each metric in the resamples, shape (samples,).
    """

    classes: Classes
    groups: int
    values: dict[str, float]
    draws: dict[str, Floats]

    @classmethod
    def of(
        cls, labels: Labels, probabilities: Floats, groups: Groups, classes: Classes, *, bins: int, samples: int
    ) -> "Bootstrap":
        """Draw the groups.

        Args:
            labels: numbers of the true classes, shape (rows,).
            probabilities: of all classes, shape (rows, classes).
            groups: the number of each row's group, counted from 0, shape (rows,).
            classes: what is told apart.
            bins: number of equal-mass bins of the calibration error (Nixon et al., 2019).
            samples: number of resamples.
        """
        metrics, number = WeightedMetrics(labels, probabilities, classes, bins), int(groups.max()) + 1
        values = metrics(np.ones((1, len(labels))))
        chunks = [metrics(weights) for weights in resamples(groups, samples)]
        if number == 1:  # drawn again and again, it would seem certain
            chunks = [dict.fromkeys(values, np.full(samples, np.nan))]
        return cls(
            classes,
            number,
            {name: float(value[0]) for name, value in values.items()},
            {name: np.concatenate([chunk[name] for chunk in chunks]) for name in values},
        )

    def intervals(self, confidence: float) -> dict[str, Interval]:
        """Return every metric with its interval of this coverage.

        The intervals are percentile intervals (Efron & Tibshirani, 1993), but for the calibration error: chance
        differences in its bins only add up, in a resample more than in the data. Its interval is the basic one, which
        mirrors the resamples at the estimate and so takes that excess away, though not all of it where calibration is
        near perfect.
        """
        found = {name: _interval(self.values[name], self.draws[name], confidence) for name in self.values}
        error = found["calibration_error"]
        low, high = 2 * error.value - error.high, 2 * error.value - error.low
        if np.isfinite(low):
            low, high = max(0.0, low), max(error.value, high)
        return found | {"calibration_error": error.model_copy(update={"low": low, "high": high})}

    def differences(self, other: "Bootstrap", confidence: float) -> dict[str, Difference]:
        """Return by metric how much better these predictions are than others for the same rows."""
        return {
            name: self._difference(other, name, -1.0 if metric.lower_is_better else 1.0, confidence)
            for name, metric in metrics_of(self.classes).items()
        }

    def _difference(self, other: "Bootstrap", metric: str, sign: float, confidence: float) -> Difference:
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


def reliability(labels: Labels, probabilities: Floats, bins: int) -> list[ReliabilityBin]:
    """Return bins of predicted probability against what was true, see :func:`events`, from low to high.

    The bins are of equal mass, but for rows of equal probability, which share one.

    Args:
        labels: numbers of the true classes, shape (rows,).
        probabilities: of all classes, shape (rows, classes).
        bins: how many at most.
    """
    outcomes, claimed = events(labels, probabilities)
    order = np.argsort(-claimed, kind="stable")
    starts = _starts_of_bins(claimed[order], bins)
    return [
        ReliabilityBin(
            rows=len(part),
            mean_probability=float(claimed[part].mean()),
            positive_share=float(outcomes[part].mean()),
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
