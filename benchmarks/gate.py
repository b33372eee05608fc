"""Two hundred nights of retraining under three rules of promotion: ``python -m benchmarks.gate``.

Models are right or wrong on the reviews of one test of products, which stays the same: the hardest case, since the
champion of many nights is the luckiest of many. Each night's candidate is compared with the champion by the pipeline's
own bootstrap over groups. True quality is the share of all such reviews that a model would get right.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from benchmarks.table import RESULTS, SAMPLES, Table, write_results
from sentiment_model.classes import BINARY
from sentiment_model.config import GateConfig
from sentiment_model.evaluation.metrics import Floats, Groups, Labels, WeightedMetrics, resamples

_QUALITY = 0.91
_GROUPS, _ROWS_OF_A_GROUP = 50, 50
_SAMPLES = 200
# How much of what makes a review hard is the review's own, its product's, and the model's: two models of 91 % then
# differ on about 5 % of the reviews, as retrainings of one configuration do.
_SHARES = {"review": 0.81, "group": 0.09, "model": 0.10}
_BETTER_FROM = 100


@dataclass(frozen=True)
class Comparison:
    """A candidate against the champion: difference of the metric, and share of the resamples with a better one."""

    difference: float
    better_share: float


Rule = Callable[[Comparison], bool]

RULES: dict[str, Rule] = {
    "at most 0.5 points worse": lambda found: found.difference >= -0.005,
    "not worse": lambda found: found.difference >= 0.0,
    "better in 84 % of the resamples (ours)": lambda found: found.better_share >= GateConfig().champion_confidence,
}


@dataclass(frozen=True)
class Nights:
    """How good the candidates are, in shares of all reviews.

    Attributes:
        below_champion: how much worse each is than the champion of its night; None where all are like the first one.
        gain: how much better they are from night 100 on.
        spread: standard deviation of what trainings differ by.
    """

    below_champion: float | None = None
    gain: float = 0.0
    spread: float = 0.0

    def quality(self, night: int, champion: float, luck: float) -> float:
        """Return the true quality of a night's candidate; `luck` is a standard normal number."""
        if self.below_champion is not None:
            return champion - self.below_champion
        return _QUALITY + self.gain * (night >= _BETTER_FROM) + self.spread * luck


NIGHTS = {
    "equally good": Nights(),
    "equally good, give or take 0.2 points": Nights(spread=0.002),
    "each 0.3 points worse than the champion": Nights(below_champion=0.003),
    "one point better from night 100 on": Nights(gain=0.01),
    "half a point better from night 100 on": Nights(gain=0.005),
}


class Test:
    """The test's reviews, half of each label, and the answers of models to them."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        rows = _GROUPS * _ROWS_OF_A_GROUP
        self.groups: Groups = np.repeat(np.arange(_GROUPS), _ROWS_OF_A_GROUP)
        self.labels: Labels = self._generator.integers(2, size=rows)
        of_group = self._generator.normal(size=_GROUPS)[self.groups]
        own = self._generator.normal(size=rows)
        self._hardness = np.sqrt(_SHARES["review"]) * own + np.sqrt(_SHARES["group"]) * of_group
        drawn = np.concatenate(list(resamples(np.arange(_GROUPS), _SAMPLES)))
        self._weights = np.repeat(np.concatenate([np.ones((1, _GROUPS)), drawn]), 4, axis=1)

    def draws(self, quality: float) -> Floats:
        """Return the macro-F1 of a model of this true quality, and then in each resample."""
        noise = np.sqrt(_SHARES["model"]) * self._generator.normal(size=len(self.labels))
        right = self._hardness + noise < norm.ppf(quality)
        # Reviews of a group with the same label and answer count alike, so that each such kind is one row.
        kinds = np.bincount(4 * self.groups + 2 * self.labels + right, minlength=4 * _GROUPS)
        labels, answers = np.tile([[0, 0, 1, 1], [1, 0, 0, 1]], _GROUPS)
        return WeightedMetrics(labels, np.eye(2)[answers], BINARY, bins=1)(self._weights * kinds)["macro_f1"]


def simulate(rule: Rule, candidates: Nights, nights: int, seed: int) -> list[float]:
    """Return the champion's true quality after each night."""
    test, champion, luck = Test(seed), _QUALITY, np.random.default_rng(seed)
    of_champion = test.draws(champion)
    history = []
    for night in range(nights):
        quality = candidates.quality(night, champion, float(luck.normal()))
        found = test.draws(quality) - of_champion
        if rule(Comparison(float(found[0]), float((found[1:] > 0).mean()))):
            champion, of_champion = quality, found + of_champion
        history.append(champion)
    return history


def _row(what: str, name: str, histories: list[list[float]]) -> tuple[list[str], dict[str, Any]]:
    last = 100 * (np.array([history[-1] for history in histories]) - _QUALITY)
    waits = [
        next((night - _BETTER_FROM + 1 for night, quality in enumerate(history) if quality > _QUALITY), None)
        for history in histories
        if NIGHTS[what].gain
    ]
    won = sorted(wait for wait in waits if wait is not None)
    median = f"{won[len(waits) // 2]}" if len(won) > len(waits) // 2 else "never"
    cells = [what, name, f"{last.mean():+.2f}", f"{np.quantile(last, 0.05):+.2f}", median if waits else ""]
    return cells, {"nights": what, "rule": name, "last": last.tolist(), "waits": waits}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulation."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("--nights", type=int, default=200)
    parser.add_argument("--runs", type=int, default=40, help="simulations of each rule")
    parser.add_argument("--output", type=Path, help=f"folder of the results; {RESULTS} by default")
    options = parser.parse_args(arguments)
    rows, numbers = [], []
    for what, candidates in NIGHTS.items():
        for name, rule in RULES.items():
            histories = [simulate(rule, candidates, options.nights, seed) for seed in range(options.runs)]
            cells, found = _row(what, name, histories)
            rows.append(cells)
            numbers.append(found)
            print(" | ".join(cells), flush=True)
    columns = [
        "candidates",
        "promoted if",
        "champion in the end (points)",
        "the worst twentieth",
        "nights until it won",
    ]
    note = (
        f"{options.runs} runs of {options.nights} nights with one test of {_GROUPS} groups of {_ROWS_OF_A_GROUP} "
        f"reviews. Points of true quality from the first champion's {100 * _QUALITY:.0f} %; nights are the median."
    )
    output = options.output or (RESULTS if options.nights >= 200 and options.runs >= 40 else SAMPLES)
    table = Table("Rules of promotion", columns, rows, note)
    print(write_results(output, "gate", "Nights under a rule of promotion", [table], {"simulations": numbers}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
