"""`make serve` and `make stop` for real: the servers, the runs of the worker, and what happens when one dies."""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import polars as pl
import psutil
import pytest
from mlflow import MlflowClient
from prefect.automations import AutomationCore, EventTrigger, Posture, RunDeployment
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, Log
from servers import free_port, wait_for, webhook
from tiny import REVIEWS, tiny_reviews, tiny_training

from deploy.processes import ProcessFolder, StartError
from flows._cli import run_cli

ROOT = Path(__file__).parent.parent
SERVICES = ("prefect", "mlflow", "worker")
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[ProcessFolder]:
    with ProcessFolder(tmp_path / "serve", tmp_path / "logs") as folder:
        yield folder
        folder.stop("sleeper")


def start(processes: ProcessFolder, tmp_path: Path) -> psutil.Process:
    processes.start("sleeper", SLEEP, tmp_path, os.environ)
    return psutil.Process(json.loads((tmp_path / "serve" / "sleeper.json").read_text())["pid"])


def test_a_process_is_found_again_and_stopped(processes: ProcessFolder, tmp_path: Path) -> None:
    process = start(processes, tmp_path)
    assert processes.is_running("sleeper", SLEEP)
    with pytest.raises(StartError, match="sleeper runs already, with other options"):
        processes.is_running("sleeper", ["sleep", "60"])
    assert processes.stop("sleeper")
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert not processes.stop("sleeper")


def test_a_stranger_with_the_same_id_is_left_alone(processes: ProcessFolder, tmp_path: Path) -> None:
    process = start(processes, tmp_path)
    file = tmp_path / "serve" / "sleeper.json"
    ours = file.read_text()
    file.write_text(json.dumps(json.loads(ours) | {"command": ["python", "-m", "ended", "long", "ago"]}))
    assert not processes.is_running("sleeper", SLEEP)
    assert not processes.stop("sleeper")
    assert process.is_running()
    file.write_text(ours)


PARENT = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
signal.signal(signal.SIGTERM, lambda *_: (child.kill(), sys.exit()))
child.wait()
"""
CHILD = """
import pathlib, signal, sys, time
def end(*_):
    time.sleep(0.5)
    pathlib.Path("told").touch()
    sys.exit()
signal.signal(signal.SIGTERM, end)
pathlib.Path("ready").touch()
time.sleep(60)
"""


def test_what_a_process_started_can_say_that_it_was_ended(processes: ProcessFolder, tmp_path: Path) -> None:
    processes.start("sleeper", [sys.executable, "-c", PARENT, CHILD], tmp_path, os.environ)
    wait_for((tmp_path / "ready").exists, "the child")
    assert processes.stop("sleeper")
    assert (tmp_path / "told").exists()


def test_what_ends_at_once_is_told(processes: ProcessFolder, tmp_path: Path) -> None:
    processes.start("sleeper", [sys.executable, "-c", "raise SystemExit('no')"], tmp_path, os.environ)
    with pytest.raises(StartError, match=r"sleeper ended while it started; its log is .*sleeper\.log"):
        processes.wait("sleeper", lambda _started: False)
    assert "no" in (tmp_path / "logs" / "sleeper.log").read_text()


def test_a_second_command_at_the_same_time_is_refused(processes: ProcessFolder, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="wait for it"), ProcessFolder(tmp_path / "serve", tmp_path / "logs"):
        pass


def test_a_taken_port_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from deploy.serve import Serve, serve

    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        arguments = ["start", f"--state={tmp_path}", f"--prefect-port={port}", f"--mlflow-port={free_port()}"]
        assert run_cli(Serve, serve, arguments) == 1
    assert f"port {port} is taken" in capsys.readouterr().err
    assert not list((tmp_path / "serve").glob("*.json"))


@dataclass(frozen=True)
class Served:
    """What `make serve` brought up."""

    state: Path
    environment: dict[str, str]
    ports: list[str]
    prefect: str
    mlflow: str
    messages: list[str]
    reviews: Path

    def make(self, target: str, *more: str) -> str:
        """Run make without touching the virtual environment, and return what it printed."""
        command = ["make", "--old-file=.venv/runtime", target, f"BIN={Path(sys.executable).parent}"]
        done = subprocess.run(
            [*command, f"STATE={self.state}", *self.ports, *more],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def logs(self) -> str:
        return "\n".join(f"{path.name}\n{path.read_text()[-3000:]}" for path in (self.state / "logs").glob("*.log"))

    def process(self, name: str) -> psutil.Process:
        return psutil.Process(json.loads((self.state / "serve" / f"{name}.json").read_text())["pid"])

    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(f"{self.prefect}/api")

    def start_run(self, deployment: str, **parameters: Any) -> UUID:
        with self.client() as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters={"run": parameters}).id

    def run(self, run: UUID) -> FlowRun:
        with self.client() as client:
            return client.read_flow_run(run)

    def state_of(self, run: UUID) -> str:
        state = self.run(run).state
        return state.name if state else ""

    def runs(self) -> dict[UUID, FlowRun]:
        with self.client() as client:
            return {run.id: run for run in client.read_flow_runs()}

    def finish(self, run: UUID, seconds: float = 240) -> FlowRun:
        def final() -> FlowRun | None:
            found = self.run(run)
            return found if found.state and found.state.is_final() else None

        try:
            return wait_for(final, "the run's end", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log(run)}\n{self.logs()}") from error

    def records(self, run: UUID) -> list[Log]:
        with self.client() as client:
            return client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])), limit=200)

    def log(self, run: UUID) -> str:
        return "\n".join(record.message for record in self.records(run))

    def long_training(self, seed: int, epochs: int = 100) -> dict[str, Any]:
        """Return a training that is long enough to be disturbed: a hundred epochs take half a minute."""
        longer = {"epochs": epochs, "patience": epochs, "checkpoint_seconds": 0.5, "seed": seed}
        return tiny_training(self.reviews, train=tiny_training("")["train"] | longer)

    def wait_until_it_trains(self, run: UUID) -> None:
        """Wait for the first checkpoint that is younger than the run; an earlier one may have left others."""
        created = self.run(run).created
        assert created is not None
        begin = created.timestamp()

        def found() -> bool:
            return any(path.stat().st_mtime > begin for path in (self.state / "scratch").glob("train-*.safetensors"))

        wait_for(found, "a checkpoint")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Bring everything up, and down again at the end."""
    state = tmp_path_factory.mktemp("served")
    prefect, mlflow = free_port(), free_port()
    with webhook() as (url, messages):
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(state / "prefect"),
            "SENTIMENT_STORE_URL": str(state / "store"),
            "SENTIMENT_SCRATCH_DIR": str(state / "scratch"),
            "SENTIMENT_MLFLOW_TRACKING_URI": f"sqlite:///{state / 'mlflow.db'}",
            "SENTIMENT_MLFLOW_ARTIFACT_ROOT": str(state / "mlflow-artifacts"),
            "SENTIMENT_DEVICE": "cpu",
            "SENTIMENT_ALERT_WEBHOOK": url,
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # the most frequent that Prefect takes
        }
        found = Served(
            state,
            environment,
            [f"PREFECT_PORT={prefect}", f"MLFLOW_PORT={mlflow}"],
            f"http://127.0.0.1:{prefect}",
            f"http://127.0.0.1:{mlflow}",
            messages,
            tiny_reviews(state / "reviews.csv"),
        )
        try:
            printed = found.make("serve")
            assert found.prefect in printed
            assert found.mlflow in printed
            yield found
        finally:
            found.make("stop")


@pytest.mark.slow
def test_everything_is_up(served: Served) -> None:
    with served.client() as client:
        deployments = {found.name: found for found in client.read_deployments()}
        queues = {queue.name for queue in client.read_work_queues(work_pool_name="sentiment")}
        limit = client.read_global_concurrency_limit_by_name("gpu")
        automations = [found.name for found in client.read_automations()]
    assert {name: bool(found.schedules) for name, found in deployments.items()} == {
        "nightly-training": True,
        "ad-hoc-training": False,
        "scheduled-scoring": True,
        "ad-hoc-scoring": False,
    }
    assert queues == {"default", "gpu"}
    assert limit.limit == 1
    assert len(automations) == len(set(automations)) == 3
    # Everybody on the machine can read what a process was started with.
    processes = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert sum(b"mlflow" in process for process in processes) >= 1
    assert not any(served.environment["SENTIMENT_MLFLOW_TRACKING_URI"].encode() in process for process in processes)
    for page in (f"{served.prefect}/", f"{served.mlflow}/"):
        with urllib.request.urlopen(page, timeout=10) as answer:
            assert b"<html" in answer.read()


@pytest.mark.slow
def test_serving_what_is_served_changes_nothing(served: Served) -> None:
    def automations() -> dict[str, str]:
        # Under a new trigger the server would forget which runs it waits for.
        found = httpx.post(f"{served.prefect}/api/automations/filter", json={}).json()
        return {automation["name"]: automation["trigger"]["id"] for automation in found}

    before = [served.process(name).pid for name in SERVICES], automations()
    assert served.prefect in served.make("serve")
    assert ([served.process(name).pid for name in SERVICES], automations()) == before
    with served.client() as client:
        assert len(client.read_deployments()) == 4


@pytest.mark.slow
def test_the_worker_trains_and_scores(served: Served) -> None:
    trained = served.finish(served.start_run("train/ad-hoc-training", **tiny_training(served.reviews)))
    assert trained.state is not None
    assert trained.state.is_completed(), served.log(trained.id)
    client = MlflowClient(served.mlflow)
    version = client.get_model_version_by_alias("sentiment", "champion")
    tags = client.get_run(str(version.run_id)).data.tags
    assert tags["prefect.flow_run"] == str(trained.id)
    assert served.prefect in str(tags)

    scored = served.finish(served.start_run("score/ad-hoc-scoring", files={"path": str(served.reviews)}))
    assert scored.state is not None
    assert scored.state.is_completed(), served.log(scored.id)
    table = pl.scan_parquet(served.state / "store" / "scores" / "scores" / "**" / "*.parquet")
    assert table.select(pl.len()).collect().item() == REVIEWS


@pytest.mark.slow
def test_drift_starts_a_training(served: Served) -> None:
    with served.client() as client:
        training = client.read_deployment_by_name("train/ad-hoc-training").id
        retrain = AutomationCore(
            name="retrain on drift",
            trigger=EventTrigger(
                match={"prefect.resource.id": "sentiment.model.*"},
                expect={"sentiment.drift"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[
                RunDeployment(
                    source="selected", deployment_id=training, parameters={"run": tiny_training(served.reviews)}
                )
            ],
        )
        client.create_automation(AutomationCore.model_validate(retrain.model_dump()))
        before = {run.id for run in client.read_flow_runs()}
    sensitive = {"max_psi": 1e-9, "min_rows": 1, "min_reference_rows": 1}
    scoring = served.start_run(
        "score/ad-hoc-scoring", files={"path": str(served.reviews)}, drift=sensitive, rescore="d"
    )
    assert served.finish(scoring).state.is_completed(), served.log(scoring)  # type: ignore[union-attr]

    def started() -> list[UUID]:
        with served.client() as client:
            return [run.id for run in client.read_flow_runs() if run.id not in before and run.deployment_id == training]

    wait_for(lambda: bool(started()), "the training that drift starts")
    assert served.finish(started()[0]).state.is_completed()  # type: ignore[union-attr]


@pytest.mark.slow
def test_failed_runs_and_models_not_promoted_are_told(served: Served) -> None:
    refused = tiny_training(served.reviews, gate={"baseline_margin": 1.0})
    refused["train"]["seed"] = 1  # another model than the champion, which would stay what it is
    assert served.finish(served.start_run("train/ad-hoc-training", **refused)).state.is_completed()  # type: ignore[union-attr]
    wait_for(lambda: any("is not champion" in text for text in served.messages), "the message")
    (told,) = [text for text in served.messages if "is not champion" in text]
    assert "of the linear baseline" in told

    missing = served.start_run("score/ad-hoc-scoring", files={"path": str(served.state / "nothing.csv")})
    assert served.finish(missing).state.is_failed()  # type: ignore[union-attr]
    wait_for(lambda: any("nothing.csv" in text for text in served.messages), "the message")


@pytest.mark.slow
def test_a_second_nightly_run_is_cancelled_and_a_killed_one_is_noticed(served: Served) -> None:
    # It is killed below; until then it must not end, however long the second one takes to be looked at.
    first = served.start_run("train/nightly-training", **served.long_training(seed=1, epochs=1000))
    served.wait_until_it_trains(first)
    second = served.finish(served.start_run("train/nightly-training", **served.long_training(seed=2)))
    assert second.state is not None
    assert second.state.is_cancelled()

    assert served.state_of(first) == "Running"
    (training,) = served.process("worker").children()
    for process in [*training.children(recursive=True), training]:
        process.kill()
    assert served.finish(first).state.is_crashed()  # type: ignore[union-attr]


@pytest.mark.slow
def test_two_trainings_never_share_the_gpu(served: Served) -> None:
    deployments = ("train/nightly-training", "train/ad-hoc-training")
    runs = [
        served.start_run(name, **served.long_training(seed=seed, epochs=60))
        for seed, name in enumerate(deployments, start=6)
    ]
    trained = []
    for run in runs:
        assert served.finish(run).state.is_completed(), served.log(run)  # type: ignore[union-attr]
        epochs = [record.timestamp for record in served.records(run) if record.message.startswith("Training, epoch ")]
        assert len(epochs) == 60
        trained.append((min(epochs), max(epochs)))
    (_, end), (begin, _) = sorted(trained)
    assert end < begin
    flows = [served.run(run) for run in runs]
    assert max(run.start_time for run in flows) < end  # both had started, so one waited  # type: ignore[type-var]


@pytest.mark.slow
def test_a_run_whose_worker_died_too_is_closed_and_the_next_one_resumes(served: Served) -> None:
    with served.client() as client:  # not ten minutes, as deploy/apply.py says
        (silent,) = client.read_automations_by_name("sentiment: close silent runs")
        values = silent.model_dump(exclude={"id", "owner_resource"})
        values["trigger"]["within"] = 60
        client.update_automation(silent.id, AutomationCore.model_validate(values))
    lost = served.start_run("train/nightly-training", **served.long_training(seed=5))
    served.wait_until_it_trains(lost)
    worker = served.process("worker")
    for process in [worker, *worker.children(recursive=True)]:  # the worker first, or it would report the run
        process.kill()
    assert served.state_of(lost) == "Running"
    closed = served.finish(lost).state
    assert closed is not None
    assert closed.is_crashed()
    assert "No sign of life" in str(closed.message)

    served.make("serve")
    # It also waits for the slot of the limit `gpu`, which the dead one held.
    following = served.finish(served.start_run("train/nightly-training", **served.long_training(seed=5)))
    assert following.state is not None
    assert following.state.is_completed(), served.log(following.id)
    assert "Resuming the training from" in served.log(following.id)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlflow", "prefect"])
def test_a_server_restarts_during_a_run(served: Served, name: str) -> None:
    run = served.start_run("train/ad-hoc-training", **served.long_training(seed=3 if name == "mlflow" else 4))
    served.wait_until_it_trains(run)
    server = served.process(name)
    assert served.state_of(run) == "Running"
    for process in [*server.children(recursive=True), server]:
        process.kill()
    served.make("serve")
    assert served.finish(run).state.is_completed(), served.log(run)  # type: ignore[union-attr]


@pytest.mark.slow
def test_state_survives_a_restart(served: Served) -> None:
    training = served.start_run("train/ad-hoc-training", **served.long_training(seed=8, epochs=1000))
    served.wait_until_it_trains(training)
    processes = [
        process for name in SERVICES for process in (served.process(name), *served.process(name).children(True))
    ]
    versions = len(MlflowClient(served.mlflow).search_model_versions())
    runs = served.runs()
    assert not any(run.auto_scheduled for run in runs.values()), "a schedule has started runs among those of the tests"
    assert "Stopped worker, mlflow, prefect" in served.make("stop")
    assert not [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert "Nothing was running" in served.make("stop")
    served.make("serve")
    assert served.run(training).state.is_crashed()  # type: ignore[union-attr]
    assert len(MlflowClient(served.mlflow).search_model_versions()) == versions
    assert served.runs().keys() == runs.keys()
