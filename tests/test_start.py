"""What a command loads before it works, and the Prefect server that it starts for itself."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from servers import answers

ROOT = Path(__file__).parent.parent
FLOWS = ("demo", "rollback", "score", "tidy", "train")

# Runs `python -m flows.NAME`, and says at the end which of these libraries it has loaded.
RUN = """
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
finally:
    heavy = {"mlflow", "numpy", "pandas", "polars", "prefect", "pyarrow", "sqlalchemy", "torch"}
    print("loaded:", *sorted(heavy & {*sys.modules}))
"""


def python(*arguments: str, home: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | ({"PREFECT_HOME": str(home)} if home else {})
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("flow", FLOWS)
def test_help_loads_no_library(flow: str) -> None:
    done = python("-c", RUN, f"flows.{flow}", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("flow", FLOWS)
def test_a_wrong_option_is_told_before_a_library_is_loaded(flow: str) -> None:
    done = python("-c", RUN, f"flows.{flow}", "--no-such-option", "1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == "loaded:\n"


WORKER = """
import mlflow, prefect
from concurrent.futures import ThreadPoolExecutor
from sentiment_model.scoring.engines import LocalEngine
from worker import Worker

if __name__ == "__main__":
    engine = LocalEngine(Worker, 2)
    with ThreadPoolExecutor(2) as threads:
        print(*threads.map(engine.score, [None, None]))
    engine.close()
    assert __import__("__main__").Worker is Worker
"""
OF_A_WORKER = """
import sys

class Worker:
    def score(self, shard):
        heavy = {"fastapi", "matplotlib", "mlflow", "pandas", "prefect", "sklearn", "sqlalchemy"}
        return sorted(heavy & {*sys.modules})
"""


def test_a_worker_process_loads_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flow.py").write_text(WORKER)
    (tmp_path / "worker.py").write_text(OF_A_WORKER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    done = python("-m", "flow")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[] []\n"


SERVED = """
import os, sys
from flows._server import start_server

start_server()()
print(os.environ["PREFECT_API_URL"], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["close", "kill"])
def test_the_temporary_server_ends_with_its_command(tmp_path: Path, end: str) -> None:
    command = psutil.Popen(
        [sys.executable, "-c", SERVED],
        cwd=ROOT,
        env=os.environ | {"PREFECT_HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    url = command.stdout.readline().strip()
    assert answers(f"{url}/health")
    servers = command.children()
    assert len(servers) == 1
    command.kill() if end == "kill" else command.stdin.close()
    _, alive = psutil.wait_procs([command, *servers], timeout=60)
    assert not alive
    assert not answers(f"{url}/health")


def test_a_server_that_is_configured_is_used(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text(
        'active = "ours"\n[profiles.ours]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'
    )
    program = (
        "import os; from flows._server import start_server; start_server()(); print(os.environ.get('PREFECT_API_URL'))"
    )
    done = python("-c", program, home=tmp_path)
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_text("no database, whatever its name says")
    done = python("-m", "flows.tidy", home=tmp_path)
    assert done.returncode == 1
    *_, error = done.stderr.splitlines()
    assert error.startswith("error: the temporary Prefect server does not start: ")
    assert "file is not a database" in error
    assert "Traceback" not in done.stderr


def test_a_command_without_a_server(settings_in: Path, tmp_path: Path) -> None:
    done = python("-m", "flows.tidy", home=tmp_path / "prefect")
    assert done.returncode == 0, done.stderr
    assert "Finished in state Completed()" in done.stderr
    assert "View at" not in done.stderr, "the server has no pages"


def test_two_commands_at_once_in_a_new_home(settings_in: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PREFECT_HOME": str(tmp_path / "prefect")}
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "flows.tidy"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    errors = [command.communicate()[1] for command in commands]
    assert [command.returncode for command in commands] == [0, 0], errors


def test_a_command_whose_standard_files_are_closed(settings_in: Path, tmp_path: Path) -> None:
    command = ["sh", "-c", 'exec "$0" -m flows.tidy <&- >&- 2>&-', sys.executable]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PREFECT_HOME": str(tmp_path)}, check=False)
    assert done.returncode == 0
