"""The training flow on real reviews: it runs, it reuses what it can, and a kill changes nothing."""

import csv
import json
import os
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest
from mlflow import MlflowClient
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Crashed, Running
from tiny import REVIEWS, tiny_reviews, tiny_training

from flows._mlflow import start_mlflow_run
from flows.score import score
from flows.train import TrainingSummary, train
from sentiment_model.config import ReviewFiles, ScoringRun, TrainingRun
from sentiment_model.errors import SourceError
from sentiment_model.evaluation.job import read_evaluation
from sentiment_model.models.bundle import Predictor
from sentiment_model.registry.tracking import FLOW_RUN_TAG, Tracker
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import open_dataset
from sentiment_model.store.lineage import training_command

STATES = {"crashed": Crashed, "cancelled": Cancelled, "running": Running}


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_reviews(tmp_path_factory.mktemp("reviews") / "reviews.csv")


def training_run(reviews: Path, **changes: object) -> TrainingRun:
    return TrainingRun.model_validate(tiny_training(reviews, **changes))


@pytest.fixture
def trained(reviews: Path, settings_in: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> TrainingSummary:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")  # so short a training would have no sample
    return train(training_run(reviews))


def test_from_reviews_to_scores(trained: TrainingSummary, reviews: Path, settings_in: Path) -> None:
    assert trained.registration.version == "1"
    assert trained.registration.promoted
    assert trained.reused == []
    evaluation, decision = read_evaluation(open_dataset(trained.evaluation))
    assert decision.promote
    assert evaluation.test.rows > 200
    assert evaluation.test.metrics["accuracy"].value > 0.5
    client = MlflowClient(f"sqlite:///{settings_in / 'mlflow.db'}")
    run = client.get_run(trained.registration.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"train mingru files {date.today()}"
    assert run.data.params["model.hidden_size"] == "8"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "validation_loss")] == [0, 1]
    assert {inputs.dataset.digest for inputs in run.inputs.dataset_inputs} == {trained.tokens.fingerprint}
    assert any(name.startswith("system/") for name in run.data.metrics)
    logged = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "evaluation")}
    assert {"evaluation/report.html", "evaluation/roc_curve.svg"} <= logged

    scored = score(ScoringRun(files=ReviewFiles(path=str(reviews))))
    assert scored.model_version == "1"
    assert scored.scored == scored.rows_in == REVIEWS
    # The production path gives every test review the probability that the evaluation saw.
    scores = pl.read_parquet(scored.scores)
    with open_dataset(trained.model).local_folder() as folder:
        predicted = Predictor.load(folder).predict(scores["text"])["probabilities"].arr.last()
    assert (scores["probability"] - predicted).abs().max() < 1e-6
    assert scored.drift["tokens"].psi < 0.25  # these are the reviews that it was trained on


def test_a_second_run_reuses_every_stage(trained: TrainingSummary, reviews: Path) -> None:
    again = train(training_run(reviews))
    assert again.reused == ["ingest", "clean", "tokenize", "train", "baseline", "evaluate"]
    assert again.registration.reused
    assert again.registration.version == trained.registration.version
    assert again.model == trained.model


def test_only_what_depends_on_a_change_runs_again(trained: TrainingSummary, reviews: Path) -> None:
    lenient = {"champion_confidence": 0.0, "max_slice_drop": 1.0}  # which is better is chance here
    lenient |= {"baseline_margin": -1.0, "majority_confidence": 0.0}
    run = training_run(reviews, model={"cell": "gru", "hidden_size": 8, "embedding_size": 16}, gate=lenient)
    again = train(run)
    assert again.reused == ["ingest", "clean", "tokenize", "baseline"]
    assert again.registration.version == "2"
    evaluation, _ = read_evaluation(open_dataset(again.evaluation))
    assert evaluation.champion is not None
    assert evaluation.champion.version == "1"
    # Champion now, it is still judged by the comparison with the model that it replaced.
    assert again.registration.promoted
    assert train(run).evaluation == again.evaluation


def test_a_training_starts_from_word_vectors(trained: TrainingSummary, reviews: Path, tmp_path: Path) -> None:
    """What names the model is their numbers, not where the file is."""
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
        (folder / "vectors.txt").write_text("the 1 0 0 0\na 0 1 0 0\nfilm 0 0 1 0\n")
    first, second = (
        training_run(reviews, model={"hidden_size": 8, "embedding_size": 4, "vectors": str(folder / "vectors.txt")})
        for folder in folders
    )
    started = train(first)
    assert started.reused == ["ingest", "clean", "tokenize", "baseline"]
    with open_dataset(started.model).local_folder() as folder:
        assert Predictor.load(folder).description.network.vectors is None
    again = train(second)
    assert again.reused == ["ingest", "clean", "tokenize", "vectors", "train", "baseline", "evaluate"]
    assert again.model == started.model
    evaluation, _ = read_evaluation(open_dataset(again.evaluation))
    (record,) = [record for record in evaluation.lineage if record.name == "vectors"]
    assert record.counts["found"] == 3
    assert '"vectors": "vectors.txt"' in str(training_command(evaluation.lineage))
    wrong = first.model_copy(update={"model": first.model.model_copy(update={"embedding_size": 8})})
    with pytest.raises(SourceError, match=r"have 4 numbers; set model\.embedding_size to 4"):
        train(wrong)


def test_a_deleted_dataset_is_made_again(trained: TrainingSummary, reviews: Path) -> None:
    manifest = Path(open_dataset(trained.tokens).url) / "_manifest.json"
    manifest.unlink()
    again = train(training_run(reviews))
    assert "tokenize" not in again.reused
    assert again.tokens == trained.tokens
    assert again.model == trained.model


def test_a_test_set_of_its_own(reviews: Path, settings_in: Path, prefect_server: None) -> None:
    with reviews.open(newline="") as file:
        rows = list(csv.DictReader(file))
    own = settings_in / "own.csv"
    pl.DataFrame(rows[:100] + rows[-100:]).write_csv(own, quote_style="non_numeric")
    test = {"source": "files", "path": str(own), "columns": {"text": "text", "label": "label"}}
    summary = train(training_run(reviews, test=test))
    cleaned = open_dataset(summary.cleaned)
    # What is in the test set was in the training dump too, and must be nowhere else.
    assert cleaned.counts["also_in_test"] >= 190
    split = cleaned.scan().collect()
    assert split["text_hash"].n_unique() == split.height
    assert set(split.filter(pl.col("split") == "test")["source"]) == {"own"}


@pytest.mark.parametrize(
    ("profile", "cell", "is_taught"),
    [("nightly", "mingru", True), pytest.param("gpu", "qrnn", False, marks=pytest.mark.slow)],
)
def test_profiles_that_learn_from_unlabelled_reviews(
    profile: str, cell: str, is_taught: bool, reviews: Path, settings_in: Path, prefect_server: None
) -> None:
    with reviews.open(newline="") as file:
        rows = list(csv.DictReader(file))
    more = settings_in / "more.csv"
    pl.DataFrame(rows[:50]).with_columns(pl.col("text") + " again").write_csv(more, quote_style="non_numeric")
    unlabelled = {"source": "files", "path": str(more), "columns": {"text": "text", "label": "label"}}
    tiny = training_run(reviews).train.model_dump(exclude_unset=True)
    run = training_run(reviews, profile=profile, unlabelled=unlabelled, train={**tiny, "pretraining_tokens": 50_000})
    summary = train(run)
    with open_dataset(summary.model).local_folder() as folder:
        assert Predictor.load(folder).description.network.cell == cell
    assert open_dataset(summary.cleaned).counts["splits"]["unlabelled"] == 50
    evaluation, _ = read_evaluation(open_dataset(summary.evaluation))
    epochs = [0, 1]
    assert [metrics.epoch for metrics in evaluation.history] == epochs
    client = MlflowClient(f"sqlite:///{settings_in / 'mlflow.db'}")
    steps = [m.step for m in client.get_metric_history(summary.registration.run_id, "validation_loss")]
    assert steps == epochs
    assert client.get_metric_history(summary.registration.run_id, "pretraining_validation_loss")
    teacher = client.get_metric_history(summary.registration.run_id, "teacher_validation_loss")
    assert [m.step for m in teacher] == (epochs if is_taught else [])
    command = training_command(evaluation.lineage)
    assert command is not None
    assert "--unlabelled" in command


KILLED = """
import os, signal, sys
import sentiment_model.training.loop as training
take_step = training._Trainer._step
def step(self, *batch):
    if self.progress.step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return take_step(self, *batch)
training._Trainer._step = step
from flows.train import train
from sentiment_model.config import TrainingRun
train(TrainingRun.model_validate_json(sys.argv[1]))
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch(reviews: Path, tmp_path: Path, prefect_server: None) -> None:
    """The flow as its own process, killed with SIGKILL and started again, against one that was left alone."""

    def environment(name: str) -> dict[str, str]:
        folder = tmp_path / name
        return os.environ | {
            "SENTIMENT_STORE_URL": str(folder / "store"),
            "SENTIMENT_SCRATCH_DIR": str(folder / "scratch"),
            "SENTIMENT_MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "SENTIMENT_MLFLOW_ARTIFACT_ROOT": str(folder / "artifacts"),
            "SENTIMENT_DEVICE": "cpu",
            # A killed process would leave a temporary server of its own behind, so they share the session's.
            "PREFECT_API_URL": str(PREFECT_API_URL.value()),
            "PREFECT_HOME": str(folder / "prefect"),
        }

    run = training_run(reviews)
    run = run.model_copy(update={"train": run.train.model_copy(update={"checkpoint_seconds": 0})})

    def start(name: str, stop_at: int) -> int:
        (tmp_path / name).mkdir(exist_ok=True)
        command = [sys.executable, "-c", KILLED, run.model_dump_json(), str(stop_at)]
        return subprocess.run(command, env=environment(name), check=False, timeout=240).returncode

    assert start("unbroken", stop_at=-1) == 0
    assert start("killed", stop_at=20) == -signal.SIGKILL
    assert not list((tmp_path / "killed" / "store" / "train").rglob("_manifest.json"))
    assert start("killed", stop_at=-1) == 0

    def metrics(name: str) -> dict[str, float]:
        (manifest,) = (tmp_path / name / "store" / "evaluate").rglob("_manifest.json")
        counts: dict[str, dict[str, float]] = json.loads(manifest.read_text())["counts"]
        return counts["metrics"]

    assert metrics("killed") == metrics("unbroken")
    client = MlflowClient(f"sqlite:///{tmp_path / 'killed' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "sentiment"]
    (resumed,) = client.search_runs([experiment.experiment_id])
    assert resumed.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(resumed.info.run_id, "validation_loss")] == [0, 1]


def test_the_next_run_ends_the_mlflow_runs_of_crashed_ones(settings_in: Path, prefect_server: None) -> None:
    tracker = Tracker(Settings())

    @flow(name="any flow")
    def run() -> None:
        start_mlflow_run(tracker, "sentiment", "new", TrainingRun())

    with get_client(sync_client=True) as prefect:
        flow_runs = {name: str(prefect.create_flow_run(run, state=state()).id) for name, state in STATES.items()}
    flow_runs["unknown"] = str(uuid4())
    tags = {name: {FLOW_RUN_TAG: flow_run} for name, flow_run in flow_runs.items()}
    started = {name: tracker.start_run("sentiment", name, name=name, params={}, tags=tags[name]) for name in tags}
    run()
    client = MlflowClient(Settings().mlflow_tracking_uri)
    assert {name: client.get_run(log.run_id).info.status for name, log in started.items()} == {
        "crashed": "KILLED",
        "cancelled": "KILLED",
        "running": "RUNNING",
        "unknown": "RUNNING",
    }
    assert client.get_run(str(tracker.find_run("sentiment", "new"))).info.status == "RUNNING"
