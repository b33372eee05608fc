"""Stages over more and more data; each size is run in a process of its own by :mod:`benchmarks.speed`."""

import time
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.data import clean, ingest, tokenize
from sentiment_model.config import IngestConfig, LabelledColumns, ReviewFiles, ScoringRun, TrainingRun
from sentiment_model.store.datasets import Store


def write_copies(reviews: pl.LazyFrame, rows: int, copies: int, path: Path) -> None:
    """Write some reviews as JSON Lines, so many times over; a number at the end of each text makes it unique."""
    frame = reviews.select(text="raw", label="label").collect()
    frame = frame.gather_every(max(1, len(frame) // rows)).head(rows)
    with path.open("w") as file:
        for copy in range(copies):
            frame.with_columns(text=pl.col("text") + f" {copy}").write_ndjson(file)


def score(path: str, bundle: str, store: str, batch_rows: int) -> dict[str, Any]:
    """Label a file into a table of scores in this process, as a worker of the scoring flow does.

    Returns:
        `reviews` and `seconds`.
    """
    from sentiment_model.models.bundle import Predictor
    from sentiment_model.scoring.counts import total
    from sentiment_model.scoring.label import ScoringJob, score_shard, scoring_key
    from sentiment_model.scoring.planning import files_to_score
    from sentiment_model.scoring.shards import cut, file_key
    from sentiment_model.sources.split import SPLIT, split_recipes

    run = ScoringRun(files=ReviewFiles(path=path), batch_rows=batch_rows, shard_rows=10_000)
    started = time.perf_counter()
    predictor = Predictor.load(Path(bundle))
    files = {file_key(file): file for file in files_to_score(run).files}
    splits = {key: Store(store).materialise(SPLIT, *recipe)[0] for key, recipe in split_recipes(files, run).items()}
    job = ScoringJob(
        table=f"{store}/scores",
        key=scoring_key(run, predictor.digest, "1", None),
        run=run,
        sources=files,
        splits={key: split.ref for key, split in splits.items()},
        model_version="1",
        shadow_version=None,
        metadata={},
    )
    counts = total(score_shard(job, shard, predictor, None) for shard in cut(files, splits, run.shard_rows))
    return {"reviews": counts.scored, "seconds": time.perf_counter() - started}


def prepare(path: str, store: str) -> dict[str, Any]:
    """Ingest, clean and tokenize a file into a store.

    Returns:
        `reviews` and `seconds`.
    """
    run = TrainingRun(ingest=IngestConfig(source="files", path=path, columns=LabelledColumns(label="label")))
    folder = Store(store)
    started = time.perf_counter()
    ingested = ingest(folder, run.ingest)
    cleaned = clean(folder, run, ingested, ingested.scan(), None, {})
    tokenize(folder, run.tokenize, cleaned.scan(), cleaned.ref.fingerprint)
    return {"reviews": ingested.counts["rows"], "seconds": time.perf_counter() - started}
