"""The scoring flow with failpoints: ``python -m benchmarks.failpoints`` takes the options of ``python -m flows.score``.

The product knows nothing of them. This module wraps the few operations by which it changes a disk, and kills the
process that reaches a point which the environment names, or tells it that the disk is full. It can also set this
process's clock. Workers import this module as their main module, so they have the points too.
"""

import errno
import functools
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VARIABLE = "BENCHMARK_FAILPOINTS"
STARTED = "started"
"""File that a run leaves in the folder of its failpoints when all is imported and the flow starts."""

_OPERATIONS = {
    "split part": ("write", "close", "fsync", "fsync folder of"),
    "split manifest": ("write", "fsync", "link", "fsync folder of"),
    "plan": ("write", "fsync", "link", "fsync folder of"),
    "claim": ("write", "fsync", "link", "rename", "fsync folder of"),
    "scores": ("write", "close", "fsync", "fsync folder of"),
    "quarantine": ("write", "close", "fsync"),
    "receipt": ("write", "fsync", "link", "fsync folder of"),
    "shard": ("publish",),
    "published scores": ("rename", "fsync folder of"),
    "published quarantine": ("rename", "fsync folder of"),
    "staging": ("remove",),
    "manifest": ("write", "fsync", "link", "fsync folder of"),
    "checkpoint": ("write", "fsync", "rename", "fsync folder of"),
}
POINTS = tuple(
    f"{moment} {operation} {what}"
    for what, operations in _OPERATIONS.items()
    for operation in operations
    for moment in ("before", "after")
)
"""The name of every failpoint, in the order in which a run comes to them."""

_PATHS = {
    r"/split/[^/]+/(_manifest\.json|$)": "split manifest",
    r"/split/[^/]+/[0-9a-f]{12}/": "split part",
    r"/_log/[^/]+/plans/": "plan",
    r"/_log/[^/]+/claims/": "claim",
    r"/_log/[^/]+/receipts/": "receipt",
    r"/_log/[^/]+/manifests/": "manifest",
    r"/_log/[^/]+/checkpoints/": "checkpoint",
    r"/_staged/.*/quarantine": "quarantine",
    r"/_staged/": "scores",
    r"/scores/version=": "published scores",
    r"/quarantine/version=": "published quarantine",
}


@dataclass(frozen=True)
class Armed:
    """The points at which a run and its workers are killed, each once.

    Attributes:
        points: on which visit of a process to each point, 1 for the first.
        folder: where a process that is about to be killed leaves a file with the name of the point.
        full: whether it is not killed, but told that the disk is full.
        clock: seconds that the clocks of these processes are ahead.
        lease_seconds: how long a claim is taken seriously that is not renewed; as in the product where it is None.
    """

    points: dict[str, int]
    folder: str
    full: bool = False
    clock: float = 0.0
    lease_seconds: float | None = None

    def environment(self) -> dict[str, str]:
        """Return the environment variable that tells a process."""
        return {VARIABLE: json.dumps(asdict(self))}

    def fired(self) -> dict[str, str]:
        """Return which points have been reached by which process, `flow` or `worker`."""
        return {path.name: path.read_text() for path in Path(self.folder).iterdir() if path.name in self.points}


class _Failpoints:
    def __init__(self, armed: Armed) -> None:
        self._armed = armed
        self._visits: Counter[str] = Counter()
        self._lock = threading.Lock()

    def reach(self, point: str) -> None:
        with self._lock:
            self._visits[point] += 1
            if self._armed.points.get(point) != self._visits[point]:
                return
            try:
                with Path(self._armed.folder, point).open("x") as file:
                    file.write("flow" if multiprocessing.parent_process() is None else "worker")
            except FileExistsError:  # another process, or another run, was killed here
                return
            if self._armed.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, owner: Any, name: str, operation: str, what: Callable[..., str | None]) -> None:
        """Put a point before and one after a function where `what`, given its arguments, names what it works on."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            of = what(*arguments, **options)
            if of is None or operation not in _OPERATIONS[of]:
                return function(*arguments, **options)
            self.reach(f"before {operation} {of}")
            result = function(*arguments, **options)
            self.reach(f"after {operation} {of}")
            return result

        setattr(owner, name, wrapped)


def _kind(path: str | os.PathLike[str]) -> str | None:
    return next((kind for pattern, kind in _PATHS.items() if re.search(pattern, os.fspath(path))), None)


def _install(armed: Armed) -> None:
    import pyarrow.parquet as pq

    from sentiment_model.scoring import claims, engines, ledger
    from sentiment_model.scoring import table as score_table
    from sentiment_model.store import objects

    ledger.PLANS_PER_CHECKPOINT = 1  # so that a run, which makes one plan, comes to a checkpoint
    if armed.lease_seconds is not None:
        claims.LEASE_SECONDS = armed.lease_seconds
    engines._without_main_module = nullcontext
    right = time.time
    time.time = lambda: right() + armed.clock
    points = _Failpoints(armed)
    points.wrap(Path, "write_bytes", "write", lambda path, *_: _kind(path))
    points.wrap(pq.ParquetWriter, "write_table", "write", lambda writer, *_: _kind(writer.where))
    points.wrap(pq.ParquetWriter, "close", "close", lambda writer: _kind(writer.where))
    points.wrap(objects, "fsync", "fsync", lambda path: None if path.is_dir() else _kind(path))
    points.wrap(objects, "fsync", "fsync folder of", lambda path: _kind(f"{path}/") if path.is_dir() else None)
    points.wrap(os, "link", "link", lambda _, target: _kind(target))
    points.wrap(os, "replace", "rename", lambda _, target: _kind(target))
    points.wrap(score_table.ScoreTable, "_publish", "publish", lambda *_: "shard")
    points.wrap(score_table, "rmtree", "remove", lambda *_, **__: "staging")


if __name__ in ("__main__", "__mp_main__"):
    armed = Armed(**json.loads(os.environ[VARIABLE]))
    _install(armed)

if __name__ == "__main__":
    import flows.score  # noqa: F401 - so that all is imported when the flow starts
    from flows._cli import run_flow
    from sentiment_model.config import ScoringRun

    Path(armed.folder, STARTED).touch()
    sys.exit(run_flow(ScoringRun, "score"))
