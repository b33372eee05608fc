"""Batch scoring: review files in, the same rows labelled out; rows without a usable text go to quarantine."""

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl

from sentiment_model.bundle import Predictor
from sentiment_model.config import ReviewFiles, ScoringRun
from sentiment_model.errors import QualityError, SourceError
from sentiment_model.parts import PartWriter
from sentiment_model.reviews import QUARANTINE_SCHEMA
from sentiment_model.sources.files import SourceFile, list_files, read_batches, reject, usable_text
from sentiment_model.store import DatasetWriter, Stage

SCORE = Stage("score", 1)
OUTPUT_COLUMNS = ("label", "probability", "model_version", "scored_at")

_NO_WORD = pl.struct(pl.lit("empty_text").alias("reason"), pl.lit("no word is left after cleaning").alias("detail"))


def files_to_score(run: ScoringRun) -> list[SourceFile]:
    """Return the files that a run names.

    Raises:
        SourceError: there are no review files at the path.
    """
    return list_files(str(run.files.path), run.files.format)


def scoring_identity(run: ScoringRun, model_digest: str, model_version: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the inputs (with their fingerprints) and the parameters that the scores depend on.

    Raises:
        SourceError: there are no review files at the path, or one cannot be read.
    """
    inputs = {file.name: file.location.fingerprint() for file in files_to_score(run)}
    # The same files elsewhere give the same scores, and so do batches of another size.
    parameters = run.files.model_dump(mode="json", exclude={"path"})
    parameters |= {"threshold": run.threshold, "model": model_digest, "model_version": model_version}
    return inputs, parameters


def score_files(writer: DatasetWriter, predictor: Predictor, run: ScoringRun, model_version: str) -> dict[str, Any]:
    """Label review files in bounded memory.

    Each file with a usable row becomes a Parquet file (role `part`) of those rows in their order: all columns
    of the input, then `label` (`positive` or `negative`), `probability` (of positive), `model_version` and
    `scored_at`. An input column of one of these names is kept as `input_<name>`. The other rows are in the
    quarantine (role `quarantine`) with file, row and reason.

    Args:
        writer: where to write.
        predictor: the model.
        run: the files and how to read them.
        model_version: the model's version, as written into each row.

    Returns:
        `files`, `rows_in`, `scored`, `quarantined` (rows), `reasons` (quarantined rows by reason),
        `positive_share` (of the scored rows), `unknown_share` (of the tokens), `mean_tokens` (a review),
        `seconds` and `reviews_per_second`.

    Raises:
        SourceError: a file cannot be read or has no text column, or there is no row at all.
        QualityError: more than `max_bad_share` of the rows cannot be scored.
    """
    started = time.perf_counter()
    files = files_to_score(run)
    tally = _Tally()
    stamp = {"model_version": model_version, "scored_at": datetime.now(UTC)}
    with PartWriter(writer, "quarantine", QUARANTINE_SCHEMA) as quarantine:
        for number, file in enumerate(files):
            with ExitStack() as stack:
                part: PartWriter | None = None
                for labelled, rejects in _label_file(file, predictor, run, stamp, tally):
                    quarantine.write(rejects)
                    if part is None and len(labelled):
                        name = _output_name(number, file.name)
                        part = stack.enter_context(PartWriter(writer, "part", labelled.schema, name))
                    if part:
                        part.write(labelled)
    tally.check(run.files)
    return {"files": len(files), **tally.counts(time.perf_counter() - started)}


def _label_file(
    file: SourceFile, predictor: Predictor, run: ScoringRun, stamp: Mapping[str, Any], tally: "_Tally"
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield the labelled rows and the rejects of each batch of a file."""
    for read in read_batches(file, run.files, run.batch_rows):
        batch, texts = usable_text(read, run.files)
        scores = predictor.predict(texts)
        has_word = pl.col("n_tokens") > 0
        batch = reject(batch, scores.select(pl.when(~has_word).then(_NO_WORD).alias("fault"))["fault"], texts)
        scores = scores.filter(has_word)
        label = pl.when(pl.col("probability") >= run.threshold).then(pl.lit("positive"))
        outputs = scores.select(
            label.otherwise(pl.lit("negative")).alias("label"),
            "probability",
            *(pl.lit(value).alias(name) for name, value in stamp.items()),
        )
        tally.add(len(read.origin) + len(read.rejects), outputs, scores, batch.rejects)
        yield _free_names(batch.frame).hstack(outputs), batch.rejects


def _free_names(frame: pl.DataFrame) -> pl.DataFrame:
    """Rename the input's columns that have the name of an output: `label` becomes `input_label`."""
    names = set(frame.columns)
    renamed = {}
    for name in OUTPUT_COLUMNS:
        if name in names:
            renamed[name] = f"input_{name}"
            while renamed[name] in names:
                renamed[name] = f"input_{renamed[name]}"
    return frame.rename(renamed)


def _output_name(number: int, file: str) -> str:
    """Return the start of an output file's name; the number keeps names apart whose odd characters differ."""
    return f"scores-{number:05d}-{re.sub(r'[^0-9A-Za-z._-]+', '_', file)}"


@dataclass
class _Tally:
    """Counts what goes where."""

    rows_in: int = 0
    scored: int = 0
    positives: int = 0
    tokens: int = 0
    unknown: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, rows_in: int, outputs: pl.DataFrame, scores: pl.DataFrame, rejects: pl.DataFrame) -> None:
        """Count a batch and what became of it."""
        self.rows_in += rows_in
        self.scored += len(outputs)
        self.positives += int((outputs["label"] == "positive").sum())
        self.tokens += int(scores["n_tokens"].sum())
        self.unknown += int(scores["n_unknown"].sum())
        self.reasons.update(dict(rejects["reason"].value_counts().iter_rows()))
        for file, row, reason, detail, _ in rejects.unique("reason", keep="first").iter_rows():
            self.examples.setdefault(reason, f"{file} row {row}: {detail}")

    def check(self, files: ReviewFiles) -> None:
        """Raise where rows were lost or too few can be scored."""
        quarantined = self.reasons.total()
        if self.rows_in != self.scored + quarantined:
            raise RuntimeError(
                f"{self.rows_in} rows came in, but {self.scored} were scored and {quarantined} quarantined; "
                "this is a defect of the program"
            )
        if not self.rows_in:
            raise SourceError(f"there are no reviews in {files.path}; every file is empty or has only a header")
        share = quarantined / self.rows_in
        if share > files.max_bad_share or not self.scored:
            reasons = "; ".join(
                f"{reason} {count:,} (first: {self.examples[reason]})" for reason, count in self.reasons.most_common()
            )
            raise QualityError(
                f"{quarantined:,} of {self.rows_in:,} rows of {files.path} cannot be scored ({share:.1%}, "
                f"where max_bad_share is {files.max_bad_share:.1%}): {reasons}; repair them, correct the "
                "column mapping, or raise max_bad_share"
            )

    def counts(self, seconds: float) -> dict[str, Any]:
        """Return the counts and what follows from them."""
        return {
            "rows_in": self.rows_in,
            "scored": self.scored,
            "quarantined": self.reasons.total(),
            "reasons": dict(self.reasons.most_common()),
            "positive_share": self.positives / self.scored,
            "unknown_share": self.unknown / self.tokens,
            "mean_tokens": self.tokens / self.scored,
            "seconds": seconds,
            "reviews_per_second": self.scored / seconds,
        }
