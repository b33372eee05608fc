"""The training flow: ingest -> clean -> tokenize -> train -> evaluate -> register.

Run it with ``python -m flows.train``; ``--help`` lists what can be chosen.
"""

import sys
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from flows._cli import run_flow
from sentiment_model.config import TrainingRun

if __name__ == "__main__":  # before the flow's imports, see run_flow
    sys.exit(run_flow(TrainingRun, "train"))

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from pydantic import BaseModel

from flows._mlflow import start_mlflow_run
from sentiment_model.errors import ModelError
from sentiment_model.evaluation.evaluate import ChampionModel
from sentiment_model.evaluation.job import read_evaluation
from sentiment_model.evaluation.report import interval
from sentiment_model.models.bundle import ModelDescription
from sentiment_model.redaction import redacted
from sentiment_model.registry.tracking import Tracker
from sentiment_model.settings import Settings
from sentiment_model.sources.vectors import VectorsFile
from sentiment_model.store.datasets import Dataset, DatasetRef, open_dataset
from sentiment_model.training.job import TRAIN, resolve_processes, training_identity
from tasks.baseline import baseline
from tasks.clean import clean
from tasks.evaluate import evaluate
from tasks.ingest import ingest
from tasks.preview import show_files
from tasks.register import Registration, register
from tasks.tokenize import tokenize
from tasks.train import train as train_network
from tasks.vectors import vectors


class TrainingSummary(BaseModel):
    """What a training run made, by name, and which of its stages an earlier run had done."""

    reviews: DatasetRef
    cleaned: DatasetRef
    tokens: DatasetRef
    model: DatasetRef
    evaluation: DatasetRef
    registration: Registration
    reused: list[str]


def _run_name() -> str:
    """Return what runs, and the day on which it starts here: `train lstm imdb 2026-11-23`."""
    run: TrainingRun = flow_run.parameters["run"]
    return f"train {run.model.cell} {run.ingest.source} {date.today()}"


@flow(name="train", flow_run_name=_run_name)
def train(run: TrainingRun) -> TrainingSummary:
    """Train, evaluate and register a recurrent sentiment classifier; promote it only if the gate passes.

    Stages whose inputs and parameters did not change are reused. A training that was interrupted goes on from its
    last checkpoint.

    Args:
        run: what to train on, what to train, and when to promote it.

    Raises:
        SentimentError: the input, the configuration or a server is at fault; the message says what to do.
    """
    started = datetime.now(UTC)
    settings = Settings()
    tracker = Tracker(settings)  # first, so that an MLflow that is down is known before an hour of training
    words = VectorsFile.find(run.model.vectors, run.model.embedding_size) if run.model.vectors else None
    classes = run.ingest.told_apart()
    if run.ingest.source == "files":
        show_files(run.ingest)
    reviews = ingest(run.ingest, settings.store_url)
    test = ingest(run.test, settings.store_url) if run.test else None
    unlabelled = ingest(run.unlabelled, settings.store_url) if run.unlabelled else None
    cleaned = clean(reviews, test, unlabelled, classes, run.clean)
    tokens = tokenize(cleaned, run.tokenize)
    start = vectors(tokens, words) if words else None
    config = resolve_processes(run.train, settings.device)
    unit = open_dataset(tokens).counts["unit"]
    network = run.model.suited_to(unit)
    fingerprint = TRAIN.fingerprint(*training_identity(tokens, start, network, config))
    log = start_mlflow_run(tracker, run.model_name, fingerprint, run)
    log.log_dataset(open_dataset(tokens), "training")
    model = train_network(tokens, start, classes, network, config, tracker, log.run_id)
    peer = baseline(cleaned, classes, unit)
    with TemporaryDirectory(prefix="sentiment-champion-") as folder:
        rival = _rival(tracker, run.model_name, model, Path(folder))
        evaluation = evaluate(model, cleaned, peer, rival, run.evaluate, run.gate, tracker.run_url(log.run_id))
    registration = register(model, evaluation, run.model_name, log.run_id, tracker)
    made = [reviews, cleaned, tokens, *([start] if start else []), model, peer, evaluation]
    reused = [ref.stage for ref in made if open_dataset(ref).manifest.created_at < started]
    get_run_logger().info("Reused from earlier runs: %s", ", ".join(reused) or "nothing")
    get_run_logger().info("%s", _result(open_dataset(evaluation)))
    return TrainingSummary(
        reviews=reviews,
        cleaned=cleaned,
        tokens=tokens,
        model=model,
        evaluation=evaluation,
        registration=registration,
        reused=reused,
    )


def _result(evaluation: Dataset) -> str:
    """Return what the model came to, and where that is told at length."""
    found, _ = read_evaluation(evaluation)
    return (
        f"Accuracy {interval(found.test.metrics['accuracy'])} of {found.test.rows:,} held-out reviews; the report is "
        f"{redacted(evaluation.files('report')[0])}"
    )


def _rival(tracker: Tracker, name: str, model: DatasetRef, folder: Path) -> ChampionModel | None:
    with open_dataset(model).local_folder() as folder_of_own:
        own = ModelDescription.read(folder_of_own)
    found = tracker.registry.rival(name, own.digest, folder)
    if found is None:
        return None
    try:
        other = ModelDescription.read(found.bundle)
    except ModelError as error:
        raise ModelError(
            f"the new model cannot be compared with version {found.version} of {name}: {error}; or take the aliases "
            "champion and previous from versions that cannot be read, and run again"
        ) from error
    if not found.is_champion and other.classes.names != own.classes.names:
        return None  # the model has taken its place, which a person has made way for
    return ChampionModel(version=found.version, digest=other.digest, bundle=found.bundle)
