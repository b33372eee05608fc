"""Ours and the peers on the same reviews: ``python -m benchmarks.quality``; `--help` lists the options.

Each contestant is trained and scored in a process of its own, one after the other. Nothing is chosen on the test split.
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

from benchmarks.data import Split, prepare, read_split
from benchmarks.figure import Bar, Panel, draw_panels
from benchmarks.isolated import ProcessFailedError, run_alone
from benchmarks.peers import PEERS
from benchmarks.table import RESULTS, SAMPLES, Table, write_results
from sentiment_model.config import ModelConfig, TrainingRun
from sentiment_model.evaluation.metrics import Floats, Interval, WeightedMetrics, mean_interval

OURS = {
    "ours": TrainingRun(),
    "ours, quick": TrainingRun(profile="quick"),
    "ours, recurrent part alone": TrainingRun(model=ModelConfig(ngrams=0)),
    "ours, QRNN": TrainingRun(model=ModelConfig(cell="qrnn")),
    "ours, LSTM": TrainingRun(model=ModelConfig(cell="lstm")),
    "ours, GRU": TrainingRun(model=ModelConfig(cell="gru")),
    "ours, RNN": TrainingRun(model=ModelConfig(cell="rnn")),
    "ours, nightly": TrainingRun(profile="nightly"),
}
"""The configurations of ours to compare, by the name of their rows."""

_NEED_UNLABELLED = {"ours, nightly"}

_COLUMNS = (
    "", "test accuracy", "95 % interval", "validation accuracy", "ROC AUC", "training (s)", "scoring (reviews/s)",
    "peak memory (MiB)", "model (MB)",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A contestant's figures, means over its seeds; shares are in 0..1.

    Attributes:
        test_accuracies: of each seed; `test_accuracy` is their mean, with its bootstrap interval over the reviews.
    """

    seeds: list[int]
    test_accuracy: Interval
    test_accuracies: list[float]
    validation_accuracy: float
    validation_accuracies: list[float]
    roc_auc: float
    training_seconds: float
    scoring_rate: float
    peak_mib: float
    model_bytes: float


def measure(name: str, reviews: Path, seeds: Sequence[int], validation: Split, test: Split) -> Result:
    """Run one contestant, once for each seed that makes a difference to it.

    Raises:
        ProcessFailedError: it failed.
    """
    peer = PEERS.get(name)
    chosen: dict[str, Any] = {"peer": name} if peer else {"run": OURS[name].model_dump(mode="json", exclude_unset=True)}
    used = list(seeds) if peer is None or peer.seeded else [0]
    runs = [run_alone("benchmarks.contest:contest", reviews=str(reviews), seed=seed, **chosen) for seed in used]
    right = {
        split: np.array([(np.array(answer[split]) >= 0.5) == (held_out.labels > 0.5) for answer, _ in runs])
        for split, held_out in (("validation", validation), ("test", test))
    }
    config = TrainingRun().evaluate
    return Result(
        seeds=used,
        test_accuracy=mean_interval(
            right["test"].mean(axis=0), samples=config.bootstrap_samples, confidence=config.confidence
        ),
        test_accuracies=right["test"].mean(axis=1).tolist(),
        validation_accuracy=float(right["validation"].mean()),
        validation_accuracies=right["validation"].mean(axis=1).tolist(),
        roc_auc=mean(_roc_auc(test.labels, np.array(answer["test"])) for answer, _ in runs),
        training_seconds=mean(answer["training_seconds"] for answer, _ in runs),
        scoring_rate=mean(answer["scoring_rate"] for answer, _ in runs),
        peak_mib=mean(peak for _, peak in runs),
        model_bytes=mean(answer["model_bytes"] for answer, _ in runs),
    )


def _roc_auc(labels: Floats, probabilities: Floats) -> float:
    metrics = WeightedMetrics(labels, probabilities, bins=1)(np.ones((1, len(labels))))
    return float(metrics["roc_auc"][0])


def _row(name: str, result: Result | str) -> list[str]:
    title = PEERS[name].title if name in PEERS else f"**{name}**"
    if isinstance(result, str):
        return [title, f"failed: {result.replace('|', ' ')}", *[""] * (len(_COLUMNS) - 2)]
    return [
        title,
        _percent(result.test_accuracies),
        f"{100 * result.test_accuracy.low:.1f} to {100 * result.test_accuracy.high:.1f}",
        _percent(result.validation_accuracies),
        f"{result.roc_auc:.3f}",
        f"{result.training_seconds:,.1f}",
        f"{result.scoring_rate:,.0f}",
        f"{result.peak_mib:,.0f}",
        f"{result.model_bytes / 1e6:,.1f}",
    ]


def _percent(shares: list[float]) -> str:
    """Return the mean, and the spread of several seeds."""
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
            panel("test accuracy (%), 95 % interval", {n: percent(r.test_accuracy) for n, r in results.items()}),
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
    parser.add_argument("--sample", type=int, metavar="N", help="take about N reviews, for a quick look")
    parser.add_argument("--unlabelled", metavar="PATH", help="review files for the configurations that learn from such")
    parser.add_argument("--store", help="folder to keep the prepared reviews in; a temporary one by default")
    parser.add_argument("--output", type=Path, help=f"folder of the results; {RESULTS} by default")
    options = parser.parse_args(arguments)
    chosen = options.only or (names if options.unlabelled else without_unlabelled)
    if not options.unlabelled and (lacking := _NEED_UNLABELLED.intersection(chosen)):
        parser.error(f"{', '.join(lacking)} needs --unlabelled")
    with tempfile.TemporaryDirectory(prefix="sentiment-benchmark-") as temporary:
        dataset = prepare(options.store or temporary, options.sample, options.unlabelled)
        reviews = Path(dataset.files("part")[0])
        validation, test = read_split(reviews, "validation"), read_split(reviews, "test")
        results: dict[str, Result | str] = {}
        for name in chosen:
            try:
                results[name] = measure(name, reviews, options.seeds, validation, test)
            except ProcessFailedError as error:
                results[name] = str(error)
            print(" | ".join(_row(name, results[name])), flush=True)
    sizes = dataset.counts
    what = f"{'A sample' if options.sample else 'The 25,000 IMDb reviews'}: {sizes['train']:,} to train on, "
    what += f"{sizes['validation']:,} for validation, {sizes['test']:,} for the test."
    measured = {name: result for name, result in results.items() if isinstance(result, Result)}
    table = Table("Quality", _COLUMNS, [_row(name, result) for name, result in results.items()], what)
    numbers = {
        "sample": options.sample,
        "reviews": sizes,
        "results": {name: _as_json(result) for name, result in results.items()},
        "configurations": {name: run.model_dump(mode="json") for name, run in OURS.items() if name in results},
    }
    output = options.output or (SAMPLES if options.sample else RESULTS)
    print(write_results(output, "quality", "Quality against peers", [table], numbers, _figure(measured)))
    return int(len(measured) < len(results))


def _as_json(result: Result | str) -> dict[str, Any]:
    if isinstance(result, str):
        return {"failed": result}
    return {**asdict(result), "test_accuracy": result.test_accuracy.model_dump()}


if __name__ == "__main__":
    sys.exit(main())
