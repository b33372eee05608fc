"""Scoring without Prefect: the same steps, one after the other, in this process."""

import ctypes
import errno
import os
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sentiment_model.config import ReviewFiles, ScoringRun
from sentiment_model.models.bundle import Predictor
from sentiment_model.scoring.counts import Counts, total
from sentiment_model.scoring.label import ScoringJob, score_shard, scoring_key
from sentiment_model.scoring.planning import files_to_score
from sentiment_model.scoring.shards import Shard, cut, file_key
from sentiment_model.scoring.table import Receipt, ScoreTable
from sentiment_model.sources.split import SPLIT, split_recipes
from sentiment_model.store.datasets import Store
from sentiment_model.text.reviews import QUARANTINE_SCHEMA


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


def run_on(path: Path | None, **options: object) -> ScoringRun:
    """Return a run on review files; options are its own or those of the files."""
    own = {name: options.pop(name) for name in list(options) if name in ScoringRun.model_fields}
    return ScoringRun(files=ReviewFiles(path=str(path) if path else None, **options), **own)


def prepare(
    folder: Path | str, predictor: Predictor, run: ScoringRun, shadow_version: str | None = None
) -> tuple[ScoringJob, list[Shard]]:
    """Return the job and the shards of a run whose table is `folder`; what is split goes to a store beside it."""
    files = {file_key(file): file for file in files_to_score(run).files}
    store = Store(f"{folder}-store")
    splits = {key: store.materialise(SPLIT, *recipe)[0] for key, recipe in split_recipes(files, run).items()}
    job = ScoringJob(
        table=str(folder),
        key=scoring_key(run, predictor.digest, "7", None),
        run=run,
        sources=files,
        splits={key: split.ref for key, split in splits.items()},
        model_version="7",
        shadow_version=shadow_version,
        metadata={"model_version": "7"},
    )
    return job, cut(files, splits, run.shard_rows)


def score_into(folder: Path | str, predictor: Predictor, run: ScoringRun, shadow: Predictor | None = None) -> Scored:
    """Score what a run names into the table `folder`."""
    job, shards = prepare(folder, predictor, run, shadow_version="8" if shadow else None)
    receipts = [score_shard(job, shard, predictor, shadow) for shard in shards]
    return Scored(ScoreTable(job.table, job.key), receipts)


class ArenaCounter:
    """In place of a worker: tells how many arenas of glibc its process has after threads allocated memory at once."""

    def score(self, shard: object) -> int:
        barrier = threading.Barrier(4)

        def allocate(number: int) -> None:
            barrier.wait()
            bytearray(100_000 + number)
            barrier.wait()

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(allocate, range(4)))
        libc = ctypes.CDLL("libc.so.6")
        libc.fopen.restype = ctypes.c_void_p
        with tempfile.NamedTemporaryFile() as report:
            file = ctypes.c_void_p(libc.fopen(report.name.encode(), b"w"))
            libc.malloc_info(0, file)
            libc.fclose(file)
            return report.read().count(b"<heap nr=")


class HeavyWorker(ArenaCounter):
    """The same, made of more than a pipe holds."""

    def __init__(self, content: bytes) -> None:
        self.content = content


class OnceUnlucky(ArenaCounter):
    """The same, but that the first of all finds no room on the disk."""

    def __init__(self, marker: Path) -> None:
        if not marker.exists():
            marker.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def published_rows(folder: Path, pattern: str = "scores/**/*.parquet") -> list[str]:
    """Return the row ids that a reader sees who knows nothing of receipts, sorted."""
    frames: Iterable[pl.DataFrame] = (
        pl.read_parquet(path, columns=["row_id"], glob=False) for path in folder.glob(pattern)
    )
    return sorted(row for frame in frames for row in frame["row_id"])
