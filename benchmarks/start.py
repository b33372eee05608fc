"""How long a command keeps people waiting: ``python -m benchmarks.start``.

Each command is a process of its own, timed from outside: from its start over the lines that it writes to its end. They
take turns in rounds, the first of which does not count, and each figure is the median of the others.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.data import prepare
from benchmarks.isolated import ROOT, ProcessFailedError
from benchmarks.registry import register_untrained
from benchmarks.rounds import prefect_server
from benchmarks.table import RESULTS, SAMPLES, Table, write_results

_REVIEWS = 10
_VOCABULARY_REVIEWS = 4000
_ROUNDS = 5
_LIBRARIES = 12

# What a phase ends with: a line that the command writes, as a part of it.
_PHASES = {
    "until the flow begins": "Beginning flow run",
    "model": "Task run 'fetch .*Finished",
    "scoring": "Shard 1 of 1",
    "report": "Flow run .*Finished",
}
_END = "end"


@dataclass
class Start:
    """One command's time.

    Attributes:
        seconds: from the start of its process to its end.
        cpu_seconds: of all its processes, system time included.
        phases: seconds of each phase, as far as the command has it.
    """

    seconds: float
    cpu_seconds: float
    phases: dict[str, float] = field(default_factory=dict)


def measure(arguments: Sequence[str], environment: dict[str, str]) -> Start:
    """Run a command and time it.

    Raises:
        ProcessFailedError: it failed.
    """
    before, started = _cpu_seconds(), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    lines = [(time.perf_counter(), line) for line in process.stderr]
    status, ended = process.wait(), time.perf_counter()
    if status:
        raise ProcessFailedError(lines[-1][1].strip() if lines else f"the command ended with status {status}")
    found = Start(ended - started, _cpu_seconds() - before)
    last = started
    for phase, pattern in _PHASES.items():
        if moment := next((moment for moment, line in lines if re.search(pattern, line)), None):
            found.phases[phase], last = moment - last, moment
    if found.phases:
        found.phases[_END] = ended - last
    return found


def imports(environment: dict[str, str]) -> dict[str, float]:
    """Return the seconds that each library's modules take to import for a scoring, measured by Python itself."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import gc; gc.disable(); import flows.score"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds: defaultdict[str, float] = defaultdict(float)
    for own, module in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)", done.stderr):
        seconds[module.partition(".")[0]] += int(own) / 1e6
    return dict(seconds)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _middle(starts: Sequence[Start]) -> Start:
    return Start(
        median(start.seconds for start in starts),
        median(start.cpu_seconds for start in starts),
        {phase: median(start.phases[phase] for start in starts) for phase in starts[0].phases},
    )


def _row(name: str, start: Start) -> list[str]:
    phases = (start.phases.get(phase) for phase in (*_PHASES, _END))
    figures = (start.seconds, *phases, start.cpu_seconds)
    return [name, *("" if figure is None else f"{figure:.2f}" for figure in figures)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_ROUNDS, metavar="N", help="how often each command is timed")
    parser.add_argument("--output", type=Path, help=f"folder of the results; {RESULTS} by default")
    options = parser.parse_args(arguments)
    starts: defaultdict[str, list[Start]] = defaultdict(list)
    libraries: defaultdict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="sentiment-benchmark-") as temporary:
        folder = Path(temporary)
        dataset = prepare(str(folder / "store"), _VOCABULARY_REVIEWS)
        dataset.scan().select(text="raw").head(_REVIEWS).collect().write_csv(folder / "reviews.csv")
        os.environ.update(register_untrained(folder, dataset))
        os.environ.pop("PREFECT_API_URL", None)
        alone = os.environ | {"PREFECT_HOME": str(folder / "prefect-alone")}
        with prefect_server(folder):
            served = dict(os.environ)
            for number in range(options.rounds + 1):
                new = os.environ | {"PREFECT_HOME": str(folder / f"prefect-{number}")}
                new.pop("PREFECT_API_URL")
                found = {"`--help`": measure(["-m", "flows.score", "--help"], alone)}
                places = {"a Prefect server runs": served, "no server runs": alone, "none has ever run": new}
                for name, environment in places.items():
                    file = ["--files.path", str(folder / "reviews.csv"), "--rescore", f"{name[0]}{len(name)}-{number}"]
                    found[name] = measure(["-m", "flows.score", *file], environment)
                if number:  # in the first round, loops are compiled and databases made
                    for name, start in found.items():
                        starts[name].append(start)
                        print(" | ".join(_row(name, start)), flush=True)
                    for library, seconds in imports(served).items():
                        libraries[library].append(seconds)
    numbers = {
        "starts": {name: [asdict(start) for start in each] for name, each in starts.items()},
        "imports": dict(libraries),
    }
    output = options.output or (RESULTS if options.rounds >= _ROUNDS else SAMPLES)
    print(write_results(output, "start", "From a command to its answer", _tables(starts, libraries), numbers))
    return 0


def _tables(starts: Mapping[str, Sequence[Start]], libraries: Mapping[str, Sequence[float]]) -> list[Table]:
    rounds = len(next(iter(starts.values())))
    commands = Table(
        f"Seconds until {_REVIEWS} reviews are labelled, and until help is shown",
        ("", "in all", *_PHASES, _END, "of all processors"),
        [_row(name, _middle(each)) for name, each in starts.items()],
        f"Medians of {rounds} rounds. Where no server runs, one starts while the flow's libraries load; where none has "
        "ever run, it makes its database first.",
    )
    largest = sorted(((median(each), name) for name, each in libraries.items()), reverse=True)
    rest = sum(seconds for seconds, _ in largest[_LIBRARIES:])
    loads = Table(
        "Seconds that the libraries of scoring take to load",
        ("", "s"),
        [[name, f"{seconds:.2f}"] for seconds, name in largest[:_LIBRARIES]] + [["all others", f"{rest:.2f}"]],
        "By Python's own account (`-X importtime`), which slows it down a little: a library's own modules, without "
        "those of other libraries that they load.",
    )
    return [commands, loads]


if __name__ == "__main__":
    sys.exit(main())
