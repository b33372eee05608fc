"""What rounds of scoring under faults have in common: the review files, the servers, and how the flow is started."""

import gzip
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from benchmarks.data import prepare
from benchmarks.registry import register_untrained

_SHARD_ROWS = 300
_REVIEWS = 4000


@contextmanager
def workplace() -> Iterator[tuple[Path, Path]]:
    """Yield a folder to work in and one with review files, with a registered model and a Prefect server at hand."""
    with tempfile.TemporaryDirectory(prefix="sentiment-benchmark-") as temporary:
        folder = Path(temporary)
        dataset = prepare(str(folder / "store"), _REVIEWS)
        _write_inbox(dataset.scan().select("raw").collect()["raw"], folder / "inbox")
        os.environ.update({**register_untrained(folder, dataset), "SENTIMENT_DEVICE": "cpu"})
        with prefect_server(folder):
            yield folder, folder / "inbox"


def numbered_folders(folder: Path) -> Iterator[Path]:
    """Make folder after folder."""
    for number in itertools.count():
        (made := folder / f"round-{number}").mkdir()
        yield made


def flow_command(inbox: Path) -> list[str]:
    """Return the command that scores the review files, at whose failpoints faults happen."""
    files = ["--files.path", str(inbox), "--shard-rows", str(_SHARD_ROWS), "--workers", "2"]
    return [sys.executable, "-m", "benchmarks.failpoints", *files]


def last_line(log: Path) -> str:
    """Return the last line of a log, empty where it has none."""
    return (log.read_text(errors="replace").strip().splitlines() or [""])[-1]


def _write_inbox(reviews: pl.Series, folder: Path) -> None:
    """Write reviews as files that make shards of each kind, with rows that cannot be scored among them."""
    folder.mkdir()
    rows = pl.DataFrame({"text": reviews}).with_row_index("id")
    empty = pl.when(pl.col("id") % 40 == 7).then(pl.lit("")).otherwise("text")
    parquet, text, small = rows[:1200], rows[1200:2200], rows[2200:2320]
    parquet.with_columns(text=empty).write_parquet(folder / "a.parquet", row_group_size=_SHARD_ROWS)
    with gzip.open(folder / "b.jsonl.gz", "wb") as file:
        for part in text.iter_slices(100):
            part.write_ndjson(file)
            file.write(b'{"id": 0, "text": "cut o\n')
    for number, part in enumerate(small.with_columns(text=empty).iter_slices(40)):
        part.write_csv(folder / f"c{number}.csv")


@contextmanager
def prefect_server(folder: Path) -> Iterator[None]:
    """Run a Prefect server on a free port while the block lasts, and lead this process and its children there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with (folder / "prefect.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 600
        while not _answers(f"{url}/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Prefect's server does not start: {(folder / 'prefect.log').read_text()[-2000:]}")
            time.sleep(0.5)
        os.environ["PREFECT_API_URL"] = url
        yield
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
