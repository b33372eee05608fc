"""Errors that a user can cause.

Every message is one line that says what was wrong, where, and what to do about it. The command line prints it
without a traceback and exits with a status other than zero.
"""

from sentiment_model.redaction import redacted


class SentimentError(Exception):
    """Base of every error that a user's input, configuration or environment can cause."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class ConfigurationError(SentimentError):
    """Options that are each valid but do not fit together, or do not fit the data."""


class SourceError(SentimentError):
    """A source of reviews is missing, unreadable, unsafe, or holds nothing usable."""


class FileAccessError(SourceError):
    """A file of reviews cannot be read now, or is being changed; what is in it may be good."""


class NoReviewsError(SourceError):
    """The folder or prefix is there, but holds no review files, or none of those that are wanted."""


class QualityError(SentimentError):
    """Too large a share of the rows is unusable, or what is left cannot train or test a classifier."""


class StoreError(SentimentError):
    """A dataset is missing, incomplete or damaged, or the store cannot be written (a full disk, say)."""


class ModelError(SentimentError):
    """A model is missing, damaged, or its parts do not belong together."""


class TrackingError(SentimentError):
    """The MLflow server cannot be reached or refuses what was asked of it."""


class ServerError(SentimentError):
    """The Prefect server that a command starts for itself does not answer."""


class ScoringError(SentimentError):
    """Some shards of a scoring run failed; the others are published."""
