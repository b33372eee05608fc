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
from sentiment_model.errors import FileAccessError, SourceError
from sentiment_model.ledger import Ledger
from sentiment_model.score_table import Plan, Receipt
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
    """What plans need beside the table's log.

    Attributes:
        splits: the splits that pending shards need, by the file's key.
        unreadable: why files cannot be split, by name; they are left to another run.
    """

    splits: dict[str, DatasetRef]
    unreadable: dict[str, str]


@task(name="plan", task_run_name="plan {ledger.table.key}", cache_policy=NO_CACHE, timeout_seconds=_TIMEOUT_SECONDS)
def plan(ledger: Ledger, files: Mapping[str, SourceFile], run: ScoringRun, store_url: str) -> Planned:
    """Plan the files that nobody has planned yet, and the pieces of shards that were cancelled.

    Args:
        ledger: what has been planned and done.
        files: all files to score, by key.
        run: how they are read and cut.
        store_url: where large text files are split to.

    Raises:
        StoreError: the store or the table cannot be written.
    """
    splits: dict[str, DatasetRef] = {}
    unreadable: dict[str, str] = {}
    tried: set[str] = set()
    while True:
        anew = ledger.to_plan_anew()
        new = {key: files[key] for key in ledger.unplanned(files) if files[key].name not in unreadable}
        if not anew and not new:
            break
        made, failed = _split({key: file for key, file in new.items() if key not in tried}, run, store_url)
        tried |= new.keys()
        splits |= made
        unreadable |= failed
        new = {key: file for key, file in new.items() if file.name not in unreadable}
        shards = [*anew, *cut(new, {key: open_dataset(ref) for key, ref in splits.items()}, run.shard_rows)]
        if shards and ledger.table.append(Plan(shards=shards), ledger.plans) and new:
            get_run_logger().info("Planned %d new files", len(new))
        ledger.update()
    # As the plan says, which may be another run's: with other parts, rows would be lost and doubled.
    needed = {
        piece.file: piece.shard_rows
        for shard in ledger.pending(files)
        for piece in shard.pieces
        if piece.file in files and piece.is_split
    }
    splits = {key: ref for key, ref in splits.items() if needed.get(key) == run.shard_rows}
    for key, shard_rows in needed.items():
        if key not in splits:
            made, failed = _split({key: files[key]}, run.model_copy(update={"shard_rows": shard_rows}), store_url)
            splits |= made
            unreadable |= failed
    return Planned(splits, unreadable)


def _split(
    files: Mapping[str, SourceFile], run: ScoringRun, store_url: str
) -> tuple[dict[str, DatasetRef], dict[str, str]]:
    """Split the large text files among some files, given by key.

    Returns:
        the splits by key, and why files cannot be read, by name. A file that can, but holds nothing that can be split,
        is in neither: who scores it will find that it is broken.
    """
    splits, unreadable = {}, {}
    for key, recipe in split_recipes(files, run).items():
        try:
            splits[key] = run_stage(SPLIT, store_url, *recipe, timeout_seconds=_TIMEOUT_SECONDS)
        except FileAccessError as error:
            unreadable[files[key].name] = str(error)
        except SourceError:
            continue
    return splits, unreadable


@task(
    name="score shard",
    task_run_name="score {shard.name}",
    cache_policy=NO_CACHE,  # the table of scores knows
    retries=2,
    retry_delay_seconds=exponential_backoff(2),
    retry_jitter_factor=0.5,
    retry_condition_fn=retry_can_help,
    # The engine ends a shard that takes too long; Prefect cannot interrupt a thread that waits.
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
def score_with_ray(
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
