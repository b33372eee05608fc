"""Drift: how far what is scored differs from what the model was fitted on.

Distributions are kept as histograms with fixed bins, which add up over shards and need no row to be kept.
"""

import operator
from collections.abc import Mapping

import numpy as np
import polars as pl
from pydantic import BaseModel

from sentiment_model.config import DriftConfig
from sentiment_model.errors import StoreError

Histograms = Mapping[str, tuple[int, ...]]

# Upper edges of all bins but the last, by quantity.
EDGES: dict[str, tuple[float, ...]] = {
    "probability": tuple(float(edge) for edge in np.linspace(0, 1, 51)[1:-1]),
    "tokens": tuple(float(edge) for edge in np.unique(np.geomspace(1, 20_000, 60).round())),
    "unknown_share": (0.0, *(float(edge) for edge in np.geomspace(0.001, 1, 40)[:-1])),
}
_GROUPS = 10
_FLOOR = 1e-4  # share that an empty group counts as, so that the index stays finite


class Drift(BaseModel):
    """How far two distributions of one quantity are apart.

    Attributes:
        psi: population stability index over ten groups of about equal mass in the reference; by custom, below 0.1 is
            no change and above 0.25 a large one (Siddiqi, "Credit Risk Scorecards", 2006).
        ks: Kolmogorov-Smirnov statistic, the largest difference of the distribution functions at the bins' edges, 0..1.
    """

    psi: float
    ks: float


def histograms(scores: pl.DataFrame) -> dict[str, tuple[int, ...]]:
    """Count the rows of a table with `probability`, `n_tokens` and `n_unknown` in each bin of each quantity."""
    values = {
        "probability": scores["probability"],
        "tokens": scores["n_tokens"],
        "unknown_share": scores["n_unknown"] / scores["n_tokens"],
    }
    counts = {}
    for name, edges in EDGES.items():
        bins = np.searchsorted(edges, values[name].to_numpy(), side="left")
        counts[name] = tuple(np.bincount(bins, minlength=len(edges) + 1).tolist())
    return counts


def misfit(counts: Histograms) -> str | None:
    """Return how the bins of histograms differ from those of this version, or None where they do not."""
    for name in {**EDGES, **counts} if counts else ():
        found, expected = len(counts.get(name, ())), len(EDGES[name]) + 1 if name in EDGES else 0
        if found != expected:
            return f"{found} bins of {name}, where this one reads {expected}"
    return None


def add(first: Histograms, second: Histograms) -> dict[str, tuple[int, ...]]:
    """Return the histograms of the rows of both; empty ones count nothing.

    Raises:
        StoreError: another version of the project counted one of them, in other bins.
    """
    if fault := misfit(first) or misfit(second):
        raise StoreError(
            f"another version of the project counted the scores of these files ({fault}); score them again under a "
            "name (`rescore`), or with the version that scored them"
        )
    if not first or not second:
        return dict(first or second)
    return {name: tuple(map(operator.add, first[name], second[name])) for name in EDGES}


def drift(reference: Histograms, current: Histograms) -> dict[str, Drift]:
    """Compare distributions, by quantity; nothing where one of them has no rows."""
    if not any(map(sum, reference.values())) or not any(map(sum, current.values())):
        return {}
    return {name: _compare(np.array(reference[name], float), np.array(current[name], float)) for name in EDGES}


def unjudged(reference: Histograms, current: Histograms, config: DriftConfig) -> str | None:
    """Return why there are too few rows to judge drift, or None where there are enough, or none at all to judge.

    Without any drift, the index of B groups in n and m rows is about (B - 1)(1/n + 1/m): Yurdakul (2018), "Statistical
    Properties of Population Stability Index". With ten groups, 1,000 rows and the usual limits, of simulated runs
    without drift 99 % were beyond them where the reference had 20 rows, 50 % with 50, 1 % with 100, none with 200.
    """
    known, new = (sum(counts.get("probability", ())) for counts in (reference, current))
    if not new:
        return None
    if known < config.min_reference_rows:
        return f"too few validation reviews ({known:,}) to judge drift; it takes {config.min_reference_rows:,}"
    if new < config.min_rows:
        return f"too few reviews ({new:,}) to judge drift; it takes {config.min_rows:,}"
    return None


def _compare(reference: np.ndarray, current: np.ndarray) -> Drift:
    expected, actual = reference / reference.sum(), current / current.sum()
    cumulative = expected.cumsum()
    group = np.minimum((cumulative - expected / 2) * _GROUPS, _GROUPS - 1).astype(int)
    shares = [np.maximum(np.bincount(group, weights, _GROUPS), _FLOOR) for weights in (expected, actual)]
    used = np.bincount(group, minlength=_GROUPS) > 0
    psi = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0]))[used].sum())
    ks = float(np.abs(cumulative - actual.cumsum()).max())
    return Drift(psi=psi, ks=min(1.0, ks))
