"""Processes that outlive the command that starts them, and are found again by the files that they leave."""

import fcntl
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from sentiment_model.errors import SentimentError

_START_SECONDS = 180.0  # on a busy machine; the first start also makes the databases
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.3


class StartError(SentimentError):
    """A process cannot be started, or did not come up."""


class ProcessFolder:
    """The processes started from one folder; a context, in which no second command can start or stop any.

    Each leaves a file with its id and its command: the id alone may belong to a stranger by now. (Its time of start
    would tell too, but moves with the clock.)

    Args:
        folder: of the process files.
        logs: folder of what the processes print, one file each, appended to.

    Raises:
        StartError: another command is at work (on entering).
    """

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder
        self._logs = logs
        for made in (folder, logs):
            made.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("w")

    def __enter__(self) -> "ProcessFolder":
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise StartError("another `make serve` or `make stop` is at work; wait for it to end") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.close()

    def is_running(self, name: str, command: Sequence[str]) -> bool:
        """Return whether the process that was started under this name still runs.

        Raises:
            StartError: it runs, but was started by another command.
        """
        process = self._running(name)
        if process is not None and self._record(name)["command"] != list(command):
            raise StartError(f"{name} runs already, with other options; `make stop` ends it")
        return process is not None

    def start(self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        """Start a process in `folder` that goes on after this one has ended."""
        with self._log(name).open("ab") as log:
            process = psutil.Popen(
                list(command),
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in this terminal is not meant for it
            )
        self._file(name).write_text(json.dumps({"pid": process.pid, "command": list(command)}))
        with suppress(psutil.NoSuchProcess):  # it ended at once, which whoever waits for it will tell
            while not process.cmdline():  # the system has not set it up yet, and it could not be recognised
                time.sleep(0.01)

    def wait(self, name: str, is_ready: Callable[[float], bool]) -> None:
        """Wait until a process is ready.

        Args:
            name: under which it was started.
            is_ready: given the time at which it started, in seconds since 1970.

        Raises:
            StartError: it ended, or is not ready in time.
        """
        deadline = time.monotonic() + _START_SECONDS
        while (process := self._running(name)) is not None:
            if is_ready(process.create_time()):
                return
            if time.monotonic() > deadline:
                raise StartError(f"{name} is not ready after {_START_SECONDS:.0f} s; its log is {self._log(name)}")
            time.sleep(_POLL_SECONDS)
        raise StartError(f"{name} ended while it started; its log is {self._log(name)}")

    def stop(self, name: str) -> bool:
        """End what a process started, and then the process; return whether it ran."""
        process = self._running(name)
        if process is not None:
            _end(process.children(recursive=True))  # a run tells Prefect that it was ended; its worker would not let it
            _end([process])
        self._file(name).unlink(missing_ok=True)
        return process is not None

    def _running(self, name: str) -> psutil.Process | None:
        try:
            record = self._record(name)
            process = psutil.Process(record["pid"])
            is_ours = process.cmdline()[1:] == record["command"][1:]  # some systems name the interpreter otherwise
        except (FileNotFoundError, psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        return process if is_ours and _lives(process) else None

    def _record(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self._file(name).read_text()))

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"


def _end(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    while any(map(_lives, processes)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    for process in filter(_lives, processes):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _lives(process: psutil.Process) -> bool:
    """Return whether a process runs; one that has ended and is not yet collected by its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
