"""Large text files are split in one reading, where the first records tell the types of all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl
import pytest

from sentiment_model.config import ReviewFiles, ScoringRun
from sentiment_model.sources.listing import list_files
from sentiment_model.sources.locations import Location
from sentiment_model.sources.split import ROW, SPLIT, split_recipes
from sentiment_model.store.datasets import Dataset, Store

ROWS = 3000
LATE = 2500
PARTS = 1000


def split(records: list[dict[str, Any]], tmp_path: Path) -> Dataset:
    """Split a file of so many bytes a record that it is worth it."""
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps(record | {"text": "good " * 250}) + "\n" for record in records))
    run = ScoringRun(files=ReviewFiles(path=str(path)), shard_rows=PARTS)
    (file,) = list_files(ReviewFiles(path=str(path))).files
    return Store(str(tmp_path / "store")).materialise(SPLIT, *split_recipes({"key": file}, run)["key"])[0]


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Location]:
    """What is opened: once where the first records tell the types, else for a guess, the types and the rows."""
    opened: list[Location] = []
    original = Location.open

    def open_and_note(self: Location) -> BinaryIO:
        opened.append(self)
        return original(self)

    monkeypatch.setattr(Location, "open", open_and_note)
    return opened


@pytest.mark.parametrize(
    ("value", "dtype", "expected", "times"),
    [
        (lambda row: row, pl.Int64(), {0: 0, LATE: LATE}, 1),
        (lambda row: None if row % 2 else row, pl.Int64(), {0: 0, 1: None, LATE: LATE}, 1),
        (lambda row: row if row != LATE else 0.5, pl.Float64(), {0: 0.0, LATE: 0.5}, 3),
        (lambda row: row if row != LATE else "many", pl.String(), {0: "0", LATE: "many"}, 3),
        (lambda row: row if row != LATE else 2**70, pl.String(), {0: "0", LATE: str(2**70)}, 3),
        (lambda row: None if row != LATE else 7, pl.Int64(), {0: None, LATE: 7}, 3),
        (lambda row: True if row != LATE else 1, pl.String(), {0: "true", LATE: "1"}, 3),
    ],
)
def test_columns_hold_all_that_the_file_has(
    value: Callable[[int], Any],
    dtype: pl.DataType,
    expected: dict[int, Any],
    times: int,
    tmp_path: Path,
    readings: list[Location],
) -> None:
    dataset = split([{"value": value(row)} for row in range(ROWS)], tmp_path)
    assert len(readings) == times
    parts = [pl.read_parquet(path) for path in dataset.files("part")]
    assert [len(part) for part in parts] == [PARTS] * (ROWS // PARTS), "nothing is left of a reading before"
    frame = pl.concat(parts)
    assert frame.schema == {"value": dtype, "text": pl.String(), ROW: pl.Int64()}
    assert frame[ROW].to_list() == list(range(1, ROWS + 1))
    assert {row: frame["value"][row] for row in expected} == expected


def test_a_field_that_comes_late_is_a_column(tmp_path: Path, readings: list[Location]) -> None:
    dataset = split([{"late": 1} if row == LATE else {} for row in range(ROWS)], tmp_path)
    assert len(readings) == 3
    frame = dataset.scan("part").collect()
    assert frame.select(pl.col("late").drop_nulls(), ROW=LATE + 1).rows() == [(1, LATE + 1)]
    assert frame["late"][LATE] == 1
    assert frame.height == ROWS
