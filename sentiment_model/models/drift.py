"""Drift: how far what is scored differs from what the model was fitted on.

Distributions are kept as histograms with fixed bins, which add up over shards and need no row to be kept. Of two
classes there is one of the probability; of more, one of the confidence, and the number of reviews with each label.
"""

import operator
from collections.abc import Mapping

import numpy as np
import polars as pl
from pydantic import BaseModel

from sentiment_model.config import DriftConfig
from sentiment_model.errors import StoreError
from sentiment_model.models.answers import most_likely

Histograms = Mapping[str, tuple[int, ...]]

# Upper edges of all bins but the last, by quantity.
EDGES: dict[str, tuple[float, ...]] = {
    "probability": tuple(float(edge) for edge in np.linspace(0, 1, 51)[1:-1]),
    "confidence": tuple(float(edge) for edge in np.linspace(0, 1, 51)[1:-1]),
    "tokens": tuple(float(edge) for edge in np.unique(np.geomspace(1, 20_000, 60).round())),
    "unknown_share": (0.0, *(float(edge) for edge in np.geomspace(0.001, 1, 40)[:-1])),
}
_LABEL = "label"  # has no edges, but a bin for each class
_GROUPS = 10
_FLOOR = 1e-4  # share that an empty group counts as, so that the index stays finite


class Drift(BaseModel):
    """How far two distributions of one quantity are apart.

    Attributes:
        psi: population stability index over ten groups of about equal mass in the reference; by custom, below 0.1 is
            no change and above 0.25 a large one (Siddiqi, "Credit Risk Scorecards", 2006). Of labels, each is a group,
            or where there are more than ten, each of the nine that the reference has most of, and the others together.
        ks: Kolmogorov-Smirnov statistic, the largest difference of the distribution functions at the bins' edges, 0..1.
            Labels need have no order: theirs is the largest difference of the share of any set of these groups, which
            is the total variation distance.
    """

    psi: float
    ks: float


def bins(classes: int) -> dict[str, int]:
    """Return how many bins there are, by quantity, where so many classes are told apart."""
    answer = ["probability"] if classes == 2 else ["confidence", _LABEL]
    quantities = [*answer, "tokens", "unknown_share"]
    return {name: classes if name == _LABEL else len(EDGES[name]) + 1 for name in quantities}


def histograms(scores: pl.DataFrame) -> dict[str, tuple[int, ...]]:
    """Count the rows of a table in each bin of each quantity.

    Args:
        scores: has of each class, as arrays, the `probabilities`; and `n_tokens` and `n_unknown`.
    """
    probabilities = scores["probabilities"].to_numpy()
    values = {
        "probability": probabilities[:, -1],
        "confidence": probabilities.max(axis=1),
        "tokens": scores["n_tokens"].to_numpy(),
        "unknown_share": (scores["n_unknown"] / scores["n_tokens"]).to_numpy(),
    }
    counts = {}
    for name, size in bins(probabilities.shape[1]).items():
        if name == _LABEL:
            found = most_likely(probabilities)
        else:
            found = np.searchsorted(EDGES[name], values[name], side="left")
        counts[name] = tuple(np.bincount(found, minlength=size).tolist())
    return counts


def misfit(counts: Histograms, classes: int) -> str | None:
    """Return how the bins of histograms differ from those of this version, or None where they do not.

    Args:
        counts: the histograms; empty ones differ from none.
        classes: how many are told apart.
    """
    sizes = bins(classes)
    for name in {**sizes, **counts} if counts else ():
        found, expected = len(counts.get(name, ())), sizes.get(name, 0)
        if found != expected:
            return f"{found} bins of {name}, where this one reads {expected}"
    return None


def add(first: Histograms, second: Histograms) -> dict[str, tuple[int, ...]]:
    """Return the histograms of the rows of both; empty ones count nothing.

    Raises:
        StoreError: another version of the project counted one of them, in other bins.
    """
    classes = max(len(counts.get(_LABEL, ())) for counts in (first, second)) or 2
    if fault := misfit(first, classes) or misfit(second, classes):
        raise StoreError(
            f"another version of the project counted the scores of these files ({fault}); score them again under a "
            "name (`rescore`), or with the version that scored them"
        )
    if not first or not second:
        return dict(first or second)
    return {name: tuple(map(operator.add, first[name], second[name])) for name in first}


def drift(reference: Histograms, current: Histograms) -> dict[str, Drift]:
    """Compare distributions, by quantity; nothing where one of them has no rows."""
    if not any(map(sum, reference.values())) or not any(map(sum, current.values())):
        return {}
    compared = {}
    for name, counts in reference.items():
        expected, actual = (np.array(rows, float) / sum(rows) for rows in (counts, current[name]))
        compared[name] = _compare_labels(expected, actual) if name == _LABEL else _compare(expected, actual)
    return compared


def unjudged(reference: Histograms, current: Histograms, config: DriftConfig) -> str | None:
    """Return why there are too few rows to judge drift, or None where there are enough, or none at all to judge.

    Without any drift, the index of B groups in n and m rows is about (B - 1)(1/n + 1/m): Yurdakul (2018), "Statistical
    Properties of Population Stability Index". With ten groups, 1,000 rows and the usual limits, of simulated runs
    without drift 99 % were beyond them where the reference had 20 rows, 50 % with 50, 1 % with 100, none with 200.
    """
    known, new = (sum(counts.get("tokens", ())) for counts in (reference, current))
    if not new:
        return None
    if known < config.min_reference_rows:
        return f"too few validation reviews ({known:,}) to judge drift; it takes {config.min_reference_rows:,}"
    if new < config.min_rows:
        return f"too few reviews ({new:,}) to judge drift; it takes {config.min_rows:,}"
    return None


def _compare(expected: np.ndarray, actual: np.ndarray) -> Drift:
    cumulative = expected.cumsum()
    group = np.minimum((cumulative - expected / 2) * _GROUPS, _GROUPS - 1).astype(int)
    ks = float(np.abs(cumulative - actual.cumsum()).max())
    return Drift(psi=_stability_index(expected, actual, group), ks=min(1.0, ks))


def _compare_labels(expected: np.ndarray, actual: np.ndarray) -> Drift:
    rank = (-expected).argsort(kind="stable").argsort()
    group = np.minimum(rank, _GROUPS - 1)
    distance = float(np.abs(np.bincount(group, actual - expected)).sum() / 2)
    return Drift(psi=_stability_index(expected, actual, group), ks=min(1.0, distance))


def _stability_index(expected: np.ndarray, actual: np.ndarray, group: np.ndarray) -> float:
    shares = [np.maximum(np.bincount(group, weights, _GROUPS), _FLOOR) for weights in (expected, actual)]
    used = np.bincount(group, minlength=_GROUPS) > 0
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0]))[used].sum())
