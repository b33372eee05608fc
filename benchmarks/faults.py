"""The scoring flow, killed again and again: ``python -m benchmarks.faults``; `--help` lists the options.

Each round scores the same files into a table of its own. In most rounds SIGKILL ends processes of the run at a few
named points (:mod:`benchmarks.failpoints`) and all of them at once at a random moment; in every third round a second
run works on the same table meanwhile. A run that ends without success is started again until it succeeds. Then the
table must hold what a run holds that nobody disturbed, row by row.
"""

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.failpoints import POINTS, STARTED, Armed
from benchmarks.isolated import ROOT
from benchmarks.published import Differences, count_rows, differences, manifest_files, unpublished, visible_files
from benchmarks.rounds import flow_command, last_line, numbered_folders, workplace
from benchmarks.table import RESULTS, SAMPLES, Table, write_results

RANDOM = "a random moment"
_POINTS_A_ROUND = 7
_RIVAL_EVERY = 3
_ROUND_SECONDS = 1800
_POLL_SECONDS = 0.1
_MOST_MISSES = 8
_KILLS = 100


@dataclass
class Round:
    """What happened in a round.

    Attributes:
        rival: whether a second run took part.
        kills: point and process (`flow`, `worker` or `all`) of each kill.
        starts: how often a run was started.
        failures: last lines of runs that failed although nobody killed one of their processes.
        rows: rows that readers found at the end.
        files: how the rows of the files that readers see differ from those of the undisturbed run.
        manifest: the same for the files that the run's manifest names.
        unpublished: files that readers saw, at any time, before they were published.
    """

    rival: bool
    kills: list[tuple[str, str]] = field(default_factory=list)
    starts: int = 0
    failures: list[str] = field(default_factory=list)
    rows: int = 0
    files: Differences = field(default_factory=Differences)
    manifest: Differences = field(default_factory=Differences)
    unpublished: int = 0

    @property
    def good(self) -> bool:
        """Whether each row is there once and the same, and was not seen too early."""
        return not (self.files or self.manifest or self.unpublished)


class _Run:
    """A run of the flow: a process that leads a group with all that it starts."""

    def __init__(self, inbox: Path, folder: Path, name: str, armed: Armed) -> None:
        self._armed = armed
        self._fired_before = len(armed.fired())
        self._started = Path(armed.folder, STARTED)
        self._started.unlink(missing_ok=True)
        self._log = folder / f"{name}.log"
        environment = os.environ | armed.environment() | {"SENTIMENT_STORE_URL": str(folder / "store")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                flow_command(inbox),
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def status(self) -> int | None:
        """Return the exit status, negative for a signal, or None while the run lasts."""
        return self._process.poll()

    def work_seconds(self) -> float:
        """Return for how long the flow has run, without what Python needs to import it."""
        return time.time() - self._started.stat().st_mtime if self._started.exists() else 0.0

    def was_hit(self) -> bool:
        """Tell whether one of its processes was killed at a point."""
        return len(self._armed.fired()) > self._fired_before

    def kill(self) -> bool:
        """Kill all its processes at once; return whether it still ran. Workers that outlive the flow end themselves."""
        if self._process.poll() is not None:
            return False
        os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait() < 0

    def last_words(self) -> str:
        """Return the last line that it wrote."""
        return last_line(self._log) or f"it ended with status {self._process.returncode}"


class _Ended(NamedTuple):
    """How often a run was started, how often it was killed at random, and last lines where it failed without a kill."""

    starts: int
    kills: int
    failures: list[str]


class Bench:
    """Plays rounds on the same review files."""

    def __init__(self, folder: Path, inbox: Path, seed: int) -> None:
        """Score the files once without a kill.

        Args:
            folder: gets the table of each round.
            inbox: the review files.
            seed: of what is left to chance.

        Raises:
            RuntimeError: that failed.
        """
        self._folders = numbered_folders(folder)
        self._inbox = inbox
        self._chance = random.Random(seed)
        self._seconds = 0.0
        clean = next(self._folders)
        with self._start(clean, "clean", {}) as run:
            while run.status() is None:
                self._seconds = run.work_seconds()
                time.sleep(_POLL_SECONDS)
            if run.status():
                raise RuntimeError(f"the undisturbed run failed: {run.last_words()}")
        self._clean = visible_files(_table(clean))
        self.rows = count_rows(self._clean)

    def _start(self, folder: Path, name: str, points: dict[str, int]) -> _Run:
        kills = folder / name
        kills.mkdir(exist_ok=True)
        return _Run(self._inbox, folder, name, Armed(points, str(kills)))

    def play(self, points: dict[str, int], *, at_random: bool, rival: bool) -> Round:
        """Score the files into a new table, killing one run, and compare the table with the undisturbed one.

        Args:
            points: where to kill whoever comes there, and on which visit.
            at_random: whether to kill all processes of the run once at a random moment too.
            rival: whether another run, which nobody kills, works on the same table meanwhile.

        Raises:
            RuntimeError: it comes to no end.
        """
        folder, played = next(self._folders), Round(rival)
        table, too_early = _table(folder), set[Path]()
        moment = self._chance.uniform(0, self._seconds) if at_random else None
        runs = [("killed", points, moment), *([("rival", dict[str, int](), None)] if rival else [])]
        self._chance.shuffle(runs)
        stop = threading.Event()
        with ThreadPoolExecutor() as threads, ExitStack() as at_end:
            at_end.callback(stop.set)  # whoever interrupts the benchmark does not wait for the runs
            work: list[Future[_Ended]] = []
            for name, armed, when in runs:
                if work:
                    time.sleep(self._chance.uniform(0, self._seconds))
                work.append(threads.submit(self._until_done, folder, name, armed, when, stop))
            while not all(each.done() for each in work):
                too_early.update(unpublished(table))
                time.sleep(_POLL_SECONDS)
        for each in work:
            ended = each.result()
            played.starts += ended.starts
            played.failures += ended.failures
            played.kills += [(RANDOM, "all")] * ended.kills
        played.kills += Armed(points, str(folder / "killed")).fired().items()
        played.unpublished = len(too_early.union(unpublished(table)))
        found = visible_files(table)
        played.rows = count_rows(found)
        played.files = differences(self._clean, found)
        played.manifest = differences(self._clean, manifest_files(table))
        return played

    def _until_done(
        self, folder: Path, name: str, points: dict[str, int], moment: float | None, stop: threading.Event
    ) -> _Ended:
        deadline = time.monotonic() + _ROUND_SECONDS
        starts, kills, failures = 0, 0, list[str]()
        status: int | None = None
        while status != 0:
            starts += 1
            with self._start(folder, name, points) as run:
                while (status := run.status()) is None:
                    if stop.wait(_POLL_SECONDS):
                        raise RuntimeError("interrupted")
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"{folder} is not done after {_ROUND_SECONDS} s: {run.last_words()}")
                    if moment is not None and run.work_seconds() > moment and run.kill():
                        moment, kills = None, kills + 1
                if status > 0 and not run.was_hit():
                    failures.append(run.last_words())
                if status == 0:
                    self._seconds = run.work_seconds()  # so that a machine's other work does not spoil the moments
        return _Ended(starts, kills, failures)


def _table(folder: Path) -> Path:
    return folder / "store" / "scores"


def play_rounds(bench: Bench, kills: int, seed: int) -> Iterator[Round]:
    """Play rounds until so many kills have happened: an eighth at random moments, the others at each point in turn.

    Raises:
        RuntimeError: a point is never reached.
    """
    chance = random.Random(seed)
    waiting: list[str] = []
    missed = Counter[str]()
    at_random = kills // 8
    named = kills - at_random
    for number in itertools.count(1):
        if len(waiting) < _POINTS_A_ROUND:
            waiting += [point for point in chance.sample(POINTS, len(POINTS)) if point not in waiting]
        chosen = waiting[: min(_POINTS_A_ROUND, named)]
        # Also later visits, of processes that have done something before; a first visit is sure.
        points = {point: 1 if missed[point] else chance.randint(1, 3) for point in chosen}
        played = bench.play(points, at_random=at_random > 0, rival=number % _RIVAL_EVERY == 0)
        yield played
        hit = [point for point, _ in played.kills]
        at_random -= hit.count(RANDOM)
        named -= len(hit) - hit.count(RANDOM)
        if not named and not at_random:
            return
        left = [point for point in chosen if point not in hit]
        missed.update(left)
        waiting = waiting[len(chosen) :] + left
        if any(missed[point] > _MOST_MISSES for point in left):
            raise RuntimeError(f"no run comes to these points: {', '.join(left)}")


def _line(number: int, played: Round) -> str:
    kills = "; ".join(f"{point} ({process})" for point, process in played.kills) or "none"
    verdict = "good" if played.good else f"files {played.files}, manifest {played.manifest}, {played.unpublished} early"
    failures = "".join(f"\n    failed by itself: {line}" for line in played.failures)
    rival = ", with a rival" if played.rival else ""
    return f"round {number}{rival}: {verdict}; {played.starts} starts; kills: {kills}{failures}"


def _kills_table(rounds: Sequence[Round]) -> Table:
    count = Counter(point for played in rounds for point, _ in played.kills)
    operations = list(dict.fromkeys(point.partition(" ")[2] for point in POINTS))
    rows = [[name, str(count[f"before {name}"]), str(count[f"after {name}"])] for name in operations]
    whole = f"At {RANDOM}, all processes of a run at once: {count[RANDOM]}."
    return Table("Kills by failpoint", ("", "before", "after"), rows, whole)


def _rows_table(rounds: Sequence[Round], rows: int) -> Table:
    lines = []
    for name, rival in (("one run", False), ("two runs at once, of which one is killed", True)):
        some = [played for played in rounds if played.rival == rival]
        files = sum((played.files for played in some), Differences())
        manifest = sum((played.manifest for played in some), Differences())
        lines.append(
            [
                name,
                str(len(some)),
                str(sum(len(played.kills) for played in some)),
                str(sum(played.starts for played in some)),
                str(sum(len(played.failures) for played in some)),
                f"{sum(played.rows for played in some):,}",
                *(str(max(getattr(files, what), getattr(manifest, what))) for what in asdict(files)),
                str(sum(played.unpublished for played in some)),
            ]
        )
    columns = (
        "",
        "rounds",
        "kills",
        "starts",
        "failed unkilled",
        "rows",
        "lost",
        "doubled",
        "different",
        "early files",
    )
    note = (
        f"Each round scores {rows:,} rows, quarantined ones included, into a table of its own, and is started again "
        "until it is done. Failures are ends of runs none of whose processes had been killed. Rows are compared with "
        "those of an undisturbed run, as readers of all files see them and by the manifests; the larger "
        "figure counts. Early files are those that readers could see before their receipt."
    )
    return Table("Rows after the last restart", columns, lines, note)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 where a row is lost, doubled or different, or was visible too early, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=_KILLS, metavar="N", help="how often; %(default)s by default")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is left to chance")
    parser.add_argument("--output", type=Path, help=f"folder of the results; {RESULTS} by default")
    options = parser.parse_args(arguments)
    output = options.output or (SAMPLES if options.kills < _KILLS else RESULTS)
    rounds: list[Round] = []
    with workplace() as (folder, inbox):
        bench = Bench(folder, inbox, options.seed)
        for played in play_rounds(bench, options.kills, options.seed):
            rounds.append(played)
            print(_line(len(rounds), played), flush=True)
            # After each round, since all of them take long: whoever ends this early keeps what was found.
            tables = [_rows_table(rounds, bench.rows), _kills_table(rounds)]
            numbers = {"seed": options.seed, "rows": bench.rows, "rounds": [asdict(each) for each in rounds]}
            markdown = write_results(output, "faults", "Scoring that is killed", tables, numbers)
    print(markdown)
    return int(not all(played.good for played in rounds))


if __name__ == "__main__":
    sys.exit(main())
