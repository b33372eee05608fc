"""The scoring flow: a registered model over review files, each review once.

Run it with ``python -m flows.score --files.path PATH``; ``--help`` lists what can be chosen.
"""

import hashlib
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from uuid import UUID

from obstore.exceptions import BaseError
from polars.exceptions import ComputeError
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.runtime import flow_run

from flows._cli import run_cli
from flows._mlflow import start_mlflow_run
from sentiment_model.bundle import ModelDescription, Predictor
from sentiment_model.config import ScoringRun
from sentiment_model.drift import Drift, drift, unjudged
from sentiment_model.engines import Bundle, LocalEngine, ShardWorker, WorkerLostError, default_workers, read_bundle
from sentiment_model.errors import (
    ConfigurationError,
    FileAccessError,
    ModelError,
    NoReviewsError,
    QualityError,
    ScoringError,
    SentimentError,
    SourceError,
    StoreError,
)
from sentiment_model.exports import write_csv, write_to_label
from sentiment_model.ledger import Ledger
from sentiment_model.redaction import redacted
from sentiment_model.report import markdown_link
from sentiment_model.score_table import Receipt, ScoreTable
from sentiment_model.scoring import Counts, ScoringJob, files_to_score, scoring_key, total
from sentiment_model.scoring_report import (
    ScoringSummary,
    drift_message,
    removed_message,
    scoring_markdown,
    scoring_metrics,
    unusable_message,
)
from sentiment_model.settings import Settings
from sentiment_model.shards import Shard, file_key
from sentiment_model.sources.columns import mapping_of
from sentiment_model.sources.files import SourceFile
from sentiment_model.store import store_error
from sentiment_model.tracking import Tracker, TrainingRunLog, git_commit
from tasks.score import fetch_model, plan, score_locally, score_with_ray

DRIFT_EVENT = "sentiment.drift"


def _run_name() -> str:
    """Return what is known before the run begins; :func:`_rename` says it better."""
    run = ScoringRun.model_validate(flow_run.parameters["run"])
    model = run.model_uri.removeprefix("models:/")
    return redacted(f"score {run.files.path} with {model} {datetime.now(UTC).date().isoformat()}")


@flow(name="score", flow_run_name=_run_name)
def score(run: ScoringRun) -> ScoringSummary:
    """Label review files with a registered model, each review once.

    What this version has labelled with the same options is not labelled again. Of a run that was stopped, or in which
    shards failed, the next run does what is left. Where the path is there but holds no review files, none that was
    changed in the time named, or none with a row, there is nothing to score, which is no error.

    Args:
        run: which files, with which model.

    Raises:
        SentimentError: the files, the configuration or a server is at fault; the message says what to do.
    """
    settings = Settings()
    files, unreadable, nothing = _files(run)  # first: a wrong path is known at once
    tracker = Tracker(settings)
    model = _fetch(tracker, run.model_uri)
    _rename(_name(run, len(files), model.version))
    shadow = _fetch(tracker, run.shadow_uri) if run.shadow_uri else None
    key = scoring_key(run, model.description.digest, model.version, shadow.description.digest if shadow else None)
    table = ScoreTable(run.output or f"{settings.store_url}/scores", key)
    with _store_errors(table.url):
        table.recover()
        ledger = Ledger(table)
        planned = plan(ledger, files, run, settings.store_url)
    pending = ledger.pending(files)
    new = {piece.file for shard in pending for piece in shard.pieces}
    dataset = _hash(files)
    run_id = f"{key}-{dataset}"
    log = start_mlflow_run(tracker, "sentiment-scoring", run_id, run) if new else None
    job = ScoringJob(
        table=table.url,
        key=key,
        run=run,
        sources=files,
        splits=planned.splits,
        model_version=model.version,
        shadow_version=shadow.version if shadow else None,
        metadata={
            "model_uri": run.model_uri,
            "model_version": model.version,
            "model_digest": model.description.digest,
            "dataset": dataset,
            "prefect_flow_run": str(flow_run.id or ""),
            "mlflow_run": log.run_id if log else "",
            "scoring_key": key,
            "code_version": git_commit() or "",
        },
    )
    outcome = _Outcome()
    unreadable |= planned.unreadable
    found_before = ledger.unusable(files)
    with (
        tracker.active(log.run_id) if log else nullcontext(),
        _raising(outcome, unreadable),
        _store_errors(table.url),
    ):
        started = time.perf_counter()
        while pending:
            bundles = model.bundle, shadow and shadow.bundle
            _score(job.model_copy(update={"splits": planned.splits}), settings, bundles, pending, outcome)
            _cancel_broken_groups(table, outcome)
            ledger.update(outcome.receipts.values())
            # Pieces of cancelled shards, which may be another run's, are planned anew.
            planned = plan(ledger, files, run, settings.store_url)
            unreadable |= planned.unreadable
            pending = [shard for shard in ledger.pending(files) if shard not in outcome.failures]
        seconds = time.perf_counter() - started if outcome.tried else 0.0
        table.recover()  # what other runs' workers left of these shards
        if files:
            ledger.write_manifest(run_id)
            ledger.write_checkpoint()
        counts, paths, removed = _figures(table, ledger, files, new, model.version)
        counts.check_complete()
        failures = outcome.reasons() | unreadable
        unusable = {name: reason for name, reason in found_before.items() if name not in failures}
        if not (failures or unusable or removed):
            nothing = nothing or _no_rows(run, files, new, counts)
        own = total(receipt for receipt in outcome.receipts.values() if receipt.outcome == "scored")
        exported = [] if failures else paths  # an export of a part would be taken for the whole
        text = mapping_of(run.files).columns.text
        distances = drift(model.description.reference, counts.histograms)
        too_few = unjudged(model.description.reference, counts.histograms, run.drift)
        summary = ScoringSummary(
            table=table.url,
            scores=paths,
            nothing=nothing,
            reused=bool(files) and not new,
            model_version=model.version,
            shadow_version=job.shadow_version,
            files=len(files),
            new_files=len(new & set(files)),
            shards=outcome.shards + len(unreadable),
            failures=failures,
            unusable=unusable,
            removed=removed,
            rows_in=counts.rows_in,
            scored=counts.scored,
            quarantined=counts.quarantined,
            reasons=counts.reasons,
            positive_share=counts.positives / max(1, counts.scored),
            uncertain_share=counts.uncertain / max(1, counts.scored),
            disagreement_share=counts.disagreements / max(1, counts.scored) if shadow else None,
            unknown_share=counts.unknown / max(1, counts.tokens),
            mean_tokens=counts.tokens / max(1, counts.scored),
            drift=distances,
            drifted=[] if too_few else _drifted(run, distances),
            drift_unjudged=too_few,
            seconds=seconds,
            reviews_per_second=own.scored / seconds if seconds else 0.0,
            csv=write_csv(table.objects, f"csv/{run_id}.csv", exported) if run.csv and exported else None,
            to_label=write_to_label(
                table.objects, f"to-label/{run_id}.csv", exported, text, run.threshold, run.to_label
            )
            if run.to_label and exported
            else None,
        )
        _report(run, summary, log, tracker)
        if not nothing and not (summary.reused and (removed or not _names_a_file(run, files))):
            # What an earlier run found of the files of an inbox, it has said; of a file that is named, it is asked.
            if unusable:
                raise SourceError(unusable_message(summary))
            counts.check_quality(run.files)
            if summary.drifted and run.drift.action == "fail":
                raise QualityError(
                    f"{drift_message(summary)}; the scores are published; look at them before they are used"
                )
    return summary


def _figures(
    table: ScoreTable, ledger: Ledger, files: Collection[str], new: Collection[str], version: str
) -> tuple[Counts, list[str], int]:
    """Return what is known of some files.

    Args:
        table: where the scores are.
        ledger: what has been done.
        files: the files by key.
        new: which of them to count; all where there are none.
        version: version of the model.

    Returns:
        the counts, the paths of all files of the table with rows of these files, and the number of rows that were
        labelled and are in the table no more, of which nothing is counted.
    """
    to_count = {receipt.shard for receipt in ledger.scored(new)}
    there = table.visible(version)
    paths: list[str] = []
    removed = 0

    def counted() -> Iterator[Receipt]:
        nonlocal removed
        for receipt in ledger.scored(files):
            if not there.issuperset(file.path for file in receipt.files if file.role == "scores"):
                removed += receipt.counts["scored"]
                continue
            paths.extend(table.paths([receipt]))
            if not new or receipt.shard in to_count:
                yield receipt

    return total(counted()), paths, removed


class _Outcome:
    """What became of the shards that this run has tried."""

    def __init__(self) -> None:
        self.tried: set[Shard] = set()
        self.receipts: dict[str, Receipt] = {}
        self.failures: dict[Shard, Exception] = {}

    @property
    def shards(self) -> int:
        """How many shards there were to score; one that was cut into halves counts as these."""
        cancelled = {shard for shard, receipt in self.receipts.items() if receipt.outcome == "cancelled"}
        return sum(shard.id not in cancelled for shard in self.tried)

    def reasons(self) -> dict[str, str]:
        """Return why shards failed, by their name."""
        reasons: dict[str, str] = {}
        for shard, error in self.failures.items():
            name = shard.name if shard.name not in reasons else f"{shard.name} ({shard.id})"
            reasons[name] = str(error) if isinstance(error, SentimentError) else repr(error)
        return reasons


def _cancel_broken_groups(table: ScoreTable, outcome: _Outcome) -> None:
    """Cancel the shards of several files that failed because of one of them, so that they are planned as halves."""
    for shard, error in list(outcome.failures.items()):
        if len(shard.pieces) > 1 and not isinstance(error, StoreError | ModelError | ConfigurationError):
            del outcome.failures[shard]
            # The claim of a lost worker on another machine looks as if it were alive.
            if receipt := table.cancel(shard.id, in_work=isinstance(error, WorkerLostError)):
                outcome.receipts[shard.id] = receipt


def _name(run: ScoringRun, files: int, version: str) -> str:
    """Return what runs: `score 12 files champion v7`; without an alias, the model's name or URI in its place."""
    name, _, alias = run.model_uri.removeprefix("models:/").partition("@")
    return f"score {files:,} file{'' if files == 1 else 's'} {alias or name.removesuffix(f'/{version}')} v{version[:8]}"


def _rename(name: str) -> None:
    """Give this flow run another name, in Prefect and for what asks for it from here on."""
    context = FlowRunContext.get()
    if context and context.flow_run:
        with get_client(sync_client=True) as prefect:
            prefect.update_flow_run(context.flow_run.id, name=name)
        context.flow_run.name = name


def _files(run: ScoringRun) -> tuple[dict[str, SourceFile], dict[str, str], str | None]:
    """Return the files to score by key, why others cannot be read, by name, and why there are none."""
    files: dict[str, SourceFile] = {}
    unreadable: dict[str, str] = {}
    try:
        for file in files_to_score(run):
            try:
                files[file_key(file)] = file
            except FileAccessError as error:
                unreadable[file.name] = str(error)
    except NoReviewsError as error:
        return {}, {}, str(error)
    return files, unreadable, None


def _names_a_file(run: ScoringRun, files: Mapping[str, SourceFile]) -> bool:
    return any(file.name == Path(str(run.files.path)).name for file in files.values())


def _no_rows(run: ScoringRun, files: Mapping[str, SourceFile], new: Collection[str], counts: Counts) -> str | None:
    """Return why files had nothing to score, or None where they had, or where the run names the file that has not.

    Who puts empty files into an inbox has nothing to mend there; who names one file expects rows of it.
    """
    if counts.rows_in or _names_a_file(run, files):
        return None
    return f"every {'new ' if new else ''}file in {run.files.path} is empty or has only a header"


class _Model(NamedTuple):
    """A model that was fetched from the registry."""

    bundle: Bundle
    description: ModelDescription
    version: str


def _fetch(tracker: Tracker, model_uri: str) -> _Model:
    with TemporaryDirectory(prefix="sentiment-model-") as temporary:
        folder, version = fetch_model(tracker, model_uri, Path(temporary))
        # Loaded once here, so that a damaged model is known before workers start.
        return _Model(read_bundle(folder), Predictor.load(folder).description, version)


def _score(
    job: ScoringJob,
    settings: Settings,
    models: tuple[Bundle, Bundle | None],
    shards: list[Shard],
    outcome: _Outcome,
) -> None:
    """Score shards on the engine, and show how far it is."""
    progress = _Progress(len(shards), outcome.receipts)
    outcome.tried |= set(shards)
    if job.run.engine == "ray":
        outcome.failures |= score_with_ray(job, settings.device, models, shards, job.run.workers, progress)
        return
    workers = min(job.run.workers or default_workers(settings.device), len(shards))
    with closing(LocalEngine(partial(ShardWorker, job, settings.device, *models), workers)) as engine:
        outcome.failures |= score_locally(engine, shards, workers, progress)


class _Progress:
    """A progress artifact, and a line in the log for each shard; keeps the receipts."""

    def __init__(self, shards: int, receipts: dict[str, Receipt]) -> None:
        self._shards = shards
        self._receipts = receipts
        self._done = 0
        self._lock = threading.Lock()
        created = create_progress_artifact(0.0, key="scoring-progress", description=f"Scoring {shards} shards")
        self._artifact = created if isinstance(created, UUID) else None

    def __call__(self, receipt: Receipt) -> None:
        with self._lock:
            self._receipts[receipt.shard] = receipt
            self._done += 1
            done = self._done
        if self._artifact:
            update_progress_artifact(self._artifact, 100 * done / self._shards)
        rows, seconds = (receipt.counts.get(name, 0) for name in ("rows_in", "seconds"))  # a cancelled one has none
        get_run_logger().info("Shard %d of %d: %d rows in %.1f s", done, self._shards, rows, seconds)


@contextmanager
def _store_errors(url: str) -> Iterator[None]:
    """Turn what a store, or the reader of its files, raises into a StoreError of one line."""
    try:
        yield
    except (OSError, BaseError, ComputeError) as error:
        raise store_error(url, error) from error


@contextmanager
def _raising(outcome: _Outcome, unreadable: dict[str, str]) -> Iterator[None]:
    """Raise ScoringError where shards failed: after the block, or in place of an error in it, which may be theirs."""
    try:
        yield
    except SentimentError as error:
        if outcome.failures or unreadable:
            raise ScoringError(_failure(outcome, unreadable)) from error
        raise
    if outcome.failures or unreadable:
        raise ScoringError(_failure(outcome, unreadable))


def _failure(outcome: _Outcome, unreadable: dict[str, str]) -> str:
    failed = len(outcome.failures)
    what = [f"{failed} of {outcome.shards} shards failed"] if failed else []
    what += [f"{len(unreadable)} files cannot be read"] if unreadable else []
    (name, reason), *others = (outcome.reasons() | unreadable).items()
    more = f" (and {len(others)} more)" if others else ""
    published = f"the other {outcome.shards - failed} shards are published; run again to do only what is left"
    return f"{' and '.join(what)}; {published}. {name}: {reason}{more}"


def _drifted(run: ScoringRun, distances: dict[str, Drift]) -> list[str]:
    return [name for name, far in distances.items() if far.psi > run.drift.max_psi or far.ks > run.drift.max_ks]


def _report(run: ScoringRun, summary: ScoringSummary, log: TrainingRunLog | None, tracker: Tracker) -> None:
    """Tell MLflow, the Prefect UI, the log and, on drift, whoever waits for the event."""
    if log:
        log.log_metrics(scoring_metrics(summary))
    version = summary.model_version
    text = scoring_markdown(
        run,
        summary,
        markdown_link(f"version {version}", tracker.model_url(run.model_uri, version)),
        markdown_link(f"MLflow run {log.run_id}", tracker.run_url(log.run_id)) if log else None,
    )
    create_markdown_artifact(text, key="scores", description="What was scored")
    logger = get_run_logger()
    if summary.nothing:
        logger.info("Nothing to score: %s", summary.nothing)
        return
    if summary.unusable:
        logger.warning("Left out: %s", unusable_message(summary))
    if summary.removed:
        logger.info("Removed: %s", removed_message(summary))
    logger.info(
        "%s %d of %d rows with version %s, %.1f %% positive; %d quarantined; in %s",
        "Nothing new: an earlier run labelled" if summary.reused else "Labelled",
        summary.scored,
        summary.rows_in,
        summary.model_version,
        100 * summary.positive_share,
        summary.quarantined,
        redacted(summary.table),
    )
    if summary.drift_unjudged:
        logger.info("There are %s", summary.drift_unjudged)
    if summary.drifted:
        logger.warning("Drift: %s", drift_message(summary))
        if not summary.reused:
            emit_event(
                DRIFT_EVENT,
                resource={"prefect.resource.id": f"sentiment.model.{summary.model_version}"},
                payload={name: far.model_dump() for name, far in summary.drift.items()},
            )


def _hash(keys: dict[str, Any]) -> str:
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:12]


def main() -> int:
    """Run the flow from the command line."""
    return run_cli(ScoringRun, score)


if __name__ == "__main__":
    sys.exit(main())
