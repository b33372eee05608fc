"""A real MLflow server that asks for a name and a password."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import answers, background, free_port
from tiny import tiny_bundle

from sentiment_model.errors import TrackingError
from sentiment_model.registry.tracking import Tracker
from sentiment_model.settings import Settings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow-auth")
    users = folder / "users.ini"
    users.write_text(f"[mlflow]\ndatabase_uri = sqlite:///{folder / 'users.db'}\ndefault_permission = READ\n")
    (folder / "mlflow.db").write_bytes(mlflow_database.read_bytes())
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(users),
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "a-long-password",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "static",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with background("mlflow", command, environment, folder, lambda: answers(f"{url}/health")):
        yield url


@pytest.fixture
def settings(server: str, settings_in: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("SENTIMENT_MLFLOW_TRACKING_URI", server)
    return Settings()


@pytest.mark.parametrize("password", [None, "wrong"])
def test_the_unauthenticated_are_refused_in_one_line(
    settings: Settings, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if password:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_USERNAME") as refused:
        Tracker(settings)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_with_a_password_models_are_registered_and_fetched(
    settings: Settings, settings_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-long-password")
    digest = tiny_bundle(settings_in / "bundle").digest
    tracker = Tracker(settings)
    run_id = tracker.start_run("sentiment", "fp", name="test", params={}, tags={}).run_id
    tracker.registry.register(settings_in / "bundle", "sentiment", run_id, promote=True, tags={})
    (settings_in / "fetched").mkdir()
    assert tracker.registry.fetch_bundle("models:/sentiment@champion", settings_in / "fetched")[1] == "1"
    assert tracker.registry.rival("sentiment", digest, settings_in) is None
