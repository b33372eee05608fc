"""Processes of the local engine that start before there is work for them."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import polars as pl
import psutil
import pytest
from bulk import ArenaCounter, HeavyWorker, OnceUnlucky, prepare, run_on
from servers import ROOT, wait_for
from tiny import tiny_bundle

from flows.score import score
from sentiment_model.errors import ScoringError
from sentiment_model.models.bundle import Predictor
from sentiment_model.registry.tracking import Tracker
from sentiment_model.scoring import engines
from sentiment_model.scoring.engines import JobShard, LocalEngine, ModelWorker, WorkerLostError
from sentiment_model.scoring.shards import Piece, Shard
from sentiment_model.scoring.summary import ScoringSummary
from sentiment_model.settings import Settings
from sentiment_model.sources import split
from sentiment_model.sources.records import read_ahead
from sentiment_model.text.reviews import Batch

SHARD = Shard(name="a.csv", pieces=(Piece(file="key", name="a.csv"),))


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """A large text file, and small ones."""
    folder = tmp_path / "in"
    folder.mkdir()
    rows = pl.DataFrame({"id": range(300), "text": ["not a bad film"] * 300})
    rows.with_columns(pad=pl.lit("x" * 3000)).write_ndjson(folder / "large.jsonl")
    for number in range(3):
        rows[:10].write_csv(folder / f"small{number}.csv")
    return folder


@pytest.fixture
def champion(settings_in: Path, prefect_server: None) -> None:
    tracker = Tracker(Settings())
    tiny_bundle(settings_in / "bundle")
    run_id = tracker.start_run("sentiment", "fp", name="test", params={}, tags={}).run_id
    tracker.registry.register(settings_in / "bundle", "sentiment", run_id, promote=True, tags={})


def workers(of: psutil.Process) -> list[psutil.Process]:
    return [each for each in of.children() if "spawn_main" in " ".join(each.cmdline())]


@pytest.mark.usefixtures("champion")
def test_processes_start_while_a_large_file_is_split(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is started for the shards then, which there are more of than processes."""
    read = split.read_batches
    during: list[psutil.Process] = []
    after: list[psutil.Process] = []

    def read_once_processes_run(*arguments: Any, **options: Any) -> Iterator[Batch]:
        wait_for(lambda: len(workers(psutil.Process())) == 2, "processes beside the split", 60)
        during.extend(workers(psutil.Process()))
        yield from read(*arguments, **options)

    class Watched(LocalEngine):
        def close(self) -> None:
            after.extend(workers(psutil.Process()))
            super().close()

    monkeypatch.setattr(split, "read_batches", read_once_processes_run)
    monkeypatch.setattr("tasks.score.LocalEngine", Watched)
    summary: ScoringSummary = score(run_on(inbox, shard_rows=100, workers=2))
    assert (summary.scored, summary.shards) == (330, 5)
    assert len(during) == 2
    assert after == during
    assert workers(psutil.Process()) == []


@pytest.mark.usefixtures("champion")
def test_the_processes_of_a_run_are_those_of_all_its_rounds(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (inbox / "large.jsonl").unlink()
    (inbox / "small3.csv").write_text("body\nno column named text\n")
    started: list[LocalEngine] = []

    class Watched(LocalEngine):
        def __init__(self, start: Callable[[], ModelWorker], workers: int) -> None:
            super().__init__(start, workers)
            started.append(self)

    monkeypatch.setattr("tasks.score.LocalEngine", Watched)
    # Four files together, which are halved until the broken one is alone.
    with pytest.raises(ScoringError, match=r"1 of 3 shards failed"):
        score(run_on(inbox, workers=1))
    assert len(started) == 1


def test_a_shard_is_sent_with_no_file_but_its_own(inbox: Path, tmp_path: Path, predictor: Predictor) -> None:
    job, shards = prepare(tmp_path / "table", predictor, run_on(inbox, shard_rows=100))
    for shard in shards:
        sent = JobShard.of(job, shard)
        assert {file.name for file in sent.job.sources.values()} == {piece.name for piece in shard.pieces}
        assert len(sent.job.splits) == shard.pieces[0].is_split
        assert (sent.job.key, sent.job.metadata, sent.name) == (job.key, job.metadata, shard.name)


@pytest.mark.timeout(60)
def test_a_process_that_dies_while_it_starts_is_replaced() -> None:
    before = workers(psutil.Process())
    with closing(LocalEngine(partial(HeavyWorker, bytes(8 << 20)), 1)) as engine:
        engine.warm_up(1)
        wait_for(lambda: len(workers(psutil.Process())) > len(before), "a process that starts", 20)
        (starting,) = (each for each in workers(psutil.Process()) if each not in before)
        starting.kill()
        with pytest.raises(WorkerLostError, match=r"died while a\.csv was in work"):
            engine.score(SHARD)
        assert engine.score(SHARD) >= 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("warm", [0, 1])
def test_a_process_that_could_not_start_fails_one_shard(tmp_path: Path, warm: int) -> None:
    with closing(LocalEngine(partial(OnceUnlucky, tmp_path / "marker"), 1)) as engine:
        engine.warm_up(warm)
        with pytest.raises(WorkerLostError, match=r"could not start: .*No space left"):
            engine.score(SHARD)
        assert engine.score(SHARD) >= 1


@pytest.mark.timeout(60)
def test_a_process_that_the_system_refuses_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = engines._Process.start, []

    def refuse_once(process: engines._Process) -> None:
        if not refused:
            refused.append(process)
            raise RuntimeError("can't start new thread")
        start(process)

    monkeypatch.setattr(engines._Process, "start", refuse_once)
    with closing(LocalEngine(ArenaCounter, 1)) as engine:
        engine.warm_up(1)
        assert engine.score(SHARD) >= 1
    assert refused


INTERRUPTED = """
import sys; sys.path.insert(0, "tests")
from contextlib import closing
from bulk import ArenaCounter
from sentiment_model.scoring.engines import LocalEngine

if __name__ == "__main__":
    try:
        with closing(LocalEngine(ArenaCounter, 2)) as engine:
            engine.warm_up(2)
            print("warm", flush=True)
            sys.stdin.read()
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_processes_leave_an_interrupt_to_the_one_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(INTERRUPTED)
    run = psutil.Popen(
        [sys.executable, str(tmp_path / "run.py")],
        cwd=ROOT,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout.readline() == "warm\n"
    wait_for(lambda: len(workers(run)) == 2, "processes that start", 60)
    started = workers(run)
    # They have come to Python's own handler, which would raise KeyboardInterrupt.
    wait_for(lambda: all(each.cpu_times().user > 0.3 for each in started), "processes that load libraries", 60)
    for process in (run, *started):  # as a terminal does
        process.send_signal(signal.SIGINT)
    complaints = run.communicate(timeout=60)[1]
    assert (run.returncode, complaints) == (130, "")
    assert not psutil.wait_procs(started, timeout=60)[1]


def test_so_many_batches_are_read_before_they_are_asked_for() -> None:
    read: list[int] = []
    enough = threading.Semaphore(0)

    def batches() -> Iterator[int]:
        for number in range(10):
            read.append(number)
            enough.release()
            yield number

    coming = read_ahead(batches(), 4)
    assert next(coming) == 0
    for _ in range(5):
        assert enough.acquire(timeout=60)
    assert read == [0, 1, 2, 3, 4]
    assert list(coming) == list(range(1, 10))
