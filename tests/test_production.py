"""The production set-up as `deploy/` describes it: PostgreSQL, passwords, an object store, a worker for each queue."""

import configparser
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from mlflow import MlflowClient
from obstore.store import from_url
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from servers import ROOT, answers, background, free_port, object_store, wait_for
from tiny import tiny_reviews, tiny_training

from sentiment_model.errors import TrackingError
from sentiment_model.registry.tracking import Tracker
from sentiment_model.settings import Settings

UNITS = ROOT / "deploy" / "systemd"
AUTH = ("sentiment", "change-me-prefect")


def environment_file(name: str) -> dict[str, str]:
    lines = (ROOT / "deploy" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def unit(name: str, instance: str = "") -> list[str]:
    """Return a unit's command, in the environment of the tests instead of /opt."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNITS / name)
    service = parser["Service"]
    assert Path(service["EnvironmentFile"]).name in {"servers.env", "worker.env"}
    program, *arguments = shlex.split(service["ExecStart"].replace("%i", instance))
    return [str(Path(sys.executable).parent / Path(program).name), *arguments]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("name", ["sentiment-prefect", "sentiment-mlflow", "sentiment-worker@gpu"])
def test_systemd_takes_the_units(name: str, tmp_path: Path) -> None:
    template, at, _ = name.partition("@")
    text = (UNITS / f"{template}{at}.service").read_text()
    here = text.replace("/opt/sentiment-pipeline/.venv/bin", str(Path(sys.executable).parent))
    assert here != text
    (tmp_path / f"{name}.service").write_text(here)
    verify = ["systemd-analyze", "--man=no", "verify", str(tmp_path / f"{name}.service")]
    verified = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")  # what it does not know it only tells


def postgresql_program(name: str) -> str:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")) or [Path(shutil.which(name) or "")]
    if not installed[-1].name:
        pytest.skip("PostgreSQL is not installed; .ci/postgresql installs it")
    return str(installed[-1])


@contextmanager
def postgresql(user: str, password: str, databases: list[str]) -> Iterator[int]:
    """Run a PostgreSQL server with these empty databases; yield its port."""
    initdb, pg_ctl, createdb = (postgresql_program(name) for name in ("initdb", "pg_ctl", "createdb"))
    folder = Path(tempfile.mkdtemp(prefix="sentiment-postgresql-"))
    as_owner: list[str] = []
    if os.getuid() == 0:  # which PostgreSQL refuses to run as
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_owner = ["runuser", "-u", "postgres", "--"]
    (folder / "password").write_text(password)
    (folder / "password").chmod(0o644)
    port = free_port()

    def run(*command: str) -> None:
        environment = os.environ | {"PGPASSWORD": password}
        done = subprocess.run(
            [*as_owner, *command],
            cwd="/",
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()

    data = str(folder / "data")
    try:
        run(initdb, "-D", data, "-U", user, f"--pwfile={folder / 'password'}", "--auth=scram-sha-256")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run(pg_ctl, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "-t", "60", "start")
        try:
            for database in databases:
                run(createdb, "-h", "127.0.0.1", "-p", str(port), "-U", user, database)
            yield port
        finally:
            run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def finish(client: SyncPrefectClient, deployment: str, run: dict[str, Any]) -> FlowRun:
    found = client.read_deployment_by_name(deployment)
    run_id: UUID = client.create_flow_run_from_deployment(found.id, parameters={"run": run}).id

    def final() -> FlowRun | None:
        run = client.read_flow_run(run_id)
        return run if run.state and run.state.is_final() else None

    return wait_for(final, f"the end of {deployment}", 300)


@pytest.mark.slow
def test_the_production_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers, worker = environment_file("servers.env.example"), environment_file("worker.env.example")
    secrets = {value.rpartition(":")[2] for value in servers.values() if "change-me" in value and "://" not in value}
    assert len(secrets) == 6
    reviews = tiny_reviews(tmp_path / "reviews.csv")
    prefect_port, mlflow_port = free_port(), free_port()
    prefect, mlflow = f"http://127.0.0.1:{prefect_port}", f"http://127.0.0.1:{mlflow_port}"
    with ExitStack() as stack:
        port = stack.enter_context(
            postgresql(servers["PGUSER"], servers["PGPASSWORD"], ["prefect", "mlflow", "mlflow_auth"])
        )
        keys = {name: servers[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        objects = stack.enter_context(object_store()) | keys
        database = servers["PREFECT_SERVER_DATABASE_CONNECTION_URL"].replace("db.example.com:5432", f"127.0.0.1:{port}")
        kept = ("PATH", "HOME", "OMP_NUM_THREADS", "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED")
        inherited = {name: os.environ[name] for name in kept} | {"PYTHONPATH": str(ROOT)}
        here = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_LOGGING_LEVEL": "DEBUG"}
        for_servers = inherited | servers | objects | here
        for_servers |= {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
        for_servers |= {"PREFECT_SERVER_API_PORT": str(prefect_port), "MLFLOW_PORT": str(mlflow_port)}
        for_servers |= {"MLFLOW_AUTH_CONFIG_PATH": str(ROOT / "deploy" / "mlflow-auth.ini"), "MLFLOW_WORKERS": "1"}
        del for_servers["MLFLOW_SERVER_ALLOWED_HOSTS"], for_servers["PREFECT_UI_API_URL"]
        for_worker = inherited | worker | objects | here
        for_worker |= {"PREFECT_API_URL": f"{prefect}/api", "SENTIMENT_MLFLOW_TRACKING_URI": mlflow}
        for_worker |= {"SENTIMENT_SCRATCH_DIR": str(tmp_path / "scratch"), "SENTIMENT_DEVICE": "cpu"}

        def run(name: str, unit_name: str, environment: dict[str, str], url: str | None, instance: str = "") -> Path:
            is_ready = (lambda: answers(url)) if url else (lambda: True)
            return stack.enter_context(background(name, unit(unit_name, instance), environment, tmp_path, is_ready))

        logs = [
            run("prefect", "sentiment-prefect.service", for_servers, f"{prefect}/api/health"),
            run("mlflow", "sentiment-mlflow.service", for_servers, f"{mlflow}/health"),
        ]
        apply = [sys.executable, "-m", "deploy.apply"]
        applied = subprocess.run(apply, cwd=ROOT, env=for_worker, capture_output=True, text=True, check=False)
        assert applied.returncode == 0, applied.stderr
        logs += [
            run(f"worker-{queue}", "sentiment-worker@.service", for_worker, None, queue) for queue in ("gpu", "default")
        ]

        # Nobody gets in without a password.
        anonymous = httpx.post(f"{prefect}/api/deployments/filter", json={})
        assert anonymous.status_code == 401
        monkeypatch.setenv("SENTIMENT_MLFLOW_TRACKING_URI", mlflow)
        with pytest.raises(TrackingError, match="MLFLOW_TRACKING_USERNAME"):
            Tracker(Settings())

        client = stack.enter_context(SyncPrefectClient(f"{prefect}/api", auth_string=":".join(AUTH)))
        for deployment, parameters in {
            "train/ad-hoc-training": tiny_training(reviews),
            "score/ad-hoc-scoring": {"files": {"path": str(reviews)}},
        }.items():
            found = finish(client, deployment, parameters)
            told = "\n".join(f"{log.name}\n{log.read_text()[-4000:]}" for log in logs)
            assert found.state is not None
            assert found.state.is_completed(), f"{found.state.message}\n{told}"

        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", worker["MLFLOW_TRACKING_USERNAME"])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", worker["MLFLOW_TRACKING_PASSWORD"])
        version = MlflowClient(mlflow).get_model_version_by_alias("sentiment", "champion")
        trained = MlflowClient(mlflow).get_run(str(version.run_id))
        assert trained.info.artifact_uri.startswith("mlflow-artifacts:/")

        for name, value in objects.items():
            monkeypatch.setenv(name, value)
        kept = [entry["path"] for page in from_url("s3://sentiment").list() for entry in page]
        for prefix in ("store/train/", "store/scores/scores/", "mlflow/"):
            assert any(path.startswith(prefix) for path in kept), prefix

        # What people and other programs read names no secret.
        shown = "\n".join(
            [
                *(record.message for record in client.read_logs(limit=200)),
                *(f"{found.parameters} {found.job_variables}" for found in client.read_flow_runs()),
                *(f"{artifact.data}" for artifact in client.read_artifacts()),
                str(trained.data.params),
                str(trained.data.tags),
                *(log.read_text() for log in logs),
            ]
        )
        assert not {secret for secret in secrets if secret in shown}
    assert not (tmp_path / "prefect" / "prefect.db").exists()
