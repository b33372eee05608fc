"""Clean as a Prefect task."""

from sentiment_model.classes import Classes
from sentiment_model.config import CleanConfig
from sentiment_model.store.datasets import DatasetRef, open_dataset
from sentiment_model.text.clean import CLEAN, write_cleaned
from tasks._stage import run_stage

_TIMEOUT_SECONDS = 24 * 3600.0


def clean(
    reviews: DatasetRef,
    test: DatasetRef | None,
    unlabelled: DatasetRef | None,
    classes: Classes,
    config: CleanConfig,
) -> DatasetRef:
    """Normalise, de-duplicate and split ingested reviews.

    Args:
        reviews: the reviews to train on.
        test: a test set of its own, or None to hold out a share of the reviews.
        unlabelled: more reviews, whose labels are not read, or None.
        classes: those of the labels.
        config: shares and sources of the split.

    Raises:
        QualityError: train, validation or test would lack a class.
        StoreError: the store cannot be read or written.
    """
    inputs = {"ingest": reviews.fingerprint}
    inputs |= {name: ref.fingerprint for name, ref in {"test": test, "unlabelled": unlabelled}.items() if ref}
    return run_stage(
        CLEAN,
        reviews.store_url,
        inputs,
        config.model_dump(mode="json"),
        lambda writer: write_cleaned(
            writer,
            open_dataset(reviews).scan(),
            open_dataset(test).scan() if test else None,
            open_dataset(unlabelled).scan() if unlabelled else None,
            classes,
            config,
        ),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
