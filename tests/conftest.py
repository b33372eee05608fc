"""Shared fixtures: nothing in a test touches the user's Prefect or MLflow, or reaches the network."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as hypothesis_settings

# How long an example takes says nothing on a busy machine.
hypothesis_settings.register_profile("sentiment", deadline=None)
hypothesis_settings.load_profile("sentiment")

if TYPE_CHECKING:
    from sentiment_model.models.bundle import Predictor

# Prefect reads its settings when it is imported, so they are set before any test module imports it.
_prefect_home = tempfile.mkdtemp(prefix="sentiment-tests-")
os.environ["PREFECT_HOME"] = _prefect_home
# Tests train tiny networks; a second thread gains nothing there, and waits for its turn on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
# Some tests deploy the flows for real. Their schedules must not start runs of their own, whatever the time of day.
os.environ["PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED"] = "false"
os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"
os.environ["DO_NOT_TRACK"] = "true"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
os.environ.pop("PREFECT_API_URL", None)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary Prefect server with its own database, shared by the tests of a session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes seconds, copying it does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def settings_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_database: Path) -> Path:
    """Point every setting of the pipeline into a temporary folder, and return the folder."""
    shutil.copyfile(mlflow_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("SENTIMENT_STORE_URL", str(tmp_path / "store"))
    monkeypatch.setenv("SENTIMENT_SCRATCH_DIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("SENTIMENT_MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("SENTIMENT_MLFLOW_ARTIFACT_ROOT", str(tmp_path / "artifacts"))
    monkeypatch.setenv("SENTIMENT_DEVICE", "cpu")
    return tmp_path


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> "Predictor":
    """A tiny model, loaded."""
    from tiny import tiny_bundle

    from sentiment_model.models.bundle import Predictor

    folder = tmp_path_factory.mktemp("bundle")
    tiny_bundle(folder)
    return Predictor.load(folder)
