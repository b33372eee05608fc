"""Real servers on this machine for tests: free ports, bounded waits, and a webhook that remembers what it was sent."""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import psutil
from moto.server import ThreadedMotoServer
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import Artifact
from prefect.client.schemas.sorting import ArtifactSort

ROOT = Path(__file__).parent.parent
Found = TypeVar("Found")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(find: Callable[[], Found | None], what: str, seconds: float = 180.0) -> Found:
    """Return what `find` finds, as soon as it finds something true."""
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.5)
    return found


@contextmanager
def webhook() -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of a webhook and the texts that were sent to it."""
    received: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/secret-token", received
    finally:
        server.shutdown()


@contextmanager
def background(
    name: str, command: list[str], environment: dict[str, str], folder: Path, is_ready: Callable[[], bool]
) -> Iterator[Path]:
    """Run a process while the block lasts; yield its log once it is ready."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = psutil.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 180
        while not is_ready():
            assert process.poll() is None, f"{name} ended:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{name} is not ready:\n{log.read_text()[-3000:]}"
            time.sleep(0.5)
        yield log
    finally:
        family = [*process.children(recursive=True), process] if process.is_running() else []
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=20)
        for member in alive:
            member.kill()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def object_store(bucket: str = "sentiment") -> Iterator[dict[str, str]]:
    """Run an S3 server with an empty bucket; yield the environment in which clients find it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")).close()
    try:
        yield {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
    finally:
        server.stop()


def newest_artifact(key: str) -> Artifact:
    """Return the artifact with this key that the Prefect server got last."""
    with get_client(sync_client=True) as prefect:
        (artifact,) = prefect.read_artifacts(  # Artifact.get leaves filters out, which the server takes amiss
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
            flow_run_filter=FlowRunFilter(),
            task_run_filter=TaskRunFilter(),
            sort=ArtifactSort.UPDATED_DESC,
            limit=1,
            offset=0,
        )
    return artifact


def newest_artifact_of_a_flow(key: str) -> Any:
    """Return the content of the artifact with this key that a flow made last, outside its tasks."""
    with get_client(sync_client=True) as prefect:
        newest = {"artifacts": {"key": {"any_": [key]}}}
        (artifact,) = prefect.request("POST", "/artifacts/latest/filter", json=newest).json()
    return artifact["data"]
