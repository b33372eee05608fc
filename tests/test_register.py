"""From an evaluated model to a version in the registry, as the training flow does it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from mlflow import MlflowClient
from prefect import flow
from servers import newest_artifact
from tiny import epoch_metrics, tiny_bundle

from flows.train import _rival
from sentiment_model.classes import BINARY, Classes
from sentiment_model.config import EvaluateConfig, GateConfig
from sentiment_model.evaluation.baseline import BASELINE
from sentiment_model.evaluation.evaluate import ChampionModel
from sentiment_model.evaluation.job import EVALUATE, read_evaluation, reviews_of, write_evaluation
from sentiment_model.models.bundle import DESCRIPTION, VOCABULARY, WEIGHTS, ModelDescription
from sentiment_model.registry.git import git_commit
from sentiment_model.registry.tracking import Tracker
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import Dataset, DatasetRef, DatasetWriter, Store, open_dataset
from sentiment_model.store.lineage import StageRecord
from sentiment_model.text.clean import CLEAN
from sentiment_model.training.job import HISTORY, TRAIN
from tasks.evaluate import evaluate
from tasks.register import Registration, register

LINEAGE = [StageRecord(name="tokenize", fingerprint="f" * 20, parameters={}, counts={})]
LENIENT = GateConfig(baseline_margin=-1.0, champion_confidence=0.0, min_rows=1, min_groups=2, majority_confidence=0.0)
PASS, FAIL = LENIENT, LENIENT.model_copy(update={"baseline_margin": 1.0})


def trained(store: Store, seed: int, classes: Classes = BINARY) -> Dataset:
    """A model as the train stage leaves it."""

    def write(writer: DatasetWriter) -> dict[str, Any]:
        tiny_bundle(writer.folder, seed, classes=classes)
        for name in (WEIGHTS, VOCABULARY, DESCRIPTION):
            writer.file(name, role="model")
        history = [asdict(epoch_metrics(0))]
        writer.file(HISTORY, role="history").write_text(json.dumps(history))
        return {}

    return store.materialise(TRAIN, {}, {"seed": seed, "classes": classes.names}, write)[0]


def evaluated(
    store: Store, model: Dataset, gate: GateConfig, rival: Dataset | None = None, classes: Classes = BINARY
) -> Dataset:
    """Its evaluation on a few reviews, perhaps beside version 1."""
    rows = 40
    cleaned = pl.LazyFrame(
        {
            "review_id": [f"r{i}" for i in range(rows)],
            "text": [f"a good film , not {'bad ' * (i % 7)}" for i in range(rows)],
            "label": [i % len(classes) for i in range(rows)],
            "group": pl.Series([None] * rows, dtype=pl.String),
            "source": ["sparse" if i in (22, 24) else "rotten_tomatoes" if i % 5 == 0 else "imdb" for i in range(rows)],
            "split": ["validation" if i < 10 else "test" for i in range(rows)],
            "text_hash": [f"{i:032x}" for i in range(rows)],
        },
        schema_overrides={"label": pl.Int8},
    )
    always_the_first = pl.concat_arr(*([pl.lit(0.6)] + [pl.lit(0.4 / (len(classes) - 1))] * (len(classes) - 1)))
    baseline = cleaned.select("text_hash", probabilities=always_the_first)

    def write(writer: DatasetWriter) -> dict[str, Any]:
        with model.local_folder() as folder:
            config = EvaluateConfig(bootstrap_samples=100, separate_sources=("rotten_tomatoes", "sparse"))
            device = torch.device("cpu")
            champion = None
            if rival:
                bundle = Path(rival.url, rival.manifest.files[0].path).parent
                champion = ChampionModel(version="1", digest=ModelDescription.read(bundle).digest, bundle=bundle)
            seen = pl.LazyFrame({"text": ["an awful film"], "split": ["train"]})
            return write_evaluation(writer, folder, LINEAGE, cleaned, baseline, champion, seen, config, gate, device)

    inputs = {"train": model.ref.fingerprint, "clean": "c" * 20} | ({"rival": rival.ref.fingerprint} if rival else {})
    return store.materialise(EVALUATE, inputs, gate.model_dump(mode="json"), write)[0]


@flow(name="register only")
def run_register(model: Dataset, evaluation: Dataset) -> Registration:
    tracker = Tracker(Settings())
    run_id = tracker.start_run("sentiment", model.ref.fingerprint, name="test", params={}, tags={}).run_id
    return register(model.ref, evaluation.ref, "sentiment", run_id, tracker)


@pytest.fixture
def store(settings_in: Path, prefect_server: None) -> Store:
    return Store(Settings().store_url)


@pytest.fixture
def client(store: Store) -> MlflowClient:
    return MlflowClient(Settings().mlflow_tracking_uri)


def aliases(client: MlflowClient) -> dict[str, str]:
    return {name: str(version) for name, version in client.get_registered_model("sentiment").aliases.items()}


def test_a_model_that_passes_becomes_champion_with_its_record(store: Store, client: MlflowClient) -> None:
    model = trained(store, 1)
    done = run_register(model, evaluated(store, model, PASS))
    assert (done.version, done.promoted, done.reused) == ("1", True, False)
    assert done.reason.startswith("Promoted: 22 test reviews")
    assert aliases(client) == {"challenger": "1", "champion": "1"}

    assert client.get_model_version("sentiment", "1").description.startswith("# sentiment version 1\n")
    client.update_model_version("sentiment", "1", "a person's own words")
    run_register(model, evaluated(store, model, PASS))
    assert client.get_model_version("sentiment", "1").description == "a person's own words"

    tags = client.get_model_version("sentiment", "1").tags
    with model.local_folder() as folder:
        assert tags["bundle_digest"] == ModelDescription.read(folder).digest
    assert tags["git_commit"] == (git_commit() or "unknown")
    assert tags["data.train"] == model.ref.fingerprint
    assert tags["data.tokenize"] == "f" * 20
    assert tags["gate"] == "passed"
    assert tags["gate.baseline"].startswith("passed: macro-F1")
    run = client.get_run(done.run_id)
    assert float(tags["metric.test_accuracy"]) == pytest.approx(run.data.metrics["test_accuracy"], rel=1e-5)
    assert {"test_rotten_tomatoes_accuracy", "test_sparse_accuracy"} <= run.data.metrics.keys()
    assert "test_sparse_roc_auc" not in run.data.metrics  # reviews of one class have none
    artifacts = {Path(file.path).name for file in client.list_artifacts(done.run_id, "evaluation")}
    assert {"report.html", "evaluation.json", "gate.json", "predictions.parquet"} <= artifacts


def test_a_model_that_fails_stays_challenger_and_says_why(store: Store, client: MlflowClient) -> None:
    first, second = trained(store, 1), trained(store, 2)
    run_register(first, evaluated(store, first, PASS))
    done = run_register(second, evaluated(store, second, FAIL))
    assert (done.version, done.promoted) == ("2", False)
    assert done.reason.startswith("Not promoted: macro-F1")
    assert aliases(client) == {"challenger": "2", "champion": "1"}
    tags = client.get_model_version("sentiment", "2").tags
    assert tags["gate"] == "failed"
    assert tags["gate.baseline"].startswith("failed: macro-F1")

    again = run_register(second, evaluated(store, second, PASS, first))  # judged anew under another gate
    assert (again.version, again.promoted, again.reused) == ("2", True, True)
    assert aliases(client) == {"challenger": "2", "champion": "2", "previous": "1"}
    assert client.get_model_version("sentiment", "2").tags["gate"] == "passed"


def test_what_a_person_rolled_back_stays_back(store: Store, client: MlflowClient) -> None:
    first, second = trained(store, 1), trained(store, 2)
    run_register(first, evaluated(store, first, PASS))
    run_register(second, evaluated(store, second, PASS, first))
    Tracker(Settings()).registry.rollback("sentiment")
    done = run_register(second, evaluated(store, second, PASS, first))
    assert not done.promoted
    assert done.reason.startswith("Not promoted: version 2 was rolled back on")
    assert aliases(client)["champion"] == "1"
    assert str(newest_artifact("registration").data).startswith(
        "# sentiment version 2 is challenger\n\nNot promoted: version 2 was rolled back"
    )


def test_a_champion_that_fails_a_stricter_gate_stays_champion(store: Store, client: MlflowClient) -> None:
    model = trained(store, 1)
    run_register(model, evaluated(store, model, PASS))
    again = run_register(model, evaluated(store, model, FAIL))
    assert (again.version, again.promoted) == ("1", True)
    assert again.reason.startswith("It stays champion, which the gate would not make it now. Not promoted: macro-F1")
    assert aliases(client) == {"challenger": "1", "champion": "1"}
    told = str(newest_artifact("registration").data)
    assert told.startswith("# sentiment version 1 is champion\n\nIt stays champion")


NASTY = Classes(names=("so <b>so</b> | $1$", "../../etc", "很好"))


def test_names_of_classes_are_safe_in_mlflow(store: Store, client: MlflowClient) -> None:
    model = trained(store, 1, NASTY)
    done = run_register(model, evaluated(store, model, PASS, classes=NASTY))
    assert done.promoted
    logged = client.get_run(done.run_id).data.metrics
    assert {"test_accuracy", "test_recall_so_b_so_b_1", "test_recall_etc", "test_f1_很好"} <= logged.keys()
    tags = client.get_model_version("sentiment", "1").tags
    assert "metric.test_balanced_accuracy" in tags
    assert not [
        name for name in tags if name.startswith(("metric.test_recall", "metric.test_precision", "metric.test_f1"))
    ]


def test_a_champion_of_other_classes_stays_until_a_person_takes_the_alias_away(
    store: Store, client: MlflowClient, tmp_path: Path
) -> None:
    first, second = trained(store, 1), trained(store, 2, NASTY)
    run_register(first, evaluated(store, first, PASS))
    tracker = Tracker(Settings())

    def rival(model: Dataset, name: str) -> ChampionModel | None:
        (folder := tmp_path / name).mkdir()
        return _rival(tracker, "sentiment", model.ref, folder)

    found = rival(second, "before")
    assert found is not None
    assert found.version == "1"
    done = run_register(second, evaluated(store, second, PASS, first, NASTY))
    assert not done.promoted
    assert done.reason.startswith("Not promoted: champion version 1 tells apart negative, positive, this model ")
    assert done.reason.endswith(
        "train it under another model_name, or take the alias champion from that version and run again."
    )
    assert aliases(client) == {"challenger": "2", "champion": "1"}
    tags = client.get_model_version("sentiment", "2").tags
    assert tags["gate.champion"].startswith("failed: champion version 1 tells apart negative, positive, this model")
    told = str(newest_artifact("registration").data)
    assert "<b>" not in told
    assert "version 2 is challenger" in told

    client.delete_registered_model_alias("sentiment", "champion")
    assert rival(second, "alone") is None
    again = run_register(second, evaluated(store, second, PASS, classes=NASTY))
    assert (again.version, again.promoted, again.reused) == ("2", True, True)
    # A later night of the same model finds only a previous champion of other classes, which is no rival.
    client.set_registered_model_alias("sentiment", "previous", "1")
    assert rival(second, "after") is None
    assert rival(trained(store, 3, NASTY), "next") is not None


def made_from(bundle: Path, trained_on: dict[str, str]) -> ChampionModel:
    """A champion that names what it was trained on."""
    digest = tiny_bundle(bundle, seed=9).digest
    path = bundle / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trained_on": trained_on}))
    return ChampionModel(version="9", digest=digest, bundle=bundle)


def cleaned_reviews(store: Store, salt: str) -> Dataset:
    """Cleaned reviews, split otherwise for each salt."""

    def write(writer: DatasetWriter) -> dict[str, Any]:
        rows = 300
        pl.DataFrame(
            {
                "review_id": [f"r{i}" for i in range(rows)],
                "text": [f"a {salt if i % 2 else 'common'} film , good {'bad ' * i}" for i in range(rows)],
                "label": pl.Series([i % 2 for i in range(rows)], dtype=pl.Int8),
                "source": "imdb",
                "group": pl.Series([None] * rows, dtype=pl.String),
                "split": [["test", "train", "validation", "unlabelled"][i // 2 % 4] for i in range(rows)],
                "text_hash": [f"{i:032x}" for i in range(rows)],
            }
        ).write_parquet(writer.file("part.parquet"))
        return {}

    return store.materialise(CLEAN, {}, {"salt": salt}, write)[0]


def test_the_reviews_that_a_champion_was_made_from_are_found(store: Store, tmp_path: Path) -> None:
    reviews = cleaned_reviews(store, "a")
    champion = made_from(tmp_path, {"clean": reviews.ref.fingerprint})
    found = reviews_of(champion, store)
    assert found is not None
    assert found.ref == reviews.ref
    Path(reviews.url, "_manifest.json").unlink()
    assert reviews_of(champion, store) is None
    assert reviews_of(made_from(tmp_path, {"tokenize": "0" * 20}), store) is None  # it does not name them


@flow(name="evaluate only")
def run_evaluate(model: Dataset, cleaned: Dataset, baseline: Dataset, champion: ChampionModel) -> DatasetRef:
    gate = GateConfig(min_rows=1)
    config = EvaluateConfig(bootstrap_samples=100, separate_sources=())
    return evaluate(model.ref, cleaned.ref, baseline.ref, champion, config, gate, run_url=None)


def test_reviews_of_the_champion_that_come_back_are_asked_again(store: Store, tmp_path: Path) -> None:
    old, new = cleaned_reviews(store, "a"), cleaned_reviews(store, "b")

    def write(writer: DatasetWriter) -> dict[str, Any]:
        answers = new.scan().select("text_hash", probabilities=pl.concat_arr(pl.lit(0.6), pl.lit(0.4))).collect()
        answers.write_parquet(writer.file("part.parquet"))
        return {}

    baseline = store.materialise(BASELINE, {}, {}, write)[0]
    champion = made_from(tmp_path, {"clean": old.ref.fingerprint})

    def seen() -> int | None:
        made = run_evaluate(trained(store, 1), new, baseline, champion)
        found, _ = read_evaluation(open_dataset(made))
        assert found.champion is not None
        return found.champion.seen

    manifest = Path(old.url, "_manifest.json")
    manifest.rename(away := tmp_path / "manifest")
    assert seen() is None
    away.rename(manifest)
    assert seen() == 0  # both were split alike
