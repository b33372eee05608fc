"""Stages over more and more data; each size is run in a process of its own by :mod:`benchmarks.speed`."""

import time
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.data import clean, ingest, tokenize
from sentiment_model.config import Columns, IngestConfig, ReviewFiles, ScoringRun, TrainingRun
from sentiment_model.store import DatasetWriter, Store


def write_copies(reviews: pl.LazyFrame, rows: int, copies: int, path: Path) -> None:
    """Write some reviews as JSON Lines, so many times over; a number at the end of each text makes it unique."""
    frame = reviews.select(text="raw", label="label").collect()
    frame = frame.gather_every(max(1, len(frame) // rows)).head(rows)
    with path.open("w") as file:
        for copy in range(copies):
            frame.with_columns(text=pl.col("text") + f" {copy}").write_ndjson(file)


def score(path: str, bundle: str, store: str, batch_rows: int) -> dict[str, Any]:
    """Label a file into a store, as the scoring flow does.

    Returns:
        `reviews` and `seconds`.
    """
    from sentiment_model.bundle import ModelDescription, Predictor
    from sentiment_model.scoring import SCORE, score_files, scoring_identity

    run = ScoringRun(files=ReviewFiles(path=path), batch_rows=batch_rows)
    started = time.perf_counter()

    def write(writer: DatasetWriter) -> dict[str, Any]:
        return score_files(writer, Predictor.load(Path(bundle)), run, "1")

    identity = scoring_identity(run, ModelDescription.read(Path(bundle)).digest, "1")
    dataset = Store(store).materialise(SCORE, *identity, write)[0]
    return {"reviews": dataset.counts["scored"], "seconds": time.perf_counter() - started}


def prepare(path: str, store: str) -> dict[str, Any]:
    """Ingest, clean and tokenize a file into a store.

    Returns:
        `reviews` and `seconds`.
    """
    run = TrainingRun(ingest=IngestConfig(source="files", path=path, columns=Columns(label="label")))
    folder = Store(store)
    started = time.perf_counter()
    ingested = ingest(folder, run)
    cleaned = clean(folder, run, ingested, ingested.scan(), {})
    tokenize(folder, run.tokenize, cleaned.scan(), cleaned.ref.fingerprint)
    return {"reviews": ingested.counts["rows"], "seconds": time.perf_counter() - started}
