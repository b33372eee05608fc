"""Runs the pipeline's servers on this machine: Prefect, MLflow, and a worker that does the runs.

``python -m deploy.serve start`` brings up what is not up yet and gives Prefect the deployments; ``stop`` ends exactly
what ``start`` started. Everything is kept in one folder, by default ``data/store``: the databases, the logs
(``logs/``), and a file for each process (``serve/``).
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.request import Request, urlopen

from pydantic import Field
from pydantic_settings import CliPositionalArg

from deploy.processes import ProcessFolder, StartError
from flows._cli import run_cli
from sentiment_model.config import Config
from sentiment_model.errors import ConfigurationError
from sentiment_model.settings import Settings

ROOT = Path(__file__).parent.parent
_HOST = "127.0.0.1"
_POOL = "sentiment"
_INBOX = ROOT / "data" / "inbox"  # what prefect.yaml scores every hour


class Serve(Config):
    """Start or stop the servers of this machine."""

    action: CliPositionalArg[Literal["start", "stop"]] = Field(description="What to do.")
    state: Path = Field(Path("data/store"), description="Folder of the logs, the process files and Prefect's database.")
    prefect_port: int = Field(4200, ge=1, le=65535, description="Port of the Prefect server.")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="Port of the MLflow server.")


@dataclass(frozen=True)
class _Service:
    """One process: what to run, how to see that it is ready, and where it listens (a worker does not).

    `is_ready` is given the time at which the process started, in seconds since 1970.
    """

    name: str
    command: list[str]
    is_ready: Callable[[float], bool]
    port: int | None = None


def serve(run: Serve) -> None:
    """Start or stop Prefect, MLflow and the worker.

    Raises:
        ConfigurationError: MLflow is set to be elsewhere, or the deployments cannot be made.
        StartError: a port is taken, or a process does not come up.
    """
    state = run.state.absolute()
    prefect, mlflow = f"http://{_HOST}:{run.prefect_port}", f"http://{_HOST}:{run.mlflow_port}"
    services = _services(run, Settings(), prefect, mlflow)
    with ProcessFolder(state / "serve", state / "logs") as processes:
        if run.action == "stop":
            ended = [service.name for service in reversed(services) if processes.stop(service.name)]
            sys.stdout.write(f"Stopped {', '.join(ended)}\n" if ended else "Nothing was running\n")
            return
        environment = os.environ | _environment(state, Settings(), prefect, mlflow)
        _INBOX.mkdir(parents=True, exist_ok=True)
        Path(environment["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
        waiting = [service for service in services if not processes.is_running(service.name, service.command)]
        for service in waiting:
            _check_port(service)
        started: list[str] = []
        try:
            for service in services:
                if service.name == "worker":
                    _apply(environment)
                if service in waiting:
                    processes.start(service.name, service.command, ROOT, environment)
                    started.append(service.name)
                processes.wait(service.name, service.is_ready)
        except BaseException:
            for name in reversed(started):
                processes.stop(name)
            raise
    sys.stdout.write(
        f"Prefect   {prefect}\nMLflow    {mlflow}\nInbox     {_INBOX}, scored every hour\nLogs      {state / 'logs'}\n"
    )


def _services(run: Serve, settings: Settings, prefect: str, mlflow: str) -> list[_Service]:
    """Return the processes in the order in which they start."""
    python = [sys.executable, "-m"]
    server = ["prefect", "server", "start", "--host", _HOST, "--port", str(run.prefect_port)]
    # Runs write artifacts straight to the store, as they do without a server, so either can go on where the other
    # has stopped. One worker process, since each holds hundreds of megabytes.
    tracking = ["mlflow", "server", "--host", _HOST, "--port", str(run.mlflow_port), "--workers", "1"]
    tracking += ["--no-serve-artifacts", "--default-artifact-root", settings.mlflow_artifact_root]
    worker = ["prefect", "worker", "start", "--pool", _POOL, "--type", "process", "--name", "make-serve"]
    return [
        _Service("prefect", python + server, lambda _started: _answers(f"{prefect}/api/health"), run.prefect_port),
        _Service("mlflow", python + tracking, lambda _started: _answers(f"{mlflow}/health"), run.mlflow_port),
        _Service("worker", python + worker, lambda started: _worker_is_online(prefect, started)),
    ]


def _environment(state: Path, settings: Settings, prefect: str, mlflow: str) -> dict[str, str]:
    """Return what all processes are told, and through the worker the runs.

    Raises:
        ConfigurationError: the settings name a server that runs elsewhere.
    """
    if settings.mlflow_tracking_uri.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"SENTIMENT_MLFLOW_TRACKING_URI names the server {settings.mlflow_tracking_uri}, but this starts one of "
            "its own; unset it, or see docs/production.md"
        )
    return {
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_HOME": os.environ.get("PREFECT_HOME", str(state / "prefect")),
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_tracking_uri,  # not among the arguments, which everybody can read
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves the memory of processes that nothing here uses
        "SENTIMENT_STORE_URL": settings.store_url,
        "SENTIMENT_SCRATCH_DIR": str(settings.scratch_dir),
        "SENTIMENT_MLFLOW_TRACKING_URI": mlflow,
        "PYTHONUNBUFFERED": "1",
    }


def _check_port(service: _Service) -> None:
    if service.port is None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that lingers is no obstacle
        try:
            probe.bind((_HOST, service.port))
        except OSError as error:
            variable = f"{service.name.upper()}_PORT"
            raise StartError(
                f"port {service.port} is taken; stop what listens there, or choose another: "
                f"`make serve {variable}={service.port + 1}`"
            ) from error


def _apply(environment: dict[str, str]) -> None:
    # A process of its own: Prefect reads its settings when it is imported.
    command = [sys.executable, "-m", "deploy.apply"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ConfigurationError(done.stderr.strip().removeprefix("error: "))
    sys.stdout.write(done.stdout)


def _worker_is_online(prefect: str, started: float) -> bool:
    """Return whether a worker has spoken to Prefect since this time, in seconds since 1970."""
    workers = json.loads(_request(f"{prefect}/api/work_pools/{_POOL}/workers/filter", b"{}") or b"[]")
    return any(datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() > started for worker in workers)


def _answers(url: str) -> bool:
    return _request(url) is not None


def _request(url: str, body: bytes | None = None) -> bytes | None:
    """Return the answer, or None where there is none."""
    request = Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - http to this machine
    try:
        with urlopen(request, timeout=5) as answer:  # noqa: S310
            return bytes(answer.read())
    except OSError:
        return None


def main() -> int:
    """Run from the command line."""
    return run_cli(Serve, serve)


if __name__ == "__main__":
    sys.exit(main())
