"""A Prefect server of a command's own, for where no other is configured.

Prefect would start one itself, but in the middle of the run, and only after loading the code of the server into the
run's process too. Here the server's process starts first, and loads its code while the run's process loads the flow's.
"""

import atexit
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from flows._loading import loading
from sentiment_model.errors import ServerError

_HOST = "127.0.0.1"
_STOP_SECONDS = 10
_CAUSE = re.compile(r"^[\w.]*Error: .*", re.MULTILINE)  # the last line of a traceback


def start_server() -> Callable[[], None]:
    """Start a Prefect server, unless one is configured; it ends with this process, however that ends.

    Returns:
        a function that waits until the server answers; it raises ServerError where the server does not start.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url or not settings.server.ephemeral.enabled:
        return lambda: None
    lock = _lock(settings.home)
    # What connects before the server is ready waits in this socket's queue.
    with socket.create_server((_HOST, 0)) as listener:
        port = listener.getsockname()[1]
        log = TemporaryFile()  # noqa: SIM115 - what fails later is said by Prefect's answers
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "flows._server", str(listener.fileno())],
            stdin=subprocess.PIPE,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # so that Ctrl-C ends the run first, which still has to tell the server
        )
    # When this process ends, Prefect's threads have sent what they hold before such functions are called.
    atexit.register(_stop, process)
    os.environ["PREFECT_API_URL"] = f"http://{_HOST}:{port}/api"
    os.environ.setdefault("PREFECT_UI_URL", "")  # it has no pages to link to
    refresh_global_settings_context()
    sys.stderr.write(
        "Starting a temporary Prefect server; PREFECT_API_URL names one that runs, such as that of `make serve`\n"
    )

    def wait() -> None:
        with lock:
            _wait(port, settings.server.ephemeral.startup_timeout_seconds, log)

    return wait


def _lock(home: Path) -> BinaryIO:
    """Let one server at a time start in a home: each brings the database there up to date, and two would collide.

    The lock is given up where the file is closed, or with this process.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / "starting.lock").open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise ServerError(
            f"the temporary Prefect server does not start: {error}; PREFECT_HOME is its folder"
        ) from error
    return file


def _wait(port: int, seconds: float, log: BinaryIO) -> None:
    connection = HTTPConnection(_HOST, port, timeout=seconds)
    try:
        connection.request("GET", "/api/health")
        connection.getresponse().read()
    except (OSError, HTTPException) as error:
        log.seek(0)
        causes = _CAUSE.findall(log.read().decode(errors="replace"))
        raise ServerError(f"the temporary Prefect server does not start: {causes[-1] if causes else error}") from error
    finally:
        connection.close()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server in good order: it ends when its input does."""
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=_STOP_SECONDS)
    process.kill()


def _serve(listener: socket.socket) -> None:
    """Serve until the input ends, which it does when the process at its other end closes it or is gone."""
    threading.Thread(target=_end_with_input, daemon=True).start()

    with loading():
        import uvicorn
        from prefect.server.api.server import create_app

        app = create_app(ephemeral=True, final=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on")).run(sockets=[listener])


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)  # at which uvicorn ends what it has begun


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
