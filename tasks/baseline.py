"""The linear baseline as a Prefect task."""

from sentiment_model.classes import Classes
from sentiment_model.evaluation.baseline import BASELINE, write_baseline
from sentiment_model.store.datasets import DatasetRef, open_dataset
from sentiment_model.text.tokens import Unit
from tasks._stage import run_stage

_TIMEOUT_SECONDS = 6 * 3600.0


def baseline(cleaned: DatasetRef, classes: Classes, unit: Unit) -> DatasetRef:
    """Fit the linear baseline on the cleaned training reviews and score the held-out ones."""
    return run_stage(
        BASELINE,
        cleaned.store_url,
        {"clean": cleaned.fingerprint},
        {"unit": unit, "classes": len(classes)},
        lambda writer: write_baseline(writer, open_dataset(cleaned).scan(), classes, unit),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
