"""What years of hourly scoring runs cost the next one: ``python -m benchmarks.ledger``; `--help` lists the options.

The log of a table is written as so many runs write it, into a store in memory. Then a run finds nothing new, once as
fast as this machine is, and once with a delay before each request, which is what an object store takes to answer. What
a network takes to carry the bytes is left out. Last, an inbox on disk is opened, whose files were hashed before or not.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import obstore

from benchmarks.table import RESULTS, SAMPLES, Table, write_results
from sentiment_model.classes import BINARY
from sentiment_model.config import ReviewFiles, ScoringRun
from sentiment_model.models.drift import bins
from sentiment_model.scoring.counts import Counts
from sentiment_model.scoring.ledger import PLANS_PER_CHECKPOINT, Ledger
from sentiment_model.scoring.planning import Inbox, open_inbox, plan
from sentiment_model.scoring.shards import Piece, Shard
from sentiment_model.scoring.summary import count
from sentiment_model.scoring.table import Plan, PublishedFile, Receipt, ScoreTable
from sentiment_model.scoring.work import Work
from sentiment_model.sources.files import SourceFile
from sentiment_model.sources.hashes import KnownHashes
from sentiment_model.sources.locations import Location
from sentiment_model.store import objects

_PLANS = 10_000
_SHARDS = 10  # of a plan
_ROWS = 200  # of a shard
_CHECKPOINT_EVERY = 500  # plans, while the log is written: a checkpoint says what the one before said, and more
_PAGE = 1000  # objects that a store lists in one answer
_DELAY = 0.03
_START = datetime(2026, 1, 1, tzinfo=UTC)
_FILE_BYTES = 4096


@dataclass
class Cost:
    """What something took.

    Attributes:
        what: what it was.
        requests: how many there were; a listing is one for each of its pages.
        seconds: by the clock, without a delay.
        cpu_seconds: of the processor, without a delay.
        delayed_seconds: by the clock, with a delay before each request.
    """

    what: str
    requests: int
    seconds: float
    cpu_seconds: float
    delayed_seconds: float


class Distant:
    """The calls of obstore that :mod:`sentiment_model.store.objects` makes, counted, each after a delay in seconds."""

    def __init__(self, delay: float) -> None:
        self.requests = 0
        self._delay = delay
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self._wait()
            return getattr(obstore, name)(*arguments)

        return call

    def list(self, store: Any, prefix: str) -> Iterator[Any]:
        """Yield the pages of a listing."""
        pages = iter(obstore.list(store, prefix, chunk_size=_PAGE))
        page: Sequence[Any] = [None] * _PAGE
        while len(page) == _PAGE:
            self._wait()
            yield (page := next(pages, []))

    def _wait(self) -> None:
        with self._lock:
            self.requests += 1
        if self._delay:
            time.sleep(self._delay)


def write_log(table: ScoreTable, plans: int) -> Inbox:
    """Write a log as so many hourly runs write it, and what readers find; return the files.

    As many plans come after the last checkpoint as there can be.
    """
    chance = np.random.default_rng(0)
    files: dict[str, SourceFile] = {}
    ledger = Ledger(table)
    for number in range(plans):
        if number % _CHECKPOINT_EVERY == 0 or number == plans - PLANS_PER_CHECKPOINT + 1:
            ledger.write_checkpoint()
            ledger = Ledger(table)
        keys = [f"{number * _SHARDS + shard:016x}" for shard in range(_SHARDS)]
        files |= {key: SourceFile(Location("/inbox", f"{key}.csv", 1, None, 0.0), "csv", None) for key in keys}
        shards = [Shard(name=f"{key}.csv", pieces=(Piece(file=key, name=f"{key}.csv"),)) for key in keys]
        table.append(Plan(shards=shards), ledger.plans)
        ledger.update(_scored(table, shard, _START + timedelta(hours=number), chance) for shard in shards)
        ledger.write_manifest(f"run-{number}")
    return Inbox(files, {}, None)


def _scored(table: ScoreTable, shard: Shard, when: datetime, chance: np.random.Generator) -> Receipt:
    path = f"version=1/date={when.date()}/{table.key}-{shard.id}-000.parquet"
    table.objects.create(f"scores/{path}", b"")
    likely = {name: chance.dirichlet(np.ones(size)) for name, size in bins(len(BINARY)).items()}
    positives = int(chance.binomial(_ROWS, 0.5))
    counts = Counts(
        rows_in=_ROWS,
        scored=_ROWS,
        labels=dict(zip(BINARY.names, (_ROWS - positives, positives), strict=True)),
        tokens=int(chance.normal(267 * _ROWS, 1000)),
        histograms={name: tuple(chance.multinomial(_ROWS, shares).tolist()) for name, shares in likely.items()},
    )
    file = PublishedFile(
        path=f"scores/{path}",
        staged=f"_staged/{table.key}/{shard.id}-000001/scores-0-00000.parquet",
        role="scores",
        rows=_ROWS,
        bytes=0,
        sha256=chance.bytes(32).hex(),
    )
    figures = {**counts.model_dump(), "seconds": chance.random()}
    return table._decide(Receipt(shard=shard.id, files=[file], counts=figures, created_at=when))


def measure(what: str, table: ScoreTable, inbox: Inbox, *, checkpoints: bool) -> Cost:
    """Return what a run costs that finds nothing new."""
    found = []
    for delay in (0.0, _DELAY):
        if not checkpoints:  # each run leaves one
            table.objects.delete([each.path for each in table.objects.list(f"{table.log}/checkpoints")])
        distant = Distant(delay)
        with patch.object(objects, "obstore", distant):
            found.append((distant, *_timed(lambda: _run(table, inbox))))
    (distant, seconds, cpu_seconds), (_, delayed_seconds, _) = found
    return Cost(what, distant.requests, seconds, cpu_seconds, delayed_seconds)


def _run(table: ScoreTable, inbox: Inbox) -> None:
    """Do with a table what the flow does with it where nothing is new, and check what that finds."""
    run = ScoringRun(files=ReviewFiles(path="inbox"))
    work = Work(inbox, table, lambda ledger: plan(ledger, inbox.files, run, lambda *_: ({}, {})))
    work.finish("empty")
    figures = count(work)
    if work.new or figures.counts.scored != _ROWS * len(inbox.files) or figures.removed:
        raise RuntimeError(f"of {len(inbox.files)} files, the log tells of {figures.counts.scored} rows")


def _timed(what: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that something takes, by the clock and of the processor."""
    started, cpu = time.perf_counter(), time.process_time()
    what()
    return time.perf_counter() - started, time.process_time() - cpu


def open_inboxes(files: int) -> dict[str, tuple[float, float]]:
    """Return the seconds that it takes to open an inbox of small files, by the clock and of the processor."""
    with tempfile.TemporaryDirectory(prefix="sentiment-benchmark-") as temporary:
        (folder := Path(temporary, "inbox")).mkdir()
        for number in range(files):
            path = folder / f"{number:06d}.csv"
            path.write_bytes(number.to_bytes(_FILE_BYTES, "big"))
            os.utime(path, (0, 0))

        def opened() -> None:
            with KnownHashes(Path(temporary, "hashes")) as known:
                found = open_inbox(ScoringRun(files=ReviewFiles(path=str(folder))), known.fingerprint)
            if len(found.files) != files or known.fault:
                raise RuntimeError(f"of {files} files, {len(found.files)} are found: {known.fault}")

        return {"the first time": _timed(opened), "again": _timed(opened)}


def _tables(costs: Sequence[Cost], opened: dict[str, tuple[float, float]], plans: int, files: int) -> list[Table]:
    rows = [
        [
            cost.what,
            f"{cost.requests:,}",
            f"{cost.seconds:.1f}",
            f"{cost.cpu_seconds:.1f}",
            f"{cost.delayed_seconds:.1f}",
        ]
        for cost in costs
    ]
    columns = ("", "requests", "seconds", "processor seconds", f"seconds at {1000 * _DELAY:.0f} ms a request")
    note = (
        f"A log of {plans:,} plans with {_SHARDS} shards each, all of which are scored; {PLANS_PER_CHECKPOINT - 1} "
        "plans are newer than the checkpoint. The store is in memory; a listing is a request for each thousand objects."
    )
    inbox = [[name, f"{seconds:.1f}", f"{cpu_seconds:.1f}"] for name, (seconds, cpu_seconds) in opened.items()]
    of_inbox = (
        f"{files:,} files of {_FILE_BYTES:,} bytes, which the system has in memory: what a disk takes is left out."
    )
    return [
        Table("A run that finds nothing new", columns, rows, note),
        Table("An inbox is opened", ("", "seconds", "processor seconds"), inbox, of_inbox),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__)
    parser.add_argument("--plans", type=int, default=_PLANS, metavar="N", help="%(default)s by default")
    parser.add_argument("--output", type=Path, help=f"folder of the results; {RESULTS} by default")
    options = parser.parse_args(arguments)
    table = ScoreTable("memory:///table", "0123456789abcdef0123")
    inbox, nothing = write_log(table, options.plans), Inbox({}, {}, "there are no files")
    costs = [
        measure("nothing in the inbox", table, nothing, checkpoints=True),
        measure("all files still in the inbox", table, inbox, checkpoints=True),
        measure("all files, no checkpoint yet", table, inbox, checkpoints=False),
    ]
    opened = open_inboxes(len(inbox.files))
    output = options.output or (RESULTS if options.plans >= _PLANS else SAMPLES)
    numbers = {"plans": options.plans, "runs": [asdict(cost) for cost in costs], "inbox": opened}
    tables = _tables(costs, opened, options.plans, len(inbox.files))
    print(write_results(output, "ledger", "A run after years of runs", tables, numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
