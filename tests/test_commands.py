"""The commands of the documents, word for word: run here in a folder like a user's, or known to be run elsewhere."""

import gzip
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest
from languages import write_korean
from mlflow import MlflowClient
from test_documents import DOCUMENTS, name_of
from tiny import tiny_bundle, tiny_reviews, write_stars

from sentiment_model.registry.tracking import Tracker
from sentiment_model.settings import Settings

ROOT = Path(__file__).parent.parent
RUN_HERE = re.compile(r"\.venv/bin/(python -m flows\.|mlflow )")
# Where every other command is run, for real but in other words.
ELSEWHERE = {
    r"make (run|test|test-slow|test-browser|lint)\b": ".ci/run",
    r"make (serve|stop)\b": "tests/test_serve.py",
    r"\.venv/bin/pre-commit install": "tests/test_documents.py",
    r"\.venv/bin/python -m deploy\.apply": "tests/test_production.py",
    r"(createuser|createdb) ": "tests/test_production.py",
    r"(systemctl|cp deploy/systemd/|install -D -m 600 deploy/\w+\.env\.example)": "tests/test_production.py",
    r"python3 -m venv|\.venv/bin/(python -m )?pip install": "Makefile",
    r"make format": "Makefile",
    r"(make|python -m) bench": "tests/test_benchmarks.py",
}


def blocks(document: Path) -> Iterator[str]:
    """Yield the fenced blocks without a language, and the commands inside the text."""
    fences = re.finditer(r"^```(.*?)\n(.*?)^```|`(\.venv/bin/[^`\n]+)`", document.read_text(), re.DOTALL | re.M)
    for language, block, inline in (found.groups() for found in fences):
        if not language:
            yield block or inline


def commands(block: str) -> list[str]:
    """Return a block's lines, those that go on joined, without comments."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def is_script(block: str) -> bool:
    return any(map(RUN_HERE.match, commands(block)))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_command_is_run_somewhere(document: Path) -> None:
    for block in blocks(document):
        for command in [] if is_script(block) else commands(block):
            where = [file for pattern, file in ELSEWHERE.items() if re.match(pattern, command)]
            assert where, f"{command}: no test runs this"
            assert (ROOT / where[0]).exists()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the virtual environment, the files that the documents speak of, and some models."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for name in [name for name in os.environ if name.startswith(("SENTIMENT_", "PREFECT_API"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.chdir(tmp_path)
    reviews = pl.read_csv(tiny_reviews(tmp_path / "reviews.csv")).select(
        "text",
        body="text",
        stars=pl.col("label") * 4 + 1,
        product=pl.int_range(pl.len()) % 50,
    )
    for folder in ("reviews", "inbox"):
        (tmp_path / folder).mkdir()
        reviews.write_csv(tmp_path / folder / "reviews.csv")
    write_korean(tmp_path / "korean.parquet")
    write_stars(tmp_path / "stars.jsonl")
    (tmp_path / "dump.jsonl.gz").write_bytes(gzip.compress(reviews.write_ndjson().encode()))
    in_may = datetime(2026, 5, 10, tzinfo=UTC).timestamp()
    os.utime(tmp_path / "inbox" / "reviews.csv", (in_may, in_may))
    tracker = Tracker(Settings())
    for seed in range(3):
        tiny_bundle(tmp_path / f"bundle-{seed}", seed)
        run_id = tracker.start_run("sentiment", f"fp-{seed}", name="test", params={}, tags={}).run_id
        compared_with = str(seed) if seed else None
        tracker.registry.register(
            tmp_path / f"bundle-{seed}", "sentiment", run_id, promote=seed < 2, tags={}, compared_with=compared_with
        )
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_documents(project: Path) -> None:
    ran = 0
    for document in DOCUMENTS:
        for block in filter(is_script, blocks(document)):
            done = subprocess.run(["bash", "-euc", block], cwd=project, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{document.name}: {block}\n{done.stdout}\n{done.stderr}"
            ran += len(commands(block))
    assert ran > 10
    client = MlflowClient(Settings().mlflow_tracking_uri)
    assert len(client.search_model_versions("name = 'sentiment'")) == 4
    (query,) = re.findall(r"^```sql\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert {label for label, _ in duckdb.execute(query).fetchall()} == {"negative", "positive"}
