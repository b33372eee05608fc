"""What the tasks of the dataset-writing stages share: caching by fingerprint, retries, names and a summary artifact."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import Task, exponential_backoff

from sentiment_model.errors import SentimentError, TrackingError
from sentiment_model.markdown import markdown_cell
from sentiment_model.nested import flatten
from sentiment_model.redaction import redacted
from sentiment_model.store.datasets import DatasetRef, DatasetWriter, Stage, Store


def retry_can_help(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return whether a failed task is worth another try: not where the input or the configuration is wrong."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TrackingError) or not isinstance(error, SentimentError)


RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(5),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": retry_can_help,
}
"""How a task is tried again: the options that most tasks share."""


def _dataset_name(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    store = hashlib.sha256(parameters["store_url"].encode()).hexdigest()[:12]
    return f"{parameters['stage'].name}-{parameters['fingerprint']}-{store}"  # becomes a file's name


@task(
    cache_key_fn=_dataset_name,
    persist_result=True,
    result_serializer="json",  # results are never pickled
    **RETRIES,
)
def _materialise(
    store_url: str,
    stage: Stage,
    fingerprint: str,
    inputs: Mapping[str, str],
    parameters: Mapping[str, Any],
    write: Callable[[DatasetWriter], dict[str, Any]],
) -> DatasetRef:
    dataset, reused = Store(store_url).materialise(stage, inputs, parameters, write)
    get_run_logger().info("%s %s", "Reusing" if reused else "Wrote", redacted(dataset.url))
    create_table_artifact(
        key=stage.name,
        # Prefect shows each cell as Markdown.
        table=[
            {"what": markdown_cell(name), "value": markdown_cell(str(value))}
            for name, value in flatten(dataset.counts).items()
        ],
        description=f"Stage **{stage.name}**, dataset `{fingerprint}`",
    )
    return dataset.ref


def run_stage(
    stage: Stage,
    store_url: str,
    inputs: Mapping[str, str],
    parameters: Mapping[str, Any],
    write: Callable[[DatasetWriter], dict[str, Any]],
    *,
    timeout_seconds: float,
) -> DatasetRef:
    """Run a stage as a Prefect task that is cached for as long as its dataset exists.

    Args:
        stage: the stage, which names the task.
        store_url: the store to write to.
        inputs: fingerprints of the inputs, by name.
        parameters: everything else that the content depends on, JSON-able.
        write: writes the dataset's files and returns its counts.
        timeout_seconds: when to give the task up.
    """
    fingerprint = stage.fingerprint(inputs, parameters)
    # Prefect remembers results; a dataset that retention has deleted since must be written again.
    store = Store(store_url)
    existing = store.find(stage.name, fingerprint)
    if existing:
        store.mark_used(existing.ref)
    return _materialise.with_options(
        name=stage.name,
        task_run_name=f"{stage.name} {fingerprint[:8]}",
        timeout_seconds=timeout_seconds,
        refresh_cache=existing is None,
    )(store_url, stage, fingerprint, inputs, parameters, write)
