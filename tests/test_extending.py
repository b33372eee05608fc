"""The worked examples of docs/extending.md work, on a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_DOCUMENT = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = dict(part.split("\n", 1) for part in _DOCUMENT.split("\n## ")[1:])
# A block of Python with a path after the language is a new file, one without is a check to run.
_BLOCK = re.compile(r"```(python|diff)(?: (\S+))?\n(.*?)```", re.DOTALL)


def test_there_are_three_examples() -> None:
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "sentiment_model", tmp_path / "sentiment_model")
    checks = []
    for language, path, code in _BLOCK.findall(EXAMPLES[name]):
        if language == "diff":
            applied = subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=code, text=True, capture_output=True)
            assert applied.returncode == 0, applied.stderr
        elif path:
            (tmp_path / path).write_text(code)
        else:
            checks.append(code)
    (check,) = checks
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert_copy = f"import sentiment_model\nassert sentiment_model.__file__.startswith({str(tmp_path)!r})\n"
    ran = subprocess.run(
        [sys.executable, "-c", assert_copy + check],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
