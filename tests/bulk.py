"""Scoring without Prefect: the same steps, one after the other, in this process."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sentiment_model.bundle import Predictor
from sentiment_model.config import ScoringRun
from sentiment_model.reviews import QUARANTINE_SCHEMA
from sentiment_model.score_table import Receipt, ScoreTable
from sentiment_model.scoring import Counts, ScoringJob, files_to_score, score_shard, scoring_key, total
from sentiment_model.shards import Shard, cut, file_key
from sentiment_model.split import SPLIT, is_large_text, split_identity, write_split
from sentiment_model.store import Store


@dataclass
class Scored:
    """A table and the receipts of a run."""

    table: ScoreTable
    receipts: list[Receipt]

    @property
    def counts(self) -> Counts:
        return total(self.receipts)

    def rows(self, role: str = "scores") -> pl.DataFrame:
        paths = self.table.paths(self.receipts, role)
        frames = [pl.read_parquet(path, glob=False) for path in paths]
        return pl.concat(frames, how="diagonal_relaxed") if frames else QUARANTINE_SCHEMA.to_frame()


def prepare(
    folder: Path | str, predictor: Predictor, run: ScoringRun, **changes: object
) -> tuple[ScoringJob, list[Shard]]:
    """Return the job and the shards of a run whose table is `folder`; what is split goes to a store beside it."""
    files = {file_key(file): file for file in files_to_score(run)}
    store = Store(f"{folder}-store")
    splits = {}
    for key, file in files.items():
        if is_large_text(file, run.shard_rows):
            identity = split_identity(file, run.files, run.shard_rows)
            splits[key], _ = store.materialise(
                SPLIT,
                *identity,
                lambda writer, file=file: write_split(writer, file, run.files, run.shard_rows, run.batch_rows),
            )
    fields = {
        "table": str(folder),
        "key": scoring_key(run, predictor.digest, "7", None),
        "files": run.files,
        "sources": files,
        "splits": {key: split.ref for key, split in splits.items()},
        "threshold": run.threshold,
        "uncertain_margin": run.uncertain_margin,
        "batch_rows": run.batch_rows,
        "delta": run.output_format == "delta",
        "model_version": "7",
        "shadow_version": None,
        "metadata": {"model_version": "7"},
    }
    return ScoringJob(**{**fields, **changes}), cut(files, splits, run.shard_rows)


def score_into(folder: Path | str, predictor: Predictor, run: ScoringRun, shadow: Predictor | None = None) -> Scored:
    """Score what a run names into the table `folder`."""
    job, shards = prepare(folder, predictor, run, shadow_version="8" if shadow else None)
    receipts = [score_shard(job, shard, predictor, shadow) for shard in shards]
    return Scored(ScoreTable(job.table, job.key), receipts)


def published_rows(folder: Path, pattern: str = "scores/**/*.parquet") -> list[str]:
    """Return the row ids that a reader sees who knows nothing of receipts, sorted."""
    frames: Iterable[pl.DataFrame] = (
        pl.read_parquet(path, columns=["row_id"], glob=False) for path in folder.glob(pattern)
    )
    return sorted(row for frame in frames for row in frame["row_id"])
