"""Ingest as a Prefect task."""

from prefect import get_run_logger

from sentiment_model.config import IngestConfig
from sentiment_model.sources.ingest import INGEST, ingest_message, passed_over, source_fingerprints, write_reviews
from sentiment_model.store.datasets import DatasetRef, open_dataset
from tasks._stage import run_stage

_TIMEOUT_SECONDS = 24 * 3600.0


def ingest(config: IngestConfig, store_url: str) -> DatasetRef:
    """Read the reviews that the configuration names into the store.

    Raises:
        SourceError: the source is missing or unreadable.
        QualityError: too many rows are unusable, or all are.
        StoreError: the store cannot be read or written.
    """
    dataset = run_stage(
        INGEST,
        store_url,
        source_fingerprints(config),
        config.model_dump(mode="json", exclude={"path"}),  # the same files elsewhere give the same reviews
        lambda writer: write_reviews(writer, config),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    if message := passed_over(config):
        get_run_logger().warning("%s", message)
    get_run_logger().info("%s", ingest_message(open_dataset(dataset).counts))
    return dataset
