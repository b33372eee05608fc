"""Batch scoring of a shard: its rows in, the same rows labelled out; rows without a usable text go to quarantine."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import polars as pl
from obstore.exceptions import BaseError
from pydantic import BaseModel, ConfigDict

from sentiment_model.classes import Classes
from sentiment_model.config import ScoringRun
from sentiment_model.errors import ConfigurationError, FileAccessError, SourceError
from sentiment_model.models.answers import THRESHOLD, answer_columns, answers, distance_from_another_label
from sentiment_model.models.bundle import Predictor
from sentiment_model.models.drift import histograms
from sentiment_model.scoring.counts import Counts
from sentiment_model.scoring.delta import append_to_delta
from sentiment_model.scoring.names import renamed, renaming_metadata
from sentiment_model.scoring.shards import Shard, read_piece
from sentiment_model.scoring.table import Receipt, ScoreTable, Staging
from sentiment_model.sources.files import SourceFile, reject, usable_text
from sentiment_model.sources.records import read_ahead
from sentiment_model.store.datasets import DatasetRef, open_dataset, store_error
from sentiment_model.store.objects import first_line
from sentiment_model.store.parts import PartWriter
from sentiment_model.text.reviews import QUARANTINE_SCHEMA, Batch
from sentiment_model.text.scripts import main_scripts

VERSION = 2
"""Of this module's output; a new version scores everything again."""

_NO_WORD = pl.struct(pl.lit("empty_text").alias("reason"), pl.lit("no word is left after cleaning").alias("detail"))


class ScoringJob(BaseModel):
    """What the workers of a run have in common; small enough to be sent to each.

    Attributes:
        table: folder or URL of the table of scores.
        key: names the model, the options and how files are read.
        run: the options.
        sources: the files by key.
        splits: the splits of large text files by key.
        model_version: version of the model.
        shadow_version: version of the model that scores beside it, or None.
        metadata: what each file says of its origin.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    table: str
    key: str
    run: ScoringRun
    sources: dict[str, SourceFile]
    splits: dict[str, DatasetRef]
    model_version: str
    shadow_version: str | None
    metadata: dict[str, str]


def check_models(run: ScoringRun, classes: Classes, shadow: Classes | None) -> None:
    """Raise where models do not fit the options, or each other.

    Args:
        run: the options.
        classes: of the model.
        shadow: of the model that scores beside it, if there is one.

    Raises:
        ConfigurationError: there is a threshold for more than two classes, or the classes of the two models differ.
    """
    if len(classes) > 2 and run.threshold != THRESHOLD:
        raise ConfigurationError(
            f"threshold {run.threshold:g} is for two classes, and {run.model_uri} has {len(classes)}: "
            f"{', '.join(classes.names)}; leave it at {THRESHOLD}, and the most probable one is the label"
        )
    if shadow and shadow.names != classes.names:
        raise ConfigurationError(
            f"the classes of shadow_uri {run.shadow_uri} ({', '.join(shadow.names)}) are not those of {run.model_uri} "
            f"({', '.join(classes.names)}); name a shadow model with these, in the same order"
        )


def scoring_key(run: ScoringRun, model_digest: str, model_version: str, shadow_digest: str | None) -> str:
    """Return the hash of everything but the files that the scores depend on, and of the name of a re-scoring."""
    identity = {
        "version": VERSION,
        "files": run.files.reading(),
        "threshold": run.threshold,
        "uncertain_margin": run.uncertain_margin,
        "rescore": run.rescore,
        "format": run.output_format,
        "model": [model_digest, model_version],
        "shadow": shadow_digest,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


def score_shard(job: ScoringJob, shard: Shard, predictor: Predictor, shadow: Predictor | None) -> Receipt:
    """Label the rows of a shard and publish them, unless that has been done.

    Rows keep their order and all columns of the input. Added are `row_id` (unique, and the same whenever the row is
    scored), `source_file` and `source_row`, what :func:`sentiment_model.models.answers.answers` says (`label` and
    probabilities), `uncertain`, `model_version`, `scored_at`, and what the shadow model says. An input column that has
    one of these names, or a partition's, is renamed, see :func:`sentiment_model.scoring.names.renamed`. Rows without a
    usable text go to the quarantine with file, row and reason.

    Args:
        job: what the shards of the run have in common.
        shard: which rows.
        predictor: the model.
        shadow: the model that scores beside it.

    Returns:
        the receipt, which may be another worker's.

    Raises:
        FileAccessError: a file cannot be read, or changed meanwhile.
        SourceError: a file is broken, or has no text column.
        StoreError: the table cannot be written.
    """
    table = ScoreTable(job.table, job.key)
    try:
        with table.claim(shard.id) as held:
            if isinstance(held, Receipt):
                return held
            with table.staging(shard.id, held) as staging:
                started = time.perf_counter()
                counts = _score_rows(job, shard, staging, predictor, shadow)
                counts.check_complete()
                if job.run.output_format == "delta":
                    append_to_delta(f"{table.url}/delta", job.key, shard, staging, job.model_version)
                folder = f"version={job.model_version}/date={datetime.now(UTC).date().isoformat()}"
                figures = {**counts.model_dump(), "seconds": time.perf_counter() - started}
                return table.commit(shard.id, held, staging, figures, folder)
    except FileAccessError:
        raise
    except (SourceError, pl.exceptions.PanicException) as error:
        is_ours = isinstance(error, SourceError)
        reason = str(error) if is_ours else f"{shard.name} holds what polars cannot handle: {first_line(error)}"
        if len(shard.pieces) == 1:  # what the file holds is at fault, and will be whoever tries again
            table.reject(shard.id, reason)
        raise SourceError(reason) from error
    except (OSError, BaseError, pl.exceptions.ComputeError) as error:
        # Whoever was overtaken may lose its files while it writes them, to the worker that publishes the shard.
        if isinstance(error, FileNotFoundError) and (receipt := table.receipt(shard.id)):
            return receipt
        raise store_error(job.table, error) from error


def _score_rows(
    job: ScoringJob, shard: Shard, staging: Staging, predictor: Predictor, shadow: Predictor | None
) -> Counts:
    counts = Counts()
    stamp = {"model_version": job.model_version, "scored_at": datetime.now(UTC)}
    with ExitStack() as stack:
        parts: dict[tuple[Any, ...], PartWriter] = {}
        quarantine: PartWriter | None = None
        for batch in read_ahead(_batches(job, shard)):
            inputs, outputs, rejects, counted = _label(batch, job, stamp, predictor, shadow)
            counts += counted
            if len(outputs):
                names = renamed(inputs.columns, outputs.columns)
                labelled = inputs.rename(names).hstack(outputs)
                columns = (*labelled.schema.items(), *names.items())
                if columns not in parts:
                    name, metadata = f"scores-{len(parts)}", job.metadata | renaming_metadata(names)
                    part = PartWriter(staging, "scores", labelled.schema, name, metadata=metadata)
                    parts[columns] = stack.enter_context(part)
                parts[columns].write(labelled)
            if len(rejects):
                quarantine = quarantine or stack.enter_context(PartWriter(staging, "quarantine", QUARANTINE_SCHEMA))
                quarantine.write(rejects)
    return counts


def _batches(job: ScoringJob, shard: Shard) -> Iterator[tuple[str, Batch]]:
    for piece in shard.pieces:
        if piece.file not in job.sources:
            raise FileAccessError(f"{piece.name} is gone, or is not among the files of this run; put it back")
        split = open_dataset(job.splits[piece.file]) if piece.file in job.splits else None
        for batch in read_piece(piece, job.sources[piece.file], split, job.run.files, job.run.batch_rows):
            yield piece.file, batch


def _label(
    read: tuple[str, Batch], job: ScoringJob, stamp: Mapping[str, Any], predictor: Predictor, shadow: Predictor | None
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, Counts]:
    """Return the usable rows of a batch, what is added to them, the rejects, and what is to be counted."""
    key, original = read
    batch, texts = usable_text(original, job.run.files)
    scores = predictor.predict(texts)
    has_word = scores["n_tokens"] > 0
    if not has_word.all():
        batch = reject(batch, scores.select(pl.when(~has_word).then(_NO_WORD).alias("fault"))["fault"], texts)
        scores, texts = scores.filter(has_word), texts.filter(has_word)
    threshold, margin = job.run.threshold, job.run.uncertain_margin
    outputs = scores.hstack(answers(scores["probabilities"], predictor.classes, threshold)).select(
        pl.format("{}-{}", pl.lit(key), batch.origin["row"]).alias("row_id"),
        batch.origin["file"].alias("source_file"),
        batch.origin["row"].alias("source_row"),
        *answer_columns(predictor.classes),
        (distance_from_another_label(predictor.classes, threshold) < margin).alias("uncertain"),
        *(pl.lit(value).alias(name) for name, value in stamp.items()),
    )
    disagreements = 0
    if shadow:
        second = answers(shadow.predict(texts)["probabilities"], shadow.classes, threshold).select(
            pl.all().name.prefix("shadow_"), pl.lit(job.shadow_version).alias("shadow_version")
        )
        disagreements = int((second["shadow_label"] != outputs["label"]).sum())
        outputs = outputs.hstack(second)
    rejects = batch.rejects
    labels = dict(outputs["label"].value_counts().iter_rows())
    first = rejects.unique("reason", keep="first", maintain_order=True)
    counts = Counts(
        rows_in=len(original.origin) + len(original.rejects),
        scored=len(outputs),
        labels={name: labels.get(name, 0) for name in predictor.classes.names},
        uncertain=int(outputs["uncertain"].sum()),
        disagreements=disagreements,
        tokens=int(scores["n_tokens"].sum()),
        unknown=int(scores["n_unknown"].sum()),
        reasons=dict(rejects["reason"].value_counts().iter_rows()),
        examples={reason: f"{file} row {row}: {detail}" for file, row, reason, detail, _ in first.iter_rows()},
        scripts=dict(main_scripts(texts).drop_nulls().cast(pl.String).value_counts().iter_rows()),
        histograms=histograms(scores),
    )
    return batch.frame, outputs, rejects, counts
