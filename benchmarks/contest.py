"""Trains and scores one contestant; run in a process of its own by :mod:`benchmarks.quality`."""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.data import Split, read_split, tokenize
from benchmarks.peers import PEERS, Score
from sentiment_model.config import TrainingRun
from sentiment_model.store.datasets import DatasetWriter, Store

if TYPE_CHECKING:
    from sentiment_model.models.bundle import Predictor

_PASSES = 3


def contest(reviews: str, seed: int, peer: str | None = None, run: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train a contestant on the train split and score the held-out ones from raw text.

    Args:
        reviews: the file that :func:`benchmarks.data.prepare` wrote.
        seed: seed of the training.
        peer: name of a peer; None for ours.
        run: the configuration of ours, as far as it differs from the defaults.

    Returns:
        the probabilities of `validation` and `test`, whether the recurrent part alone says positive of each test review
        (`recurrent`; None for a peer), `training_seconds` (from cleaned text to a written model),
        `scoring_rate` (test reviews a second, from raw text, the median of several passes) and `model_bytes`.
    """
    source = Path(reviews)
    validation, test = read_split(source, "validation"), read_split(source, "test")
    with tempfile.TemporaryDirectory(prefix="sentiment-benchmark-") as folder:
        model = Path(folder, "model")
        model.mkdir()
        recurrent = None
        if peer is not None:
            seconds, score = _train_peer(peer, source, model, seed)
        else:
            seconds, predictor = train_ours(TrainingRun.model_validate(run), source, model, seed)
            recurrent = (predictor.predict(test.raw)["recurrent"].arr.last() > 0).to_list()

            def score(raw: pl.Series) -> NDArray[np.float64]:
                return predictor.predict(raw)["probabilities"].arr.last().to_numpy()

        size = sum(file.stat().st_size for file in model.iterdir())
        return {
            "validation": score(validation.raw).tolist(),  # also warms up what is timed next
            "test": score(test.raw).tolist(),
            "recurrent": recurrent,
            "training_seconds": seconds,
            "scoring_rate": len(test.raw) / median(_timed(score, test) for _ in range(_PASSES)),
            "model_bytes": size,
        }


def _train_peer(name: str, source: Path, model: Path, seed: int) -> tuple[float, Score]:
    peer = PEERS[name]
    train = read_split(source, "train")
    started = time.perf_counter()
    peer.fit(train, model, seed)
    return time.perf_counter() - started, peer.load(model)


def train_ours(run: TrainingRun, source: Path, model: Path, seed: int) -> "tuple[float, Predictor]":
    """Train on cleaned reviews, write a model to an empty folder, and return how many seconds that took, and it."""
    from sentiment_model.models.bundle import Predictor
    from sentiment_model.training.job import HISTORY, TrainingJob, resolve_processes, write_model

    started = time.perf_counter()
    store = Store(str(model.parent / "store"))
    reviews = pl.scan_parquet(source)
    if not (run.train.distillation or run.train.pretraining_tokens):
        reviews = reviews.filter(pl.col("split") != "unlabelled")
    tokens = tokenize(store, run.tokenize, reviews, "0" * 20)
    job = TrainingJob(
        tokens=tokens.ref,
        classes=run.ingest.told_apart(),
        model=run.model.suited_to(tokens.counts["unit"]),
        train=resolve_processes(run.train.model_copy(update={"seed": seed}), "cpu"),
        device="cpu",  # like the peers
        checkpoint=model.parent / "checkpoint.safetensors",
        output=model,
    )
    write_model(DatasetWriter(model), job, _Silent())
    seconds = time.perf_counter() - started
    (model / HISTORY).unlink()  # no part of what scores
    return seconds, Predictor.load(model)


class _Silent:
    """An observer that is not interested."""

    def on_step(self, phase: str, step: int, total_steps: int, loss: float | None) -> None: ...

    def on_epoch(self, phase: str, metrics: object) -> None: ...


def _timed(score: Score, split: Split) -> float:
    started = time.perf_counter()
    score(split.raw)
    return time.perf_counter() - started
