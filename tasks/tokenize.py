"""Tokenize as a Prefect task."""

from prefect import get_run_logger

from sentiment_model.config import TokenizeConfig
from sentiment_model.store.datasets import DatasetRef, open_dataset
from sentiment_model.text.tokenize import TOKENIZE, write_tokens
from tasks._stage import run_stage

_TIMEOUT_SECONDS = 24 * 3600.0


def tokenize(cleaned: DatasetRef, config: TokenizeConfig) -> DatasetRef:
    """Fit the vocabulary on the training reviews and turn all reviews into token ids.

    Raises:
        QualityError: no token of the training reviews is frequent enough.
        StoreError: the store cannot be read or written.
    """
    tokens = run_stage(
        TOKENIZE,
        cleaned.store_url,
        {"clean": cleaned.fingerprint},
        config.model_dump(mode="json"),
        lambda writer: write_tokens(writer, open_dataset(cleaned).scan(), config),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    unit = open_dataset(tokens).counts["unit"]
    get_run_logger().info(
        "Tokens are %ss%s", unit, ", chosen by the scripts of the reviews" if config.unit == "auto" else ""
    )
    return tokens
