"""A large dump, whole path: ``python -m benchmarks.bulk``; `--help` lists the options.

Compressed JSON Lines in, labelled Parquet out. Each contestant scores the same dump, made by drawing from the reviews
of the project's default source, in processes of its own. What is measured does not depend on what a network has
learned, so ours stays untrained.
"""

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

from benchmarks.data import prepare, read_split
from benchmarks.figure import Bar, Panel, draw_panels
from benchmarks.isolated import ROOT, ProcessFailedError
from benchmarks.registry import register_untrained
from benchmarks.table import RESULTS, SAMPLES, Table, write_results

CONTESTANTS = {
    "ours": "**ours**",
    "pyfunc": "pandas chunks and the MLflow model",
    "tfidf": "pandas chunks and TF-IDF of bigrams + logistic regression",
    "bound": "reading and writing alone",
}
_CHUNK_ROWS = 10_000
_COLUMNS = ("", "rows", "time (s)", "reviews/s", "peak memory (MiB)", "CPU used")


@dataclass(frozen=True)
class Result:
    """What a contestant took.

    Attributes:
        peak_mib: largest proportional set size of all its processes together.
        cpu_share: processor time by time and cores, 0..1.
    """

    rows: int
    seconds: float
    peak_mib: float
    cpu_share: float


def write_dump(reviews: Path, rows: int, path: Path) -> None:
    """Write so many reviews, drawn with replacement, as gzipped JSON Lines."""
    raw = pl.read_parquet(reviews)["raw"]
    chosen = np.random.default_rng(0).integers(0, len(raw), rows)
    with gzip.open(path, "wb", compresslevel=6) as file:
        for start in range(0, rows, _CHUNK_ROWS):
            ids = range(start, min(rows, start + _CHUNK_ROWS))
            table = pl.DataFrame(
                {"id": ids, "text": raw[chosen[start : start + _CHUNK_ROWS]], "stars": [3.5] * len(ids)}
            )
            table.write_ndjson(file)


def ours(dump: str) -> int:
    """Score a dump with the scoring flow; return the rows written."""
    from flows.score import score
    from sentiment_model.config import ReviewFiles, ScoringRun

    return score(ScoringRun(files=ReviewFiles(path=dump))).scored


def pyfunc(dump: str) -> int:
    """Score a dump as the documentation of MLflow and pandas suggests."""
    import mlflow
    import pandas as pd

    mlflow.set_tracking_uri(os.environ["SENTIMENT_MLFLOW_TRACKING_URI"])
    model = mlflow.pyfunc.load_model("models:/sentiment@champion")
    return _in_chunks(dump, lambda texts: model.predict(pd.DataFrame({"text": texts})))


def tfidf(dump: str) -> int:
    """Score a dump with the linear peer, which is fitted first, outside of the measured time."""
    from benchmarks.peers import PEERS

    score = PEERS["tfidf"].load(Path(dump).with_name("tfidf"))
    return _in_chunks(dump, lambda texts: {"probability": score(pl.Series(texts))})


def _in_chunks(dump: str, answer: Any) -> int:
    import pandas as pd

    rows = 0
    for number, chunk in enumerate(pd.read_json(dump, lines=True, chunksize=_CHUNK_ROWS)):
        answers = pd.DataFrame(answer(chunk["text"]))
        answers.index = chunk.index
        pd.concat([chunk, answers], axis=1).to_parquet(
            Path(dump).with_name(f"out-{number:05d}.parquet"), compression="zstd"
        )
        rows += len(chunk)
    return rows


def bound(dump: str) -> int:
    """Read a dump as ours does, and write it as ours does."""
    from sentiment_model.config import ReviewFiles
    from sentiment_model.sources.files import read_batches
    from sentiment_model.sources.listing import list_files
    from sentiment_model.store.datasets import DatasetWriter
    from sentiment_model.store.parts import PartWriter

    config = ReviewFiles(path=dump)
    (file,) = list_files(ReviewFiles(path=dump)).files
    folder = Path(dump).with_name("bound")
    folder.mkdir()
    rows, part = 0, None
    for batch in read_batches(file, config, _CHUNK_ROWS):
        part = part or PartWriter(DatasetWriter(folder), "part", batch.frame.schema)
        part.write(batch.frame)
        rows += len(batch.frame)
    if part:
        part.__exit__(None, None, None)
    return rows


def measure(name: str, dump: Path, environment: dict[str, str]) -> Result:
    """Run a contestant in a process of its own, and watch it and all that it starts.

    Raises:
        ProcessFailedError: it failed.
    """
    answer = dump.with_name(f"{name}.json")
    arguments = json.dumps({"dump": str(dump)})
    command = [sys.executable, "-m", "benchmarks.isolated", f"benchmarks.bulk:{name}", arguments, str(answer)]
    before, started, peak = _cpu_seconds(), time.perf_counter(), 0
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(0.5)
        seconds = time.perf_counter() - started
        log.seek(0)
        if process.returncode:
            raise ProcessFailedError(log.read().decode(errors="replace").strip().splitlines()[-1])
    cpu = _cpu_seconds() - before
    rows = json.loads(answer.read_text())["result"]
    return Result(rows, seconds, peak / 2**20, cpu / seconds / (os.cpu_count() or 1))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _memory(pid: int) -> int:
    total = 0
    try:
        parent = psutil.Process(pid)
        processes = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.Error, AttributeError):
            continue
    return total


def _row(name: str, result: Result | str) -> list[str]:
    if isinstance(result, str):
        return [CONTESTANTS[name], f"failed: {result.replace('|', ' ')}", *[""] * (len(_COLUMNS) - 2)]
    return [
        CONTESTANTS[name],
        f"{result.rows:,}",
        f"{result.seconds:,.1f}",
        f"{result.rows / result.seconds:,.0f}",
        f"{result.peak_mib:,.0f}",
        f"{result.cpu_share:.0%}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 where a contestant failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk", description=__doc__)
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000, 1_000_000], metavar="N", help="sizes of ours")
    parser.add_argument(
        "--peer-rows", type=int, default=1_000_000, metavar="N", help="size of the dump that the peers score"
    )
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--output", type=Path, help=f"folder of the results; {RESULTS} by default")
    options = parser.parse_args(arguments)
    results: list[tuple[str, Result | str]] = []
    with tempfile.TemporaryDirectory(prefix="sentiment-benchmark-") as temporary:
        folder = Path(temporary)
        dataset = prepare(str(folder / "store"))
        reviews = Path(dataset.files("part")[0])
        environment = {**os.environ, **register_untrained(folder, dataset)}
        if "tfidf" in options.only:
            from benchmarks.peers import PEERS

            (folder / "tfidf").mkdir()
            PEERS["tfidf"].fit(read_split(reviews, "train"), folder / "tfidf", 0)
        runs = [
            (name, rows) for name in options.only for rows in (options.rows if name == "ours" else [options.peer_rows])
        ]
        for name, rows in runs:
            dump = folder / f"dump-{rows}.jsonl.gz"
            if not dump.exists():
                write_dump(reviews, rows, dump)
            try:
                results.append((name, measure(name, dump, environment)))
            except ProcessFailedError as error:
                results.append((name, str(error)))
            print(" | ".join(_row(*results[-1])), flush=True)
    note = "Time, memory and processor time are those of whole processes, from their start to their end."
    table = Table(
        "A dump of compressed JSON Lines to labelled Parquet", _COLUMNS, [_row(*each) for each in results], note
    )
    measured = [(name, result) for name, result in results if isinstance(result, Result)]
    bars = [
        Bar(f"{name}, {result.rows:,} rows", result.rows / result.seconds, name == "ours") for name, result in measured
    ]
    memory = [Bar(f"{name}, {result.rows:,} rows", result.peak_mib, name == "ours") for name, result in measured]
    figure = draw_panels("bulk", [Panel("reviews/s", bars), Panel("peak memory (MiB)", memory)], columns=2)
    numbers = {"results": [{"name": n, **(asdict(r) if isinstance(r, Result) else {"failed": r})} for n, r in results]}
    small = max(*options.rows, options.peer_rows) < 1_000_000
    output = options.output or (SAMPLES if small else RESULTS)
    print(write_results(output, "bulk", "Bulk scoring", [table], numbers, figure))
    return int(len(measured) < len(results))


if __name__ == "__main__":
    sys.exit(main())
