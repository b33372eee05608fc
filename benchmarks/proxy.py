"""An S3 server behind a proxy that does what networks and stores do on a bad day.

``python -m benchmarks.proxy BUCKET`` runs both, apart from the process that uses them, and prints the URL.
"""

import http.client
import json
import logging
import random
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Fault = Literal["refuse", "unheard", "drop", "lose", "time out", "repeat", "delay"]
FAULTS: dict[Fault, str] = {
    "refuse": "503 without having done it",
    "unheard": "503 after having done it",
    "drop": "connection closed without having done it",
    "lose": "connection closed after having done it",
    "time out": "no answer, after having done it",
    "repeat": "done twice, the second answer given",
    "delay": "done a while later",
}
_DELAY_SECONDS = 0.5
_HOLD_SECONDS = 40.0  # longer than clients wait
_CONTROL = "/weather"
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}

KINDS = {
    r"/_log/[^/]+/plans/": "plan",
    r"/_log/[^/]+/claims/": "claim",
    r"/_log/[^/]+/receipts/": "receipt",
    r"/_log/[^/]+/manifests/": "manifest",
    r"/_log/[^/]+/checkpoints/": "checkpoint",
    r"/_staged/.*/scores": "staged scores",
    r"/_staged/.*/quarantine": "staged quarantine",
    r"/scores/version=": "published scores",
    r"/quarantine/version=": "published quarantine",
    r"/delta/_delta_log/": "Delta log",
    r"/delta/": "Delta rows",
    r"/split/[^/]+/_manifest\.json": "split manifest",
    r"/split/": "split part",
}
"""What an object is, by its path."""


def kind_of(path: str) -> str | None:
    """Return what an object is, or None where it is nothing that scoring writes."""
    return next((kind for pattern, kind in KINDS.items() if re.search(pattern, path)), None)


class _Weather:
    """What goes wrong: a fault at the first request of each method for each kind of object, or at a share of all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.change({})

    def change(self, to: dict[str, Any]) -> None:
        with self._lock:
            self._fault: Fault | None = to.get("fault")
            self._share: float | None = to.get("share")
            self._chance = random.Random(to.get("seed", 0))
            self._seen: set[tuple[str, str]] = set()
            self._happened: Counter[tuple[str, str, Fault]] = Counter()

    def choose(self, method: str, kind: str) -> Fault | None:
        with self._lock:
            if self._share is None:
                fault = None if (method, kind) in self._seen else self._fault
            else:
                fault = self._fault or self._chance.choice([name for name in FAULTS if name != "time out"])
                fault = fault if self._chance.random() < self._share else None
            self._seen.add((method, kind))
            if fault:
                self._happened[method, kind, fault] += 1
            return fault

    def report(self) -> list[tuple[str, str, str, int]]:
        with self._lock:
            return [(*what, count) for what, count in self._happened.items()]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    weather = _Weather()
    upstream = ""

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        if path == _CONTROL:
            if body:
                self.weather.change(json.loads(body))
            self._answer(200, [], json.dumps(self.weather.report()).encode())
            return
        kind = kind_of(path)
        fault = self.weather.choose(self.command, kind) if kind else None
        if fault == "delay":
            time.sleep(_DELAY_SECONDS)
        answer = None
        if fault not in ("refuse", "drop"):
            answer = self._forward(body)
        if fault == "repeat":
            answer = self._forward(body)
        if fault == "time out":
            time.sleep(_HOLD_SECONDS)
        if fault in ("drop", "lose", "time out"):
            self.close_connection = True
            return
        if answer is None or fault == "unheard":
            answer = http.client.SERVICE_UNAVAILABLE, [], b"<Error><Code>ServiceUnavailable</Code></Error>"
        with suppress(ConnectionError):  # the client has gone
            self._answer(*answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any  # noqa: N815 - names of http.server

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if self.command == "HEAD" and name.lower() == "content-length":
                length = value
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class FaultyStore:
    """A client of the server and its proxy.

    Attributes:
        environment: where other clients find the store.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    @contextmanager
    def faults(self, fault: Fault | None = None, share: float | None = None, seed: int = 0) -> Iterator[None]:
        """Let requests go wrong while the block lasts.

        Args:
            fault: what happens; None is any, at random, but `time out`.
            share: how many of all requests, 0..1; None is the first of each method for each kind of object.
            seed: of what is left to chance.
        """
        self._tell({"fault": fault, "share": share, "seed": seed})
        try:
            yield
        finally:
            self.happened = {(method, kind, what): count for method, kind, what, count in self._tell(None)}
            self._tell({"fault": None})

    def _tell(self, weather: dict[str, Any] | None) -> Any:
        body = None if weather is None else json.dumps(weather).encode()
        request = urllib.request.Request(f"{self._url}{_CONTROL}", body, method="PUT" if body else "GET")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def faulty_store(bucket: str) -> Iterator[FaultyStore]:
    """Run a server with an empty bucket, and the proxy in front of it, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.proxy", bucket]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield FaultyStore(process.stdout.readline().strip())
        finally:
            process.kill()


def main() -> None:
    """Serve until killed."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    _Handler.upstream = f"{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/{sys.argv[1]}", method="PUT")).close()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
