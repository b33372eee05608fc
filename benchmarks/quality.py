"""Ours and the peers on the same reviews: ``python -m benchmarks.quality``; `--help` lists the options.

No group of reviews is on two sides of a split. With `--folds 5` each review is tested once, by a model that was trained
on four fifths of the others (grouped cross-validation). Each contestant is trained and scored in a process of its own,
one after the other. Nothing is chosen on a test.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import polars as pl

from benchmarks.data import Split, prepare, read_split, write_folds
from benchmarks.figure import Bar, Panel, draw_panels
from benchmarks.isolated import ProcessFailedError, run_alone
from benchmarks.peers import PEERS
from benchmarks.table import RESULTS, SAMPLES, Table, write_results
from sentiment_model.classes import BINARY
from sentiment_model.config import IngestConfig, ModelConfig, TrainingRun
from sentiment_model.evaluation.metrics import Floats, Groups, Interval, WeightedMetrics, mean_interval, number_groups

OURS = {
    "ours": TrainingRun(),
    "ours, quick": TrainingRun(profile="quick"),
    "ours, QRNN": TrainingRun(model=ModelConfig(cell="qrnn")),
    "ours, LSTM": TrainingRun(model=ModelConfig(cell="lstm")),
    "ours, GRU": TrainingRun(model=ModelConfig(cell="gru")),
    "ours, RNN": TrainingRun(model=ModelConfig(cell="rnn")),
    "ours, nightly": TrainingRun(profile="nightly"),
}
"""The configurations of ours to compare, by the name of their rows."""

_NEED_UNLABELLED = {"ours, nightly"}

_AGAINST = ("nbsvm", "tfidf")
_COLUMNS = (
    "", "test accuracy", "95 % interval", "recurrent part alone", *(f"above {PEERS[name].title}" for name in _AGAINST),
    "log loss", "training (s)", "scoring (reviews/s)", "peak memory (MiB)", "model (MB)",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A contestant's figures, means over its seeds and folds; shares are in 0..1.

    Attributes:
        right: of each test review, in what share of the seeds it was labelled rightly.
        seed_accuracies: of each seed.
        recurrent_accuracies: the same of the recurrent part alone; none for a peer.
        accuracy: the mean, with its bootstrap interval over the groups of the reviews.
        log_loss: of the test, in nats a review.
    """

    seeds: list[int]
    right: Floats
    seed_accuracies: list[float]
    recurrent_accuracies: list[float]
    accuracy: Interval
    log_loss: float
    training_seconds: float
    scoring_rate: float
    peak_mib: float
    model_bytes: float


@dataclass(frozen=True)
class Reviews:
    """What is contested.

    Attributes:
        folds: the file of each fold.
        tests: their test reviews.
        groups: the number of the group of each test review, fold after fold.
    """

    folds: list[Path]
    tests: list[Split]
    groups: Groups

    @classmethod
    def of(cls, folds: list[Path]) -> "Reviews":
        """Read the tests."""
        tests = [read_split(fold, "test") for fold in folds]
        return cls(folds, tests, number_groups(pl.concat([test.group for test in tests])))


def measure(name: str, reviews: Reviews, seeds: Sequence[int]) -> Result:
    """Run one contestant on each fold, once for each seed that makes a difference to it.

    Raises:
        ProcessFailedError: it failed.
    """
    peer = PEERS.get(name)
    chosen: dict[str, Any] = {"peer": name} if peer else {"run": OURS[name].model_dump(mode="json", exclude_unset=True)}
    used = list(seeds) if peer is None or peer.seeded else [0]
    runs = {
        seed: [
            run_alone("benchmarks.contest:contest", reviews=str(fold), seed=seed, **chosen) for fold in reviews.folds
        ]
        for seed in used
    }
    labels = np.concatenate([test.labels for test in reviews.tests])
    answers = {seed: np.concatenate([answer["test"] for answer, _ in found]) for seed, found in runs.items()}
    right = np.array([(answer >= 0.5) == (labels > 0.5) for answer in answers.values()], dtype=float)
    alone = [
        float((np.concatenate([answer["recurrent"] for answer, _ in found]) == (labels > 0.5)).mean())
        for found in runs.values()
        if peer is None
    ]
    losses = [_log_loss(labels, answer) for answer in answers.values()]
    every = [run for found in runs.values() for run in found]
    return Result(
        seeds=used,
        right=right.mean(axis=0),
        seed_accuracies=right.mean(axis=1).tolist(),
        recurrent_accuracies=alone,
        accuracy=_interval(right.mean(axis=0), reviews.groups),
        log_loss=mean(losses),
        training_seconds=mean(answer["training_seconds"] for answer, _ in every),
        scoring_rate=mean(answer["scoring_rate"] for answer, _ in every),
        peak_mib=mean(peak for _, peak in every),
        model_bytes=mean(answer["model_bytes"] for answer, _ in every),
    )


def _log_loss(labels: Floats, positive: Floats) -> float:
    """Return the mean log loss of probabilities of positive."""
    metrics = WeightedMetrics(labels.astype(np.intp), np.stack([1 - positive, positive], axis=1), BINARY, bins=1)
    return float(metrics(np.ones((1, len(labels))))["log_loss"][0])


def _interval(values: Floats, groups: Groups) -> Interval:
    config = TrainingRun().evaluate
    return mean_interval(values, groups, samples=config.bootstrap_samples, confidence=config.confidence)


def _differences(results: dict[str, Result], groups: Groups) -> dict[str, dict[str, Interval]]:
    """Return how much more accurate each contestant is than those it is compared with, paired review by review."""
    return {
        name: {
            other: _interval(result.right - results[other].right, groups)
            for other in _AGAINST
            if other in results and other != name
        }
        for name, result in results.items()
    }


def _row(name: str, result: Result | str, over: dict[str, Interval]) -> list[str]:
    title = PEERS[name].title if name in PEERS else f"**{name}**"
    if isinstance(result, str):
        return [title, f"failed: {result.replace('|', ' ')}", *[""] * (len(_COLUMNS) - 2)]
    return [
        title,
        _percent(result.seed_accuracies),
        f"{100 * result.accuracy.low:.1f} to {100 * result.accuracy.high:.1f}",
        _percent(result.recurrent_accuracies),
        *(
            f"{100 * found.value:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})" if found else ""
            for found in (over.get(other) for other in _AGAINST)
        ),
        f"{result.log_loss:.3f}",
        f"{result.training_seconds:,.1f}",
        f"{result.scoring_rate:,.0f}",
        f"{result.peak_mib:,.0f}",
        f"{result.model_bytes / 1e6:,.1f}",
    ]


def _percent(shares: list[float]) -> str:
    """Return the mean, and the spread of several seeds; nothing without any."""
    if not shares:
        return ""
    spread = f" ({100 * min(shares):.1f} to {100 * max(shares):.1f})" if len(shares) > 1 else ""
    return f"{100 * mean(shares):.1f} %{spread}"


def _figure(results: dict[str, Result]) -> str:
    def panel(label: str, values: dict[str, float | Interval]) -> Panel:
        titles = {name: PEERS[name].title if name in PEERS else name for name in values}
        return Panel(label, [Bar(titles[name], value, name in OURS) for name, value in values.items()])

    def percent(interval: Interval) -> Interval:
        return Interval(**{key: 100 * value for key, value in interval.model_dump().items()})

    return draw_panels(
        "quality",
        [
            panel("test accuracy (%), 95 % interval", {n: percent(r.accuracy) for n, r in results.items()}),
            panel("training (s)", {n: r.training_seconds for n, r in results.items()}),
            panel("scoring (reviews/s)", {n: r.scoring_rate for n, r in results.items()}),
        ],
        columns=3,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 where a contestant failed, else 0."""
    names = [*OURS, *PEERS]
    without_unlabelled = [name for name in names if name not in _NEED_UNLABELLED]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="of trainings that are random"
    )
    parser.add_argument("--folds", type=int, default=1, help="test each review once, in so many parts; 1 is one split")
    parser.add_argument("--sample", type=int, metavar="N", help="take about N reviews, for a quick look")
    parser.add_argument(
        "--ingest",
        type=IngestConfig.model_validate_json,
        metavar="JSON",
        help="take other reviews than IMDb's: a run's section `ingest`, with a column of groups",
    )
    parser.add_argument("--unlabelled", metavar="PATH", help="review files for the configurations that learn from such")
    parser.add_argument("--store", help="folder to keep the prepared reviews in; a temporary one by default")
    parser.add_argument("--output", type=Path, help=f"folder of the results; {RESULTS} by default")
    options = parser.parse_args(arguments)
    chosen = options.only or (names if options.unlabelled else without_unlabelled)
    if not options.unlabelled and (lacking := _NEED_UNLABELLED.intersection(chosen)):
        parser.error(f"{', '.join(lacking)} needs --unlabelled")
    if options.ingest and len(options.ingest.classes) > len(BINARY):
        parser.error("the peers tell two classes apart; name two in --ingest, and what to leave out in dropped_labels")
    with tempfile.TemporaryDirectory(prefix="sentiment-benchmark-") as temporary:
        dataset = prepare(options.store or temporary, options.sample, options.unlabelled, options.ingest)
        source = Path(dataset.files("part")[0])
        folds = write_folds(source, options.folds, Path(temporary)) if options.folds > 1 else [source]
        reviews = Reviews.of(folds)
        results: dict[str, Result | str] = {}
        for name in chosen:
            try:
                results[name] = measure(name, reviews, options.seeds)
            except ProcessFailedError as error:
                results[name] = str(error)
            print(" | ".join(_row(name, results[name], {})), flush=True)
    measured = {name: result for name, result in results.items() if isinstance(result, Result)}
    over = _differences(measured, reviews.groups)
    rows = len(reviews.groups)
    whose = (
        "the 25,000 IMDb reviews, in groups of neighbouring rows" if not options.ingest else str(options.ingest.path)
    )
    what = (
        f"{'A sample of' if options.sample else 'Of'} {whose}: {rows:,} tested, of {reviews.groups.max() + 1:,} groups"
    )
    what += f" in {options.folds} folds. " if options.folds > 1 else ". "
    what += "Intervals are 95 % bootstrap intervals over the groups, differences in points and paired by review."
    table = Table("Quality", _COLUMNS, [_row(name, found, over.get(name, {})) for name, found in results.items()], what)
    numbers = {
        "sample": options.sample,
        "folds": options.folds,
        "ingest": options.ingest and options.ingest.model_dump(mode="json"),
        "reviews": dataset.counts,
        "results": {name: _as_json(result, over.get(name, {})) for name, result in results.items()},
        "configurations": {name: run.model_dump(mode="json") for name, run in OURS.items() if name in results},
    }
    output = options.output or (SAMPLES if options.sample else RESULTS)
    print(write_results(output, "quality", "Quality against peers", [table], numbers, _figure(measured)))
    return int(len(measured) < len(results))


def _as_json(result: Result | str, over: dict[str, Interval]) -> dict[str, Any]:
    if isinstance(result, str):
        return {"failed": result}
    numbers = {name: value for name, value in asdict(result).items() if name != "right"}
    differences = {f"above {name}": found.model_dump() for name, found in over.items()}
    return {**numbers, "accuracy": result.accuracy.model_dump(), **differences}


if __name__ == "__main__":
    sys.exit(main())
