"""Runs a function in a fresh Python process, so that memory and time are its own.

The process gets the function's name and its arguments as JSON and answers in JSON. What a module imports at its top
counts for every function in it, so modules that are run this way import a contestant's libraries inside functions.
"""

import importlib
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_MAXRSS_OF_A_MIB = 1024 * 1024 if sys.platform == "darwin" else 1024
ROOT = Path(__file__).parent.parent


class ProcessFailedError(Exception):
    """The function raised, or its process died; the message is the last line that it wrote."""


def run_alone(function: str, **arguments: Any) -> tuple[Any, float]:
    """Call a function in a process of its own.

    Args:
        function: `module:name`.
        arguments: its arguments, JSON-able.

    Returns:
        what the function returned, and the peak resident memory in MiB of the process or the largest that it started.

    Raises:
        ProcessFailedError: the process failed.
    """
    with tempfile.TemporaryDirectory(prefix="sentiment-benchmark-") as folder:
        answer = Path(folder, "answer.json")
        command = [sys.executable, "-m", "benchmarks.isolated", function, json.dumps(arguments), str(answer)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise ProcessFailedError(lines[-1] if lines else f"the process ended with status {done.returncode}")
        reply = json.loads(answer.read_text())
    return reply["result"], reply["peak_mib"]


def peak_memory_mib() -> float:
    """Return the largest resident memory that this process ever had."""
    # On Linux, getrusage counts the memory of the parent at the moment of the fork too, which /proc does not.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MAXRSS_OF_A_MIB


def _of_children() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / _MAXRSS_OF_A_MIB


def main() -> None:
    """Answer one call."""
    module, _, name = sys.argv[1].partition(":")
    result = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    Path(sys.argv[3]).write_text(json.dumps({"result": result, "peak_mib": max(peak_memory_mib(), _of_children())}))


if __name__ == "__main__":
    main()
