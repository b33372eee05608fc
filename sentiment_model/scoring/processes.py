"""Which process of which machine: names that hold when clocks are set, and when containers share a host name."""

import os
import uuid
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
_GONE = {"Z", "X"}  # a zombie runs no code any more
_STATE, _STARTED = 0, 19  # fields of /proc/PID/stat after the program's name, see proc(5)


@cache
def machine() -> str:
    """Return a name of the place whose process ids this process sees: this boot of a kernel, and a PID namespace.

    Where it cannot be known, the name is this process's own, and no other process has the same.
    """
    try:
        if (_PROC / "self").readlink().name == str(os.getpid()):  # or /proc shows the processes of another namespace
            boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
            return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        pass
    return uuid.uuid4().hex


def started(pid: int) -> int | None:
    """Return when a process of this machine started, in clock ticks since boot; None where it is gone or unknown."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[_STATE] in _GONE else int(fields[_STARTED])
