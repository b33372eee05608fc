"""Batch scoring as Prefect tasks: fetch the model, then label the files."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from sentiment_model.bundle import ModelDescription, Predictor
from sentiment_model.config import ScoringRun
from sentiment_model.scoring import SCORE, score_files, scoring_identity
from sentiment_model.settings import Settings
from sentiment_model.store import DatasetRef, DatasetWriter
from sentiment_model.tracking import Tracker
from sentiment_model.training import choose_device
from tasks._stage import retry_can_help, run_stage

_TIMEOUT_SECONDS = 7 * 24 * 3600.0


@task(
    name="fetch model",
    task_run_name="fetch {model_uri}",
    cache_policy=NO_CACHE,  # an alias moves
    retries=2,
    retry_delay_seconds=exponential_backoff(5),
    retry_jitter_factor=0.5,
    retry_condition_fn=retry_can_help,
    timeout_seconds=3600,
)
def fetch_model(tracker: Tracker, model_uri: str, destination: Path) -> tuple[Path, str]:
    """Download a registered model; return its folder and its version.

    Raises:
        ModelError: there is no such model.
        TrackingError: MLflow cannot be reached.
    """
    return tracker.fetch_bundle(model_uri, destination)


def score(run: ScoringRun, bundle: Path, model_version: str) -> DatasetRef:
    """Label files with a model.

    Args:
        run: the files and how to read them.
        bundle: the model's folder.
        model_version: its version in the registry.

    Returns:
        the labelled rows and the quarantine, as a dataset.

    Raises:
        SourceError: the files are missing or unreadable.
        QualityError: too many rows cannot be scored.
        ModelError: the model folder is damaged.
        StoreError: the store cannot be read or written.
    """
    settings = Settings()

    def write(writer: DatasetWriter) -> dict[str, Any]:
        predictor = Predictor.load(bundle, choose_device(settings.device))
        return score_files(writer, predictor, run, model_version)

    return run_stage(
        SCORE,
        settings.store_url,
        *scoring_identity(run, ModelDescription.read(bundle).digest, model_version),
        write,
        timeout_seconds=_TIMEOUT_SECONDS,
    )
