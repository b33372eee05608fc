"""What the benchmarks write: tables as Markdown, the numbers as JSON, and a figure."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.isolated import ROOT

RESULTS = ROOT / "benchmarks" / "results"
SAMPLES = RESULTS / "sample"
"""Where a run on a sample writes unless told otherwise, so that it never replaces results."""


@dataclass(frozen=True)
class Table:
    """A table with a heading above it and a note below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """Return the table; the first column is words, the others are numbers."""
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"## {self.title}\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")


def environment() -> dict[str, Any]:
    """Return when, from which commit and on what machine a benchmark ran."""
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        # Results that are written again and again while a benchmark runs are no change of what runs.
        "uncommitted_changes": bool(
            _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{RESULTS.relative_to(ROOT)}")
        ),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "scikit-learn", "polars", "numpy")},
    }


def write_results(
    folder: Path, name: str, heading: str, tables: Sequence[Table], numbers: dict[str, Any], figure: str | None = None
) -> str:
    """Write `<name>.md`, `<name>.json` and, where there is a figure, `<name>.svg`; return the Markdown."""
    about = environment()
    folder.mkdir(parents=True, exist_ok=True)
    where = (
        f"{about['date'][:10]}, commit {about['commit'][:12] or 'unknown'}"
        f"{' with uncommitted changes' if about['uncommitted_changes'] else ''}, {about['cpu']}, "
        f"{about['threads']} threads, Python {about['python']}, torch {about['torch']}."
    )
    parts = [f"# {heading}\n\n{where}\n", *(table.markdown() for table in tables)]
    if figure:
        parts.append(f"![{heading}]({name}.svg)\n")
        (folder / f"{name}.svg").write_text(figure)
    markdown = "\n".join(parts)
    (folder / f"{name}.md").write_text(markdown)
    (folder / f"{name}.json").write_text(json.dumps({"environment": about, **numbers}, indent=2) + "\n")
    return markdown


def _git(*arguments: str) -> str:
    """Return git's answer; nothing where there is no git or no checkout."""
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
