"""A registered model for benchmarks of scoring, whose figures do not depend on what a network has learned."""

import os
from pathlib import Path

from benchmarks.data import tokenize
from sentiment_model.config import TrainingRun
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import Dataset, Store


def register_untrained(folder: Path, dataset: Dataset) -> dict[str, str]:
    """Make an untrained network of the default configuration the champion of an MLflow store of its own.

    Args:
        folder: gets the MLflow store, a home for Prefect and a store of datasets.
        dataset: the reviews that make the vocabulary.

    Returns:
        the environment variables that lead there, which are set for this process too.
    """
    from benchmarks.speed import untrained_bundle
    from sentiment_model.registry.tracking import Tracker

    run = TrainingRun()
    tokens = tokenize(Store(str(folder / "store")), run.tokenize, dataset.scan(), dataset.ref.fingerprint)
    settings = {
        "SENTIMENT_STORE_URL": str(folder / "store"),
        "SENTIMENT_MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "SENTIMENT_MLFLOW_ARTIFACT_ROOT": str(folder / "artifacts"),
        "PREFECT_HOME": str(folder / "prefect"),
    }
    (folder / "prefect").mkdir()
    os.environ.update(settings)
    tracker = Tracker(Settings())
    run_id = tracker.start_run("sentiment", "benchmark", name="benchmark", params={}, tags={}).run_id
    untrained_bundle(run, tokens, folder / "model")
    tracker.registry.register(folder / "model", "sentiment", run_id, promote=True, tags={})
    return settings
