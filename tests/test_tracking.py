"""Runs, the registry and its aliases, in a real MLflow with a database of its own."""

import sqlite3
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from tiny import epoch_metrics, tiny_bundle

from flows._cli import run_cli
from flows.rollback import Rollback, rollback
from sentiment_model.errors import ModelError, TrackingError
from sentiment_model.models.bundle import VOCABULARY, Predictor
from sentiment_model.registry.git import git_commit
from sentiment_model.registry.tracking import Tracker
from sentiment_model.registry.versions import CHALLENGER, CHAMPION, DIGEST_TAG, PREVIOUS, inference_requirements
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import DatasetWriter, Stage, Store


@pytest.fixture
def tracker(settings_in: Path) -> Tracker:
    return Tracker(Settings())


@pytest.fixture
def client(tracker: Tracker) -> MlflowClient:
    return MlflowClient(Settings().mlflow_tracking_uri)


def start(tracker: Tracker, fingerprint: str = "fp-1", **params: object) -> str:
    return tracker.start_run("sentiment", fingerprint, name="test", params=params, tags={}).run_id


def register(tracker: Tracker, folder: Path, seed: int, *, promote: bool) -> str:
    tiny_bundle(folder / f"bundle-{seed}", seed)
    run_id = start(tracker, f"fp-{seed}")
    return tracker.registry.register(
        folder / f"bundle-{seed}",
        "sentiment",
        run_id,
        promote=promote,
        tags={"seed": str(seed)},
        compared_with=champion(tracker),
    ).version


def champion(tracker: Tracker) -> str | None:
    found = tracker._client.search_registered_models("name = 'sentiment'")
    return str(found[0].aliases[CHAMPION]) if found and CHAMPION in found[0].aliases else None


def aliases(client: MlflowClient) -> dict[str, str]:
    return {name: str(version) for name, version in client.get_registered_model("sentiment").aliases.items()}


def test_a_training_that_starts_again_continues_its_run(tracker: Tracker, client: MlflowClient) -> None:
    run_id = start(tracker, cell="lstm", layers=1)

    def interrupted_training() -> None:
        with tracker.active(run_id):
            tracker.run_log(run_id).log_epoch("training", epoch_metrics(0))
            assert client.get_run(run_id).info.status == "RUNNING"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_training()
    assert client.get_run(run_id).info.status == "FAILED"

    assert start(tracker, cell="lstm", layers=1, added=2) == run_id
    with tracker.active(run_id):
        log = tracker.run_log(run_id)
        # Repeated: the crash came before the checkpoint.
        log.log_epoch("training", epoch_metrics(0, validation_loss=9.0))
        log.log_epoch("teacher", epoch_metrics(0, validation_loss=0.3))
        log.log_epoch("training", epoch_metrics(1, validation_loss=0.4))
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"cell": "lstm", "layers": "1", "added": "2"}
    history = client.get_metric_history(run_id, "validation_loss")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.4)]
    assert run.data.metrics["teacher_validation_loss"] == 0.3
    assert start(tracker, "another") != run_id


def test_a_run_takes_more_params_than_one_request_may_hold(tracker: Tracker, client: MlflowClient) -> None:
    run_id = start(tracker, **{f"p{i}": i for i in range(250)})
    assert len(client.get_run(run_id).data.params) == 250


def test_system_metrics_are_sampled_while_a_run_is_active(
    tracker: Tracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    run_id = start(tracker)
    with tracker.active(run_id):
        deadline = time.monotonic() + 30
        while "system/cpu_utilization_percentage" not in client.get_run(run_id).data.metrics:
            assert time.monotonic() < deadline, "no system metrics after 30 s"
            time.sleep(0.1)


def test_a_run_names_the_datasets_it_was_trained_on(tracker: Tracker, client: MlflowClient, tmp_path: Path) -> None:
    def write(writer: DatasetWriter) -> dict[str, int]:
        pl.DataFrame({"x": [1]}).write_parquet(writer.file("part.parquet"))
        return {"rows": 1}

    dataset, _ = Store(str(tmp_path / "store")).materialise(Stage("tokenize", 1), {}, {}, write)
    run_id = start(tracker)
    tracker.run_log(run_id).log_dataset(dataset, "training")
    (logged,) = client.get_run(run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("tokenize", dataset.ref.fingerprint)
    assert dataset.url in logged.dataset.source
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")]


def test_reports_metrics_and_tags_can_be_added_to_a_finished_run(
    tracker: Tracker, client: MlflowClient, tmp_path: Path
) -> None:
    run_id = start(tracker)
    with tracker.active(run_id):
        pass
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("<p>good</p>")
    log = tracker.run_log(run_id)
    log.log_folder(tmp_path / "report", "evaluation")
    log.log_metrics({"test_accuracy": 0.9})
    log.set_tags({"gate": "promoted"})
    assert [file.path for file in client.list_artifacts(run_id, "evaluation")] == ["evaluation/report.html"]
    run = client.get_run(run_id)
    assert run.data.metrics["test_accuracy"] == 0.9
    assert run.data.tags["gate"] == "promoted"
    assert run.data.tags.get("mlflow.source.git.commit") == git_commit()


def test_aliases_follow_the_gate(tracker: Tracker, client: MlflowClient, tmp_path: Path) -> None:
    assert register(tracker, tmp_path, 1, promote=False) == "1"
    assert aliases(client) == {CHALLENGER: "1"}
    register(tracker, tmp_path, 2, promote=True)
    assert aliases(client) == {CHALLENGER: "2", CHAMPION: "2"}
    register(tracker, tmp_path, 3, promote=True)
    assert aliases(client) == {CHALLENGER: "3", CHAMPION: "3", PREVIOUS: "2"}
    register(tracker, tmp_path, 4, promote=False)
    assert aliases(client) == {CHALLENGER: "4", CHAMPION: "3", PREVIOUS: "2"}
    assert client.get_model_version("sentiment", "3").current_stage in (None, "None")


def test_a_model_has_to_beat_the_champion_or_the_one_it_replaced(
    tracker: Tracker, client: MlflowClient, tmp_path: Path
) -> None:
    def rival(digest: str) -> str | None:
        (folder := tmp_path / f"rival-of-{digest}").mkdir()
        found = tracker.registry.rival("sentiment", digest, folder)
        return found and found.version

    def digest(version: str) -> str:
        return str(client.get_model_version("sentiment", version).tags[DIGEST_TAG])

    assert rival("before any") is None
    register(tracker, tmp_path, 1, promote=True)
    assert rival(digest("1")) is None
    assert rival("new") == "1"
    register(tracker, tmp_path, 2, promote=True)
    assert rival("newer") == "2"
    assert rival(digest("2")) == "1"
    client.delete_registered_model_alias("sentiment", CHAMPION)  # by who wants to begin anew
    assert rival("newest") is None


def test_promotion_never_leaves_the_model_without_a_champion(
    tracker: Tracker, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(tracker, tmp_path, 1, promote=True)
    move = MlflowClient.set_registered_model_alias
    moves: list[dict[str, str]] = []

    def watched(self: MlflowClient, name: str, alias: str, version: str) -> None:
        move(self, name, alias, version)
        moves.append(aliases(client))

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", watched)
    register(tracker, tmp_path, 2, promote=True)
    tracker.registry.rollback("sentiment")
    assert len(moves) == 5
    assert [state.get(CHAMPION) for state in moves] == ["1", "1", "2", "1", "1"]
    assert moves[-1] == {CHALLENGER: "2", CHAMPION: "1", PREVIOUS: "2"}


def test_the_same_model_is_one_version(tracker: Tracker, client: MlflowClient, tmp_path: Path) -> None:
    register(tracker, tmp_path, 1, promote=True)
    register(tracker, tmp_path, 2, promote=True)
    again = tracker.registry.register(
        tmp_path / "bundle-2", "sentiment", start(tracker), promote=True, tags={"seed": "two"}
    )
    assert (again.version, again.is_champion, again.reused) == ("2", True, True)
    assert len(client.search_model_versions("name = 'sentiment'")) == 2
    assert aliases(client) == {CHALLENGER: "2", CHAMPION: "2", PREVIOUS: "1"}
    assert client.get_model_version("sentiment", "2").tags["seed"] == "two"


def test_a_rerun_does_not_take_the_champion_back(tracker: Tracker, client: MlflowClient, tmp_path: Path) -> None:
    for seed in (1, 2):
        register(tracker, tmp_path, seed, promote=True)
    rerun = partial(
        tracker.registry.register, tmp_path / "bundle-1", "sentiment", start(tracker), promote=True, tags={}
    )
    again = rerun(compared_with="2")  # the gate lets a little worse model pass
    assert (again.version, again.is_champion, again.reused) == ("1", False, True)
    assert again.held_back == "version 1 was champion before, and champion version 2 is no worse"
    assert aliases(client)[CHAMPION] == "2"
    assert rerun(compared_with="2", is_better=True).is_champion
    assert aliases(client)[CHAMPION] == "1"


def test_a_champion_made_by_hand_counts_as_one(tracker: Tracker, client: MlflowClient, tmp_path: Path) -> None:
    register(tracker, tmp_path, 1, promote=False)
    client.set_registered_model_alias("sentiment", CHAMPION, "1")
    register(tracker, tmp_path, 2, promote=True)
    again = tracker.registry.register(
        tmp_path / "bundle-1", "sentiment", start(tracker), promote=True, tags={}, compared_with="2"
    )
    assert again.held_back == "version 1 was champion before, and champion version 2 is no worse"


def test_a_promotion_that_fails_leaves_no_word_of_itself(
    tracker: Tracker, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(tracker, tmp_path, 1, promote=True)
    move = MlflowClient.set_registered_model_alias

    def broken(self: MlflowClient, name: str, alias: str, version: str) -> None:
        if alias == CHAMPION:
            raise MlflowException("the database went away")
        move(self, name, alias, version)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", broken)
        with pytest.raises(TrackingError):
            register(tracker, tmp_path, 2, promote=True)
    again = tracker.registry.register(
        tmp_path / "bundle-2", "sentiment", start(tracker), promote=True, tags={}, compared_with="1"
    )
    assert again.is_champion
    assert again.held_back is None


def test_a_champion_that_the_gate_has_not_seen_stays(tracker: Tracker, client: MlflowClient, tmp_path: Path) -> None:
    for seed in (1, 2):
        register(tracker, tmp_path, seed, promote=True)
    tiny_bundle(tmp_path / "bundle-3", 3)
    for compared_with in (None, "1"):  # version 2 came while a training was under way
        late = tracker.registry.register(
            tmp_path / "bundle-3",
            "sentiment",
            start(tracker),
            promote=True,
            tags={},
            compared_with=compared_with,
            is_better=True,
        )
        assert not late.is_champion
        assert late.held_back == "version 2 has become champion since the gate judged; run again to compare with it"
    assert aliases(client)[CHAMPION] == "2"


def test_a_version_that_was_rolled_back_is_not_promoted_again(
    tracker: Tracker, client: MlflowClient, tmp_path: Path
) -> None:
    register(tracker, tmp_path, 1, promote=True)
    with pytest.raises(ModelError, match="no previous champion"):
        tracker.registry.rollback("sentiment")
    register(tracker, tmp_path, 2, promote=True)
    assert tracker.registry.rollback("sentiment") == ("1", "2")

    again = tracker.registry.register(tmp_path / "bundle-2", "sentiment", start(tracker), promote=True, tags={})
    assert not again.is_champion
    assert again.held_back is not None
    assert "version 2 was rolled back on 20" in again.held_back
    assert aliases(client)[CHAMPION] == "1"

    assert tracker.registry.rollback("sentiment") == ("2", "1")  # whoever takes it back again means it
    again = tracker.registry.register(tmp_path / "bundle-2", "sentiment", start(tracker), promote=True, tags={})
    assert again.is_champion
    assert again.held_back is None


def test_one_command_rolls_back(
    tracker: Tracker, client: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(Rollback, rollback, []) == 1
    assert "error: no model is registered as sentiment" in capsys.readouterr().err
    register(tracker, tmp_path, 1, promote=True)
    register(tracker, tmp_path, 2, promote=True)
    assert run_cli(Rollback, rollback, ["--model-name=sentiment"]) == 0
    assert "champion is version 1 now, previous is version 2" in capsys.readouterr().out
    assert aliases(client) == {CHALLENGER: "2", CHAMPION: "1", PREVIOUS: "2"}


def test_a_model_is_fetched_by_alias_version_or_run(tracker: Tracker, tmp_path: Path) -> None:
    version = register(tracker, tmp_path, 1, promote=True)
    digest = Predictor.load(tmp_path / "bundle-1").digest
    run_id = tracker.find_run("sentiment", "fp-1")
    for number, (uri, expected) in enumerate(
        {
            "models:/sentiment@champion": version,
            "models:/sentiment/1": version,
            f"runs:/{run_id}/sentiment": digest,
        }.items()
    ):
        (tmp_path / str(number)).mkdir()
        folder, named = tracker.registry.fetch_bundle(uri, tmp_path / str(number))
        assert named == expected
        assert Predictor.load(folder).digest == digest


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/sentiment@champion", "no version with the alias champion .*challenger = 1.*train one"),
        ("models:/sentiment/7", "no version 7 .*challenger = 1"),
        ("models:/other@champion", "no model is registered as other at sqlite:.*flows.train"),
        ("runs:/0123456789abcdef0123456789abcdef/sentiment", "cannot fetch runs:.*give models:/NAME@ALIAS"),
        ("nowhere/at/all", "cannot fetch nowhere/at/all.*give models:/NAME@ALIAS"),
        ("s3//typo", "cannot fetch s3//typo.*give models:/NAME@ALIAS"),
    ],
)
def test_a_model_that_does_not_exist(tracker: Tracker, tmp_path: Path, uri: str, message: str) -> None:
    register(tracker, tmp_path, 1, promote=False)
    with pytest.raises(ModelError, match=message) as caught:
        tracker.registry.fetch_bundle(uri, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_model_is_not_registered(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"is not a model: it has no model\.json"):
        tracker.registry.register(tmp_path / "empty", "sentiment", start(tracker), promote=True, tags={})


def test_a_tampered_vocabulary_does_not_fit_the_model(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "one")
    tiny_bundle(tmp_path / "two", words="quite other words , altogether")
    (tmp_path / "two" / VOCABULARY).rename(tmp_path / "one" / VOCABULARY)
    with pytest.raises(ModelError, match=r"vocabulary in .* \(7 tokens\) does not fit the model \(13 tokens\)"):
        Predictor.load(tmp_path / "one")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:9", "MLflow at http://127.0.0.1:9 cannot be reached .*refused.*SENTIMENT_MLFLOW"),
        ("sqlite:////proc/nowhere/mlflow.db", "MLflow at sqlite:.* cannot be reached"),
        ("postgresql://127.0.0.1:9/mlflow", "MLflow at postgresql:.* cannot be reached"),
        ("carrier-pigeon://loft", "MLflow at carrier-pigeon:"),
    ],
)
def test_an_unreachable_server_is_told_within_seconds(
    settings_in: Path, monkeypatch: pytest.MonkeyPatch, uri: str, message: str
) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)  # as a user has it
    started = time.monotonic()
    with pytest.raises(TrackingError, match=message) as caught:
        Tracker(Settings(mlflow_tracking_uri=uri))
    assert time.monotonic() - started < 30
    assert "\n" not in str(caught.value)


def test_a_short_lock_of_the_database_is_waited_for(tracker: Tracker, settings_in: Path) -> None:
    other = sqlite3.connect(settings_in / "mlflow.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(2.0, other.rollback)
    release.start()
    try:
        assert start(tracker)
    finally:
        release.join()
        other.close()


@pytest.mark.slow
def test_a_long_lock_of_the_database_is_told(tracker: Tracker, settings_in: Path) -> None:
    with closing(sqlite3.connect(settings_in / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match="database is locked") as caught:
            start(tracker)
    assert "\n" not in str(caught.value)


def test_requirements_name_releases_without_the_build() -> None:
    requirements = inference_requirements()
    assert all("==" in line and "+" not in line for line in requirements)
    assert any(line.startswith("torch==") for line in requirements)
