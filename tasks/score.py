"""Batch scoring as Prefect tasks: fetch the model, plan the shards, score them."""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from sentiment_model.config import ScoringRun
from sentiment_model.errors import FileAccessError, SourceError
from sentiment_model.models.bundle import ModelDescription, Predictor
from sentiment_model.registry.tracking import Tracker
from sentiment_model.scoring import planning
from sentiment_model.scoring.engines import (
    Bundle,
    JobShard,
    LocalEngine,
    ModelWorker,
    ShardWorker,
    default_workers,
    read_bundle,
    score_on_ray,
)
from sentiment_model.scoring.label import ScoringJob
from sentiment_model.scoring.ledger import Ledger
from sentiment_model.scoring.shards import Shard
from sentiment_model.scoring.table import Receipt
from sentiment_model.settings import DeviceName
from sentiment_model.sources.files import SourceFile
from sentiment_model.sources.split import SPLIT, split_recipes, split_rows
from sentiment_model.store.datasets import DatasetRef
from tasks._stage import RETRIES, retry_can_help, run_stage

_TIMEOUT_SECONDS = 7 * 24 * 3600.0
_SMALL_BYTES = 4 << 20  # which take about as long to score as a process takes to start


class FetchedModel(NamedTuple):
    """A model that was fetched from the registry.

    Attributes:
        bundle: its files.
        description: what they say of themselves.
        version: its version in the registry.
    """

    bundle: Bundle
    description: ModelDescription
    version: str


@task(
    name="fetch model",
    task_run_name="fetch {model_uri}",
    cache_policy=NO_CACHE,  # an alias moves
    persist_result=False,  # which would pickle the whole model
    **RETRIES,
    timeout_seconds=3600,
)
def fetch_model(tracker: Tracker, model_uri: str) -> FetchedModel:
    """Download a registered model.

    Raises:
        ModelError: there is no such model, or it is damaged.
        TrackingError: MLflow cannot be reached.
    """
    with TemporaryDirectory(prefix="sentiment-model-") as temporary:
        folder, version = tracker.registry.fetch_bundle(model_uri, Path(temporary))
        # Loaded once here, so that a damaged model is known before workers start.
        return FetchedModel(read_bundle(folder), Predictor.load(folder).description, version)


class Engine:
    """What scores the shards of a run: an engine's workers, and the models that they load.

    Processes of this machine are those of the run: they start at most once, for the first shards or, where the plan of
    these takes long, meanwhile.
    """

    def __init__(self, run: ScoringRun, device: DeviceName, model: FetchedModel, shadow: FetchedModel | None) -> None:
        """Prepare the engine; nothing starts yet.

        Args:
            run: names the engine.
            device: where to compute.
            model: the model.
            shadow: the model that scores beside it.
        """
        self.run = run
        self.device = device
        self.models = model.bundle, shadow.bundle if shadow else None
        self.workers = run.workers or default_workers(device)
        self._local: LocalEngine | None = None

    def warm_up(self, shards: int) -> None:
        """Start processes for so many shards that are to come."""
        if self.run.engine == "local":
            self.local().warm_up(shards)

    def local(self) -> LocalEngine:
        """Return the processes of this machine."""
        if self._local is None:
            self._local = LocalEngine(partial(ModelWorker, self.device, *self.models), self.workers)
        return self._local

    def close(self) -> None:
        """Stop the processes."""
        if self._local is not None:
            self._local.close()
            self._local = None


@task(name="plan", task_run_name="plan {ledger.table.key}", cache_policy=NO_CACHE, timeout_seconds=_TIMEOUT_SECONDS)
def plan(
    ledger: Ledger, files: Mapping[str, SourceFile], run: ScoringRun, store_url: str, engine: Engine
) -> planning.Planned:
    """Plan what is not planned yet, see :func:`sentiment_model.scoring.planning.plan`.

    Args:
        ledger: what has been planned and done.
        files: all files to score, by key.
        run: how they are read and cut.
        store_url: where large text files are split to.
        engine: what will score; it is warmed up while files are split.

    Raises:
        StoreError: the store or the table cannot be written.
    """
    planned = planning.plan(ledger, files, run, partial(_split, store_url=store_url, engine=engine))
    if planned.new_files:
        get_run_logger().info("Planned %d new file%s", planned.new_files, "" if planned.new_files == 1 else "s")
    return planned


def _split(
    files: Mapping[str, SourceFile], run: ScoringRun, *, store_url: str, engine: Engine
) -> tuple[dict[str, DatasetRef], dict[str, str]]:
    """Split large text files, each as a stage of its own, see :data:`sentiment_model.scoring.planning.Splitter`."""
    splits, unreadable = {}, {}
    recipes = split_recipes(files, run)
    if recipes:
        engine.warm_up(round(sum(split_rows(files[key]) for key in recipes) / run.shard_rows))
    for key, recipe in recipes.items():
        try:
            splits[key] = run_stage(SPLIT, store_url, *recipe, timeout_seconds=_TIMEOUT_SECONDS)
        except FileAccessError as error:
            unreadable[files[key].name] = str(error)
        except SourceError:
            continue
    return splits, unreadable


class _JobEngine:
    """Processes of this machine, at work on a job."""

    def __init__(self, engine: LocalEngine, job: ScoringJob) -> None:
        self._engine = engine
        self._job = job

    def score(self, shard: Shard) -> Receipt:
        return self._engine.score(JobShard.of(self._job, shard))


@task(
    name="score shard",
    task_run_name="score {shard.name}",
    cache_policy=NO_CACHE,  # the table of scores knows
    retries=2,
    retry_delay_seconds=exponential_backoff(2),
    retry_jitter_factor=0.5,
    retry_condition_fn=retry_can_help,
    # An engine with processes ends a shard that takes too long; Prefect cannot interrupt a thread that waits.
)
def score_shard(engine: _JobEngine | ShardWorker, shard: Shard) -> Receipt:
    """Score a shard in a process of the engine, or with a worker of this one.

    Raises:
        SentimentError: the file, the model or the table is at fault.
        WorkerLostError: the process died.
    """
    return engine.score(shard)


def _score_locally(
    engine: _JobEngine | ShardWorker, shards: list[Shard], workers: int, on_done: Callable[[Receipt], None]
) -> dict[Shard, Exception]:
    """Score shards, each as a task run of its own; return why shards failed."""
    failures: dict[Shard, Exception] = {}
    runner: ThreadPoolTaskRunner[Receipt] = ThreadPoolTaskRunner(max_workers=workers)  # as many in work at once
    with runner:
        futures = [(shard, runner.submit(score_shard, {"engine": engine, "shard": shard})) for shard in shards]
        for shard, future in futures:
            result = future.result(raise_on_failure=False)
            if isinstance(result, Receipt):
                on_done(result)
            else:
                failures[shard] = result
    return failures


@task(
    name="score on ray",
    cache_policy=NO_CACHE,
    timeout_seconds=_TIMEOUT_SECONDS,
)
def _score_with_ray(
    job: ScoringJob,
    device: DeviceName,
    models: tuple[Bundle, Bundle | None],
    shards: list[Shard],
    workers: int,
    on_done: Callable[[Receipt], None],
) -> dict[Shard, Exception]:
    """Score shards on a Ray cluster; return why shards failed.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    return score_on_ray(job, device, *models, shards, workers, on_done)


def score_shards(
    job: ScoringJob, engine: Engine, shards: list[Shard]
) -> tuple[dict[str, Receipt], dict[Shard, Exception]]:
    """Score shards, and show how far it is.

    Args:
        job: what the shards have in common.
        engine: what scores them.
        shards: what to score.

    Returns:
        the receipts of the shards that are done, by the shards' ids, and why the others failed.
    """
    progress = _Progress(len(shards))
    if job.run.engine == "ray":
        return progress.receipts, _score_with_ray(job, engine.device, engine.models, shards, job.run.workers, progress)
    here = not job.run.workers and len(shards) == 1 and _size(job, shards[0]) <= _SMALL_BYTES
    scoring = ShardWorker(job, engine.device, *engine.models) if here else _JobEngine(engine.local(), job)
    return progress.receipts, _score_locally(scoring, shards, min(engine.workers, len(shards)), progress)


def _size(job: ScoringJob, shard: Shard) -> int:
    """Return the size of the files that a shard is of, in bytes."""
    files = {piece.file for piece in shard.pieces}
    return sum(job.sources[file].location.size for file in files if file in job.sources)


class _Progress:
    """A progress artifact, and a line in the log for each shard; keeps the receipts."""

    def __init__(self, shards: int) -> None:
        self.receipts: dict[str, Receipt] = {}
        self._shards = shards
        self._done = 0
        self._lock = threading.Lock()
        created = create_progress_artifact(0.0, key="scoring-progress", description=f"Scoring {shards} shards")
        self._artifact = created if isinstance(created, UUID) else None

    def __call__(self, receipt: Receipt) -> None:
        with self._lock:
            self.receipts[receipt.shard] = receipt
            self._done += 1
            done = self._done
        if self._artifact:
            update_progress_artifact(self._artifact, 100 * done / self._shards)
        rows, seconds = (receipt.counts.get(name, 0) for name in ("rows_in", "seconds"))  # a cancelled one has none
        get_run_logger().info("Shard %d of %d: %d rows in %.1f s", done, self._shards, rows, seconds)
