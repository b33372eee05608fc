"""Training as a Prefect task: checkpoints, progress in the terminal and in the UI, epochs in MLflow."""

import sys
import time
from contextlib import nullcontext
from typing import Any, cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.concurrency.sync import concurrency
from prefect.runtime import deployment
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sentiment_model.classes import Classes
from sentiment_model.config import ModelConfig, TrainConfig
from sentiment_model.registry.tracking import Tracker, TrainingRunLog
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import DatasetRef, DatasetWriter
from sentiment_model.training.fitting import checkpoints
from sentiment_model.training.history import EpochMetrics, Phase, PretrainingMetrics
from sentiment_model.training.job import TRAIN, TrainingJob, training_identity, write_model
from tasks._stage import run_stage

_SECONDS_BETWEEN_UPDATES = 5.0
_TIMEOUT_SECONDS = 7 * 24 * 3600.0


class _ProgressDisplay:
    """Shows progress as a bar on a terminal and as an artifact in the Prefect UI; sends each epoch to MLflow."""

    def __init__(self, log: TrainingRunLog) -> None:
        self._log = log
        self._logger = get_run_logger()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Progress("Training", *columns, disable=not sys.stdout.isatty())
        self._line = self._bar.add_task("", total=None)
        self._artifact = cast(
            "UUID",  # the type checker also sees the coroutine that an async caller gets
            create_progress_artifact(0.0, key="training-progress", description="Training"),
        )
        self._updated = 0.0

    def __enter__(self) -> "_ProgressDisplay":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def on_step(self, phase: Phase, step: int, total_steps: int, loss: float | None) -> None:
        name = phase.capitalize()
        shown = name if loss is None else f"{name}, loss {loss:.3f}"
        self._bar.update(self._line, completed=step, total=total_steps, description=shown)
        if time.monotonic() - self._updated > _SECONDS_BETWEEN_UPDATES:
            update_progress_artifact(self._artifact, 100.0 * step / total_steps, description=name)
            self._updated = time.monotonic()

    def on_epoch(self, phase: Phase, metrics: PretrainingMetrics) -> None:
        self._log.log_epoch(phase, metrics)
        accuracy = f", accuracy {metrics.validation_accuracy:.1%}" if isinstance(metrics, EpochMetrics) else ""
        self._logger.info(
            "%s, epoch %d: train loss %.3f, validation loss %.3f%s; %.0f s, %.0f tokens/s",
            phase.capitalize(),
            metrics.epoch + 1,
            metrics.train_loss,
            metrics.validation_loss,
            accuracy,
            metrics.seconds,
            metrics.tokens_per_second,
        )


def train(
    tokens: DatasetRef,
    vectors: DatasetRef | None,
    classes: Classes,
    model: ModelConfig,
    config: TrainConfig,
    tracker: Tracker,
    mlflow_run_id: str,
) -> DatasetRef:
    """Train on a tokenized dataset; an interrupted training goes on from its last checkpoint.

    Args:
        tokens: the tokenized dataset.
        vectors: of some tokens, to start from, or None.
        classes: what to tell apart.
        model: architecture.
        config: optimisation.
        tracker: the connection to MLflow.
        mlflow_run_id: the MLflow run that gets each epoch's figures and the machine's load.

    Returns:
        the model folder, as a dataset.
    """
    settings = Settings()
    inputs, parameters = training_identity(tokens, vectors, model, config)
    fingerprint = TRAIN.fingerprint(inputs, parameters)
    checkpoint = settings.scratch_dir / f"train-{fingerprint}.safetensors"

    def write(writer: DatasetWriter) -> dict[str, Any]:
        job = TrainingJob(
            tokens=tokens,
            vectors=vectors,
            classes=classes,
            model=model,
            train=config,
            device=settings.device,
            checkpoint=checkpoint,
            output=writer.folder,
        )
        if checkpoints(checkpoint):
            get_run_logger().info("Resuming the training from %s", checkpoint)
        # A slot that is leased, unlike that of a task's tag, is free again a minute after its holder was killed.
        # Only a server that is kept has the limit.
        alone = concurrency("gpu", lease_duration=60) if deployment.id else nullcontext()
        with alone, tracker.active(mlflow_run_id), _ProgressDisplay(tracker.run_log(mlflow_run_id)) as display:
            return write_model(writer, job, display)

    dataset = run_stage(TRAIN, tokens.store_url, inputs, parameters, write, timeout_seconds=_TIMEOUT_SECONDS)
    for path in checkpoints(checkpoint):
        path.unlink()
    return dataset
