"""Compiled loops are kept, and whatever becomes of what was kept, they run."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sentiment_model import compiled as module
from sentiment_model.compiled import compiled

SOURCE = """
def double(values):
    for place in range(len(values)):
        values[place] *= 2
"""


def load(path: Path) -> Any:
    """Return the loop of a module, as a process that has just started has it."""
    spec = importlib.util.spec_from_file_location("loops", path)
    assert spec
    assert spec.loader
    loops = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loops)
    return compiled(loops.double)


def run(loop: Any) -> tuple[int, int]:
    """Return how often it was found compiled, and how often not."""
    values = np.arange(3.0)
    loop(values)
    assert values.tolist() == [0, 2, 4]
    return sum(loop.stats.cache_hits.values()), sum(loop.stats.cache_misses.values())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "loops.py"
    path.write_text(SOURCE)
    assert run(load(path)) == (0, 1)
    assert run(load(path)) == (1, 0)
    return path


def test_a_loop_is_compiled_again_where_its_constants_may_differ(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_sources", lambda: "another ngrams.py")
    assert run(load(path)) == (0, 1)


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_what_is_damaged_is_compiled_again_and_kept(path: Path, ending: str) -> None:
    (kept,) = (path.parent / "__pycache__").glob(f"*{ending}")
    kept.write_bytes(b"")
    run(load(path))
    assert run(load(path)) == (1, 0)


def test_where_nothing_can_be_kept_it_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_index", full)
    monkeypatch.setattr(module, "_sources", lambda: "new")
    assert run(load(path)) == (0, 1)
    space: dict[str, Any] = {}
    exec(SOURCE, space)
    loop = compiled(space["double"])
    values = np.arange(3.0)
    loop(values)
    assert values.tolist() == [0, 2, 4]
