"""The scoring flow on bad days: ``python -m benchmarks.bad_days``; `--help` lists the options.

What :mod:`benchmarks.faults` does with SIGKILL, this does with faults after which everybody lives on: an object store
behind a proxy that loses, delays and repeats requests (:mod:`benchmarks.proxy`); a disk that is full at each write;
machines with the same name, other processes and another time. A run that ends without success is started again until
it succeeds, and then once more, when there is nothing new: it must say of all rows what is true. The table must hold
what one holds that nobody disturbed, row by row.
"""

import argparse
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import polars as pl

from benchmarks.failpoints import POINTS, Armed
from benchmarks.isolated import ROOT
from benchmarks.proxy import FAULTS, Fault, FaultyStore, faulty_store
from benchmarks.published import Differences, count_rows, differences, manifest_files, unpublished, visible_files
from benchmarks.rounds import flow_command, last_line, numbered_folders, workplace
from benchmarks.table import RESULTS, SAMPLES, Table, write_results
from sentiment_model.store.objects import Objects

_MOST_STARTS = 12
_RUN_SECONDS = 900
_POINTS_A_ROUND = 7
_SHARE = 0.05  # of all requests, where they go wrong at random
_HOUR = 3600.0
_BUCKET = "s3://bench"
_APART = ("unshare", "--fork", "--pid", "--mount-proc")
_LABELLED = re.compile(r"labelled (\d+) of (\d+) rows", re.IGNORECASE)


@dataclass
class Round:
    """What happened in a round.

    Attributes:
        what: the kind of fault.
        where: format of the table and engine.
        faults: how many faults there were, by name; 0 where they cannot be counted.
        starts: how often a run was started, without the one when there was nothing new.
        failures: last lines of runs that failed.
        rows: rows that readers found at the end.
        files: how they differ from those of the undisturbed run.
        manifest: the same for the files that manifests name.
        unpublished: files that readers saw though no receipt names them.
        untrue: what the last run said of all rows, where it is wrong.
    """

    what: str
    where: str
    faults: dict[str, int] = field(default_factory=dict)
    starts: int = 0
    failures: list[str] = field(default_factory=list)
    rows: int = 0
    files: Differences = field(default_factory=Differences)
    manifest: Differences = field(default_factory=Differences)
    unpublished: int = 0
    untrue: str = ""

    @property
    def good(self) -> bool:
        """Whether each row is there once and the same, and was reported."""
        return not (self.files or self.manifest or self.unpublished or self.untrue)


class Bench:
    """Plays rounds on the same review files."""

    def __init__(self, folder: Path, inbox: Path) -> None:
        """Score the files once undisturbed.

        Args:
            folder: gets the table of each round.
            inbox: the review files.

        Raises:
            RuntimeError: that failed.
        """
        self._folders = numbered_folders(folder)
        self._inbox = inbox
        self._clean: dict[str, list[Path]] = {}
        clean = next(self._folders)
        if self._run(clean, str(clean / "store"), "clean", [], Armed({}, str(clean))):
            raise RuntimeError(f"the undisturbed run failed: {last_line(clean / 'clean.log')}")
        self._clean = visible_files(clean / "store" / "scores")
        self.scored = count_rows({"scores": self._clean["scores"], "quarantine": []})
        self.rows = count_rows(self._clean)

    def _run(
        self, folder: Path, store: str, name: str, options: list[str], armed: Armed, within: Sequence[str] = ()
    ) -> int:
        """Run the flow once; return its exit status."""
        with (folder / f"{name}.log").open("wb") as log:
            return subprocess.run(
                [*within, *flow_command(self._inbox), *options],
                cwd=ROOT,
                env=os.environ | armed.environment() | {"SENTIMENT_STORE_URL": store},
                stdout=log,
                stderr=log,
                timeout=_RUN_SECONDS,
                check=False,
            ).returncode

    def play(
        self,
        what: str,
        where: str,
        *,
        store: str | None = None,
        runs: Sequence[tuple[Armed, Sequence[str]]] | None = None,
        copy: Callable[[Path], None] | None = None,
    ) -> Round:
        """Score the files into a new table, and compare it with the undisturbed one.

        Args:
            what: the kind of fault.
            where: format of the table and engine.
            store: URL of an object store, or None for a folder.
            runs: the runs that work at once, each with its failpoints and the command within which it runs.
            copy: copies the table of an object store to a folder, when all is done.

        Raises:
            RuntimeError: a run comes to no end.
        """
        form, engine = where.split(", ")
        options = ["--output-format", form, "--engine", engine]
        folder = next(self._folders)
        played = Round(what, where)
        url = f"{store}/{folder.name}" if store else str(folder / "store")

        def until_done(number: int, armed: Armed, within: Sequence[str]) -> None:
            for start in range(_MOST_STARTS):
                name = f"run-{number}-{start}"
                played.starts += 1
                if self._run(folder, url, name, options, armed, within) == 0:
                    return
                played.failures.append(last_line(folder / f"{name}.log"))
            raise RuntimeError(f"{folder} is not done after {_MOST_STARTS} starts: {played.failures[-1]}")

        plans = runs or [(Armed({}, str(folder)), ())]
        with ThreadPoolExecutor() as threads:
            work = [threads.submit(until_done, number, *plan) for number, plan in enumerate(plans)]
            for each in work:
                each.result()
        if self._run(folder, url, "again", options, Armed({}, str(folder))):
            played.failures.append(last_line(folder / "again.log"))
        said = _LABELLED.findall((folder / "again.log").read_text())
        if said != [(str(self.scored), str(self.rows))]:
            played.untrue = f"{said} in place of {self.scored} of {self.rows}"
        if copy:
            copy(folder)
        self._compare(played, folder / "store" / "scores", form)
        return played

    def _compare(self, played: Round, table: Path, form: str) -> None:
        if form == "delta":
            from deltalake import DeltaTable

            rows = pl.DataFrame(pl.from_arrow(DeltaTable(str(table / "delta")).to_pyarrow_table()))
            (table / "scores").mkdir()
            rows = rows.drop("version", "date").with_columns(pl.col("id").cast(pl.String))  # as files of CSV have it
            rows.write_parquet(table / "scores" / "delta.parquet")
        found = visible_files(table)
        played.rows = count_rows(found)
        played.files = differences(self._clean, found)
        if form == "parquet":
            played.manifest = differences(self._clean, manifest_files(table))
            played.unpublished = len(unpublished(table))


def _copy(folder: Path) -> None:
    """Copy the table that a round has left in an object store."""
    objects = Objects(f"{_BUCKET}/{folder.name}")
    for each in objects.list("scores"):
        target = folder / "store" / each.path
        target.parent.mkdir(parents=True, exist_ok=True)
        objects.download(each.path, target)


_PLACES = ("parquet, local", "delta, ray")


def stores(bench: Bench, folder: Path, faults: Sequence[Fault], places: Sequence[str], seed: int) -> Iterator[Round]:
    """Let requests to an object store go wrong: the first of each kind, then any of two runs that work at once."""
    with faulty_store(_BUCKET.removeprefix("s3://")) as store:
        os.environ.update(store.environment, AWS_TIMEOUT="3s")

        for place in places:
            for fault in faults:
                with store.faults(fault):
                    played = bench.play(f"store: {FAULTS[fault]}", place, store=_BUCKET, copy=_copy)
                yield _counted(played, store)
            with store.faults(share=_SHARE, seed=seed):
                two = [(Armed({}, str(folder)), ())] * 2
                what = f"store: any of these, at {_SHARE:.0%} of all requests, two runs at once"
                played = bench.play(what, place, store=_BUCKET, runs=two, copy=_copy)
            yield _counted(played, store)


def _counted(played: Round, store: FaultyStore) -> Round:
    for (method, kind, _), count in store.happened.items():
        name = f"{method} {kind}"
        played.faults[name] = played.faults.get(name, 0) + count
    return played


def full_disks(bench: Bench, folder: Path) -> Iterator[Round]:
    """Let the disk be full at each point at which something is written, once."""
    points = [point for point in POINTS if point.startswith("before ") and "publish" not in point]
    for start in range(0, len(points), _POINTS_A_ROUND):
        some = points[start : start + _POINTS_A_ROUND]
        hits = folder / f"full-{start}"
        hits.mkdir()
        armed = Armed(dict.fromkeys(some, 1), str(hits), full=True)
        played = bench.play("disk full", "parquet, local", runs=[(armed, ())])
        played.faults = dict.fromkeys(armed.fired(), 1)
        yield played


def machines(bench: Bench, folder: Path) -> Iterator[Round]:
    """Let two machines with one name and an hour between their clocks share a table; renewals fail at times."""
    if subprocess.run([*_APART, "true"], check=False, capture_output=True).returncode:
        print("no right to make a PID namespace: machines with one name are left out", file=sys.stderr)
        return
    for number, place in enumerate(("parquet, local", "delta, local")):
        hits = folder / f"machines-{number}"
        hits.mkdir()
        renewals = {"before write claim": 3, "before rename claim": 2}
        ahead = Armed(renewals, str(hits), full=True, clock=_HOUR, lease_seconds=0.4)
        here = Armed({}, str(hits), lease_seconds=0.4)
        what = "two machines with one host name, clocks an hour apart, renewals that fail"
        played = bench.play(what, place, runs=[(here, ()), (ahead, _APART)])
        played.faults = dict.fromkeys(ahead.fired(), 1)
        yield played


def _table(rounds: Sequence[Round], rows: int) -> Table:
    lines = []
    for what, where in dict.fromkeys((played.what, played.where) for played in rounds):
        some = [played for played in rounds if (played.what, played.where) == (what, where)]
        files = sum((played.files for played in some), Differences())
        manifest = sum((played.manifest for played in some), Differences())
        lines.append(
            [
                f"{what} ({where})",
                str(len(some)),
                str(sum(sum(played.faults.values()) for played in some)),
                str(sum(played.starts for played in some)),
                str(sum(len(played.failures) for played in some)),
                f"{sum(played.rows for played in some):,}",
                *(str(max(getattr(files, name), getattr(manifest, name))) for name in asdict(files)),
                str(sum(played.unpublished for played in some)),
                str(sum(bool(played.untrue) for played in some)),
            ]
        )
    columns = ("", "rounds", "faults", "starts", "failed", "rows", "lost", "doubled", "different")
    note = (
        f"Each round scores {rows:,} rows, quarantined ones included, into a table of its own, and is started again "
        "until it succeeds. Rows are compared with those of an undisturbed run, as readers of all files (or of the "
        "Delta table) see them and by the manifests; the larger figure counts. Strange files have no receipt. The "
        "figures of a run are untrue where the next one, which finds nothing new, does not report all rows."
    )
    return Table("Rows at the end", (*columns, "strange files", "untrue figures"), lines, note)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 where a row is lost, doubled or different, or a figure untrue, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bad_days", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one fault of a store and one place only")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is left to chance")
    parser.add_argument("--output", type=Path, help=f"folder of the results; {RESULTS} by default")
    options = parser.parse_args(arguments)
    output = options.output or (SAMPLES if options.quick else RESULTS)
    rounds: list[Round] = []
    with workplace() as (folder, inbox):
        bench = Bench(folder, inbox)
        if options.quick:
            parts = [stores(bench, folder, ("unheard",), _PLACES[:1], options.seed)]
        else:
            every_fault = stores(bench, folder, (*FAULTS,), _PLACES, options.seed)
            parts = [full_disks(bench, folder), machines(bench, folder), every_fault]
        for played in itertools.chain(*parts):
            rounds.append(played)
            verdict = "good" if played.good else f"{played.files} {played.manifest} {played.untrue}"
            print(f"{played.what}, {played.where}: {verdict}; {played.starts} starts", flush=True)
            for line in played.failures:
                print(f"    failed: {line}", flush=True)
            # After each round, since all of them take long: whoever ends this early keeps what was found.
            numbers = {"seed": options.seed, "rows": bench.rows, "rounds": [asdict(each) for each in rounds]}
            markdown = write_results(output, "bad-days", "Scoring on bad days", [_table(rounds, bench.rows)], numbers)
    print(markdown)
    return int(not all(played.good for played in rounds))


if __name__ == "__main__":
    sys.exit(main())
