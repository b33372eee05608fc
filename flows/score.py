"""The scoring flow: a registered model over review files, each review once.

Run it with ``python -m flows.score --files.path PATH``; ``--help`` lists what can be chosen.
"""

import hashlib
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime

from flows._cli import run_flow
from sentiment_model.config import ScoringRun

if __name__ == "__main__":  # before the flow's imports, see run_flow
    sys.exit(run_flow(ScoringRun, "score"))

from obstore.exceptions import BaseError
from polars.exceptions import ComputeError
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.runtime import flow_run

from flows._mlflow import start_mlflow_run
from sentiment_model.errors import QualityError, ScoringError, SentimentError, SourceError
from sentiment_model.markdown import markdown_link
from sentiment_model.redaction import redacted
from sentiment_model.registry.git import git_commit
from sentiment_model.registry.tracking import Tracker, TrainingRunLog
from sentiment_model.scoring.exports import export
from sentiment_model.scoring.label import ScoringJob, check_models, scoring_key
from sentiment_model.scoring.planning import open_inbox
from sentiment_model.scoring.report import (
    drift_message,
    removed_message,
    scoring_markdown,
    scoring_metrics,
    shares_message,
    unexported_message,
    unlearned_message,
    unusable_message,
)
from sentiment_model.scoring.summary import Figures, ScoringSummary, count, summarise
from sentiment_model.scoring.table import ScoreTable
from sentiment_model.scoring.work import Work
from sentiment_model.settings import Settings
from sentiment_model.sources.columns import mapping_of
from sentiment_model.sources.hashes import CONTENT_HASHES, KnownHashes
from sentiment_model.store.datasets import store_error
from tasks.preview import show_files
from tasks.score import Engine, FetchedModel, fetch_model, plan, score_shards

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
    with KnownHashes(settings.scratch_dir / CONTENT_HASHES) as hashes:
        inbox = open_inbox(run, hashes.fingerprint)  # first: a wrong path is known at once
    if inbox.files:
        show_files(run.files)
    if hashes.fault:
        get_run_logger().info("Every file is read to tell whether it is new; no hashes are kept: %s", hashes.fault)
    tracker = Tracker(settings)
    model = fetch_model(tracker, run.model_uri)
    _rename(_name(run, len(inbox.files), model.version))
    shadow = fetch_model(tracker, run.shadow_uri) if run.shadow_uri else None
    check_models(run, model.description.classes, shadow.description.classes if shadow else None)
    key = scoring_key(run, model.description.digest, model.version, shadow.description.digest if shadow else None)
    table = ScoreTable(run.output or f"{settings.store_url}/scores", key)
    with closing(Engine(run, settings.device, model, shadow)) as engine:
        with _store_errors(table.url):
            work = Work(inbox, table, lambda ledger: plan(ledger, inbox.files, run, settings.store_url, engine))
        dataset = _hash(inbox.files)
        run_id = f"{key}-{dataset}"
        log = start_mlflow_run(tracker, "sentiment-scoring", run_id, run) if work.new else None
        job = _job(run, work, dataset, model, shadow, log)
        with tracker.active(log.run_id) if log else nullcontext(), _raising(work), _store_errors(table.url):
            seconds = _score(job, work, engine)
            work.finish(run_id)
            figures = count(work)
            exported = [] if work.reasons() else figures.paths  # an export of a part would be taken for the whole
            text, classes = mapping_of(run.files).columns.text, model.description.classes
            exports = export(table.objects, run_id, exported, run, text, classes)
            summary = summarise(
                run,
                work,
                figures,
                model.description,
                model_version=model.version,
                shadow_version=job.shadow_version,
                seconds=seconds,
                exports=exports,
            )
            _report(run, summary, log, tracker)
            _check(run, work, figures, summary)
    return summary


def _job(
    run: ScoringRun,
    work: Work,
    dataset: str,
    model: FetchedModel,
    shadow: FetchedModel | None,
    log: TrainingRunLog | None,
) -> ScoringJob:
    return ScoringJob(
        table=work.table.url,
        key=work.table.key,
        run=run,
        sources=work.inbox.files,
        splits={},
        model_version=model.version,
        shadow_version=shadow.version if shadow else None,
        metadata={
            "model_uri": run.model_uri,
            "model_version": model.version,
            "model_digest": model.description.digest,
            "dataset": dataset,
            "prefect_flow_run": str(flow_run.id or ""),
            "mlflow_run": log.run_id if log else "",
            "scoring_key": work.table.key,
            "code_version": git_commit() or "",
        },
    )


def _score(job: ScoringJob, work: Work, engine: Engine) -> float:
    """Score what is pending, and what that leaves to plan anew; return the seconds that took."""
    if not work.new:
        return 0.0
    started = time.perf_counter()
    while shards := work.pending():
        done, failed = score_shards(job.model_copy(update={"splits": work.splits}), engine, shards)
        work.settle(shards, done, failed)
    engine.close()  # what follows may need the memory
    return time.perf_counter() - started


def _check(run: ScoringRun, work: Work, figures: Figures, summary: ScoringSummary) -> None:
    """Raise where what was found is not what was to be expected; the scores are published.

    Raises:
        SourceError: a file is broken, or there is no row.
        QualityError: too many rows cannot be scored, or too much has drifted.
    """
    if summary.nothing:
        return
    # What an earlier run found of the files of an inbox, it has said, and new ones that are empty are no error; of a
    # file that is named, it is asked.
    is_one_file = work.inbox.is_one_file(str(run.files.path))
    if summary.unusable and is_one_file:
        raise SourceError(unusable_message(summary))
    nothing_new = summary.reused or not summary.rows_in
    if (nothing_new and not is_one_file) or (summary.reused and summary.removed):
        return
    figures.counts.check_quality(run.files)
    if summary.drifted and run.drift.action == "fail":
        raise QualityError(f"{drift_message(summary)}; the scores are published; look at them before they are used")


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


@contextmanager
def _store_errors(url: str) -> Iterator[None]:
    """Turn what a store, or the reader of its files, raises into a StoreError of one line."""
    try:
        yield
    except (OSError, BaseError, ComputeError) as error:
        raise store_error(url, error) from error


@contextmanager
def _raising(work: Work) -> Iterator[None]:
    """Raise ScoringError where shards failed: after the block, or in place of an error in it, which may be theirs."""
    try:
        yield
    except SentimentError as error:
        if failure := work.failure():
            raise ScoringError(failure) from error
        raise
    if failure := work.failure():
        raise ScoringError(failure)


def _report(run: ScoringRun, summary: ScoringSummary, log: TrainingRunLog | None, tracker: Tracker) -> None:
    """Tell MLflow, the Prefect UI, the log and, on drift, whoever waits for the event."""
    if log:
        log.log_metrics(scoring_metrics(summary))
    version = summary.model_version
    text = scoring_markdown(
        run,
        summary,
        markdown_link(f"version {version}", tracker.registry.model_url(run.model_uri, version)),
        markdown_link(f"MLflow run {log.run_id}", tracker.run_url(log.run_id)) if log else None,
    )
    create_markdown_artifact(text, key="scores", description="What was scored")
    logger = get_run_logger()
    if summary.nothing:
        logger.info("Nothing to score: %s", summary.nothing)
        return
    if summary.passed_over:
        logger.warning("%s", summary.passed_over)
    if summary.unusable:
        logger.warning("Left out: %s", unusable_message(summary))
    if summary.removed:
        logger.info("Removed: %s", removed_message(summary))
    logger.info(
        "%s %d of %d rows with version %s, %s; %d quarantined; in %s",
        "Nothing new: an earlier run labelled" if summary.reused else "Labelled",
        summary.scored,
        summary.rows_in,
        summary.model_version,
        shares_message(summary),
        summary.quarantined,
        redacted(summary.table),
    )
    if summary.unexported:
        logger.warning("Not exported: %s", unexported_message(summary))
    if summary.unlearned:
        logger.warning("Scripts: %s", unlearned_message(summary))
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


def _hash(keys: Collection[str]) -> str:
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:12]
