"""The registered model answers through plain `mlflow models predict`, in a process without this project."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import mlflow
import pandas as pd
import polars as pl
import pytest
from mlflow.models import Model
from tiny import tiny_bundle

from sentiment_model.classes import BINARY, Classes
from sentiment_model.models.bundle import Predictor
from sentiment_model.registry.tracking import Tracker
from sentiment_model.registry.versions import inference_requirements
from sentiment_model.settings import Settings

TEXTS = ["A good film, <br />great!", "awful , not that good", "“bad” film"]

# Python runs this at its start, after the editable install has put its finder in place.
_HIDE_THE_PROJECT = """
import importlib.util, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
if importlib.util.find_spec("sentiment_model"):
    sys.exit("sentiment_model is still there")
"""


@pytest.fixture
def predictor(settings_in: Path) -> Predictor:
    """Register a tiny model as champion."""
    return register(settings_in, BINARY)


def register(folder: Path, classes: Classes) -> Predictor:
    """Register a tiny model as champion; return it."""
    tiny_bundle(folder / "bundle", classes=classes)
    tracker = Tracker(Settings())
    run_id = tracker.start_run("sentiment", "fp", name="test", params={}, tags={}).run_id
    tracker.registry.register(folder / "bundle", "sentiment", run_id, promote=True, tags={})
    return Predictor.load(folder / "bundle")


def expected(predictor: Predictor) -> list[tuple[str, float]]:
    probabilities = predictor.predict(pl.Series(TEXTS))["probabilities"].arr.last().to_list()
    return [("positive" if p >= 0.5 else "negative", pytest.approx(p, abs=1e-6)) for p in probabilities]


def predict(folder: Path, name: str, content: str) -> list[dict[str, object]]:
    """Run `mlflow models predict` elsewhere, with this project hidden from the interpreter."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / name).write_text(content)
    (elsewhere / "sitecustomize.py").write_text(_HIDE_THE_PROJECT)
    command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", "models:/sentiment@champion"]
    command += ["-i", name, "-t", name.rpartition(".")[2], "--env-manager", "local"]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": Settings().mlflow_tracking_uri,
        "PYTHONPATH": str(elsewhere),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1], parse_constant=lambda word: pytest.fail(f"{word} in JSON"))
    return answer["predictions"]


def test_csv_through_mlflow_models_predict(settings_in: Path, predictor: Predictor) -> None:
    table = pl.DataFrame({"text": TEXTS, "id": [1, 2, 3]}).write_csv()
    answers = predict(settings_in, "in.csv", table)
    assert [(row["label"], row["probability"]) for row in answers] == expected(predictor)
    assert {row["model_version"] for row in answers} == {"1"}


def test_json_with_missing_texts_through_mlflow_models_predict(settings_in: Path, predictor: Predictor) -> None:
    records = [{"text": text} for text in [*TEXTS, None, "", "  \u200b<br>"]]
    answers = predict(settings_in, "in.json", json.dumps({"dataframe_records": records}))
    assert [(row["label"], row["probability"]) for row in answers] == [
        *expected(predictor),
        *[(None, None)] * 3,
    ]


def test_three_classes_through_mlflow_models_predict(settings_in: Path) -> None:
    names = ("sehr schlecht", "보통", '<b>"gut"|</b>')
    predictor = register(settings_in, Classes(names=names))
    columns = ["label", "confidence", *(f"probability_{name}" for name in names)]
    signature = Model.load(mlflow.artifacts.download_artifacts("models:/sentiment/1")).signature
    assert [(field["name"], field["type"], field["required"]) for field in signature.outputs.to_dict()] == [
        ("label", "string", False),
        *((name, "double", False) for name in columns[1:]),
        ("model_version", "string", True),
    ]

    records = [{"text": text} for text in [*TEXTS, None, "  \u200b<br>"]]
    answers = predict(settings_in, "in.json", json.dumps({"dataframe_records": records}))
    assert [list(row) for row in answers] == [[*columns, "model_version"]] * 5
    probabilities = predictor.predict(pl.Series(TEXTS))["probabilities"].to_numpy()
    for row, of_classes in zip(answers, probabilities, strict=False):
        assert row["label"] == names[of_classes.argmax()]
        assert [row[name] for name in columns[1:]] == pytest.approx([of_classes.max(), *of_classes], abs=1e-6)
    for row in answers[3:]:
        assert row == {**dict.fromkeys(columns), "model_version": "1"}

    loaded = mlflow.pyfunc.load_model("models:/sentiment/1").predict(pd.DataFrame({"text": TEXTS}))
    assert list(loaded.dtypes[columns[1:]]) == ["float64"] * 4


def test_a_model_loaded_by_run_names_its_digest_as_version(settings_in: Path, predictor: Predictor) -> None:
    tracker = Tracker(Settings())
    model = mlflow.pyfunc.load_model(f"runs:/{tracker.find_run('sentiment', 'fp')}/sentiment")
    answers = model.predict(pd.DataFrame({"text": TEXTS}))
    assert list(zip(answers["label"], answers["probability"], strict=True)) == expected(predictor)
    assert set(answers["model_version"]) == {predictor.digest}


def test_what_is_logged_with_the_model(settings_in: Path, predictor: Predictor) -> None:
    folder = Path(mlflow.artifacts.download_artifacts("models:/sentiment/1", dst_path=str(settings_in)))
    model = Model.load(folder)
    assert model.signature.inputs.to_dict() == [{"type": "string", "name": "text", "required": True}]
    assert [(field["name"], field["type"]) for field in model.signature.outputs.to_dict()] == [
        ("label", "string"),
        ("probability", "double"),
        ("model_version", "string"),
    ]
    assert list(model.load_input_example(str(folder))) == ["text"]
    assert (folder / "requirements.txt").read_text().splitlines() == inference_requirements()
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "pyfunc_model.py",
        "code/sentiment_model/models/bundle.py",
        "artifacts/bundle/weights.safetensors",
    } <= files
    assert not {path for path in files if path.endswith((".pkl", ".pickle", ".pt", ".pyc"))}


def test_the_requirements_are_what_the_model_imports() -> None:
    rooms = ("models.bundle", "networks.fused", "text.scanner")  # the last two when a predictor first answers
    imports = ", ".join(f"sentiment_model.{room}" for room in rooms)
    script = f"import sys, json, {imports}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in json.loads(done.stdout)}
    distributions = packages_distributions()
    loaded = {name for module in modules for name in distributions.get(module, [])}
    declared = {re.split(r"[^\w-]", line)[0] for line in requires("sentiment-pipeline") or [] if "extra" not in line}
    pinned = {line.partition("==")[0] for line in inference_requirements()}
    # The script that MLflow runs needs MLflow and the data frames that it speaks. Numba takes SciPy along where it is.
    assert pinned == (loaded & declared) - {"scipy"} | {"mlflow", "pandas"}
