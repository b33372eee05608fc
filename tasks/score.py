"""Batch scoring as Prefect tasks: fetch the model, cut the files into shards, score them, write what people want."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from sentiment_model.config import ScoringRun
from sentiment_model.engines import Bundle, LocalEngine, score_on_ray
from sentiment_model.errors import SentimentError
from sentiment_model.score_table import Plan, Receipt, ScoreTable
from sentiment_model.scoring import ScoringJob
from sentiment_model.settings import DeviceName
from sentiment_model.shards import Shard, cut
from sentiment_model.sources.files import SourceFile
from sentiment_model.split import SPLIT, split_recipes
from sentiment_model.store import DatasetRef, open_dataset
from sentiment_model.tracking import Tracker
from tasks._stage import RETRIES, retry_can_help, run_stage

_TIMEOUT_SECONDS = 7 * 24 * 3600.0


@task(
    name="fetch model",
    task_run_name="fetch {model_uri}",
    cache_policy=NO_CACHE,  # an alias moves
    **RETRIES,
    timeout_seconds=3600,
)
def fetch_model(tracker: Tracker, model_uri: str, destination: Path) -> tuple[Path, str]:
    """Download a registered model; return its folder and its version.

    Raises:
        ModelError: there is no such model.
        TrackingError: MLflow cannot be reached.
    """
    return tracker.fetch_bundle(model_uri, destination)


class Planned(NamedTuple):
    """What there is to score.

    Attributes:
        shards: all shards that hold rows of the run's files.
        pending: those that are not done.
        splits: the splits that these need, by the file's key.
    """

    shards: list[Shard]
    pending: list[Shard]
    splits: dict[str, DatasetRef]


@task(name="plan", task_run_name="plan {table.key}", cache_policy=NO_CACHE, timeout_seconds=_TIMEOUT_SECONDS)
def plan(table: ScoreTable, files: Mapping[str, SourceFile], run: ScoringRun, store_url: str) -> Planned:
    """Plan the files that nobody has planned yet.

    Args:
        table: where the plans are.
        files: all files to score, by key.
        run: how they are read and cut.
        store_url: where large text files are split to.

    Raises:
        SourceError: a file cannot be read.
        StoreError: the store or the table cannot be written.
    """
    plans = table.plans()
    _cancel_groups(table, _shards(plans), files)
    splits: dict[str, DatasetRef] = {}
    while True:
        cancelled = table.cancelled()
        shards = [shard for shard in _shards(plans) if shard.id not in cancelled]
        # Whoever cancelled a shard may have died before its files were planned anew.
        alone = {piece.file for shard in _shards(plans) if shard.id in cancelled for piece in shard.pieces}
        planned = {piece.file for shard in shards for piece in shard.pieces}
        new = {key: file for key, file in files.items() if key not in planned}
        if not new:
            break
        splits |= _split({key: file for key, file in new.items() if key not in splits}, run, store_url)
        parts = {key: open_dataset(ref) for key, ref in splits.items()}
        names = {key: file.name for key, file in new.items()}
        appended = Plan(files=names, shards=cut(new, parts, run.shard_rows, alone))
        if table.append(appended, len(plans)):
            get_run_logger().info("Planned %d new files", len(new))
            plans.append(appended)
        else:
            plans = table.plans()
    shards = [shard for shard in shards if any(piece.file in files for piece in shard.pieces)]
    done = table.done()
    pending = [shard for shard in shards if shard.id not in done]
    planned_before = {
        piece.file: files[piece.file]
        for shard in pending
        for piece in shard.pieces
        if piece.file in files and piece.file not in splits and (piece.part is not None or piece.rejects)
    }
    return Planned(shards, pending, splits | _split(planned_before, run, store_url))


def _split(files: Mapping[str, SourceFile], run: ScoringRun, store_url: str) -> dict[str, DatasetRef]:
    """Split the large text files among some files, given by key; return the splits by key."""
    return {
        key: run_stage(SPLIT, store_url, *recipe, timeout_seconds=_TIMEOUT_SECONDS)
        for key, recipe in split_recipes(files, run).items()
    }


def _shards(plans: list[Plan]) -> list[Shard]:
    return [shard for each in plans for shard in each.shards]


def _cancel_groups(table: ScoreTable, shards: list[Shard], files: Mapping[str, SourceFile]) -> None:
    """Cancel the shards of several files that an earlier run has left, so that the files are planned one by one.

    One file that is broken or gone must not keep those from being scored that it was put together with.
    """
    done = table.done()
    for shard in shards:
        if len(shard.pieces) > 1 and shard.id not in done and any(piece.file in files for piece in shard.pieces):
            table.cancel(shard.id)


@task(
    name="score shard",
    task_run_name="score {shard.name}",
    cache_policy=NO_CACHE,  # the table of scores knows
    retries=2,
    retry_delay_seconds=exponential_backoff(2),
    retry_jitter_factor=0.5,
    retry_condition_fn=retry_can_help,
)
def score_shard(engine: LocalEngine, shard: Shard) -> Receipt:
    """Score a shard in a process of the engine.

    Raises:
        SentimentError: the file, the model or the table is at fault.
        WorkerLostError: the process died.
    """
    return engine.score(shard)


def score_locally(
    engine: LocalEngine, shards: list[Shard], workers: int, on_done: Callable[[Receipt], None]
) -> dict[str, str]:
    """Score shards, each as a task run of its own; return why shards failed, by their name."""
    failures: dict[str, str] = {}
    runner: ThreadPoolTaskRunner[Receipt] = ThreadPoolTaskRunner(max_workers=workers)  # as many in work at once
    with runner:
        futures = [(shard, runner.submit(score_shard, {"engine": engine, "shard": shard})) for shard in shards]
        for shard, future in futures:
            result = future.result(raise_on_failure=False)
            if isinstance(result, Receipt):
                on_done(result)
            else:
                failures[shard.name] = str(result) if isinstance(result, SentimentError) else repr(result)
    return failures


@task(
    name="score on ray",
    cache_policy=NO_CACHE,
    timeout_seconds=_TIMEOUT_SECONDS,
)
def score_with_ray(
    job: ScoringJob,
    device: DeviceName,
    models: tuple[Bundle, Bundle | None],
    shards: list[Shard],
    workers: int,
    on_done: Callable[[Receipt], None],
) -> dict[str, str]:
    """Score shards on a Ray cluster; return why shards failed, by their name.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    return score_on_ray(job, device, *models, shards, workers, on_done)
