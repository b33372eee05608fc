"""Columns of the input that are called like others, like ours or like partitions: readers find each with its values."""

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as pads
import pytest
from bulk import run_on, score_into
from tiny import tiny_bundle

from sentiment_model.errors import StoreError
from sentiment_model.models.bundle import Predictor
from sentiment_model.scoring.names import renamed, renaming_metadata, stored_name

GIVEN = {
    "date": ["2018-07-07 22:09:11", "2012-01-03 15:28:18"],
    "Version": ["v1", "v2"],
    "Label": [0, 1],
    "ROW_ID": ["r1", "r2"],
    "Text": ["other", "words"],
    "text": ["good film", "bad film"],
    "text_2": ["x", "y"],
    "a b,c.d;(e)": ["p", "q"],
}
NAMES = {"date": "input_date", "Version": "input_Version", "Label": "input_Label", "ROW_ID": "input_ROW_ID"} | {
    "text": "text_3"
}
STORED = {NAMES.get(name, name): values for name, values in GIVEN.items()}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("bundle") / "model"
    tiny_bundle(folder)
    return Predictor.load(folder)


def test_names_are_compared_without_case() -> None:
    names = renamed(GIVEN, ["row_id", "label"])
    assert names == NAMES
    assert renamed(["input_date", "DATE"], ["label"]) == {"DATE": "input_input_DATE"}
    assert renamed(["a", "A", "A_2", "å", "Å"], ["label"]) == {"A": "A_3", "Å": "Å_2"}
    metadata = renaming_metadata(names)
    assert [stored_name(name, metadata, STORED) for name in GIVEN] == list(STORED)
    assert stored_name("date.day", metadata, STORED) == "input_date.day"
    assert stored_name("review.text", {}, ["review"]) == "review.text"
    assert renaming_metadata(renamed(["id", "text"], ["label"])) == {}


def by_reader(table: Path) -> dict[str, list[dict[str, Any]]]:
    pattern = f"{table}/scores/**/*.parquet"
    return {
        "duckdb": duckdb.sql(f"FROM '{pattern}' ORDER BY source_row").pl().to_dicts(),
        "union": duckdb.sql(f"FROM read_parquet('{pattern}', union_by_name = true) ORDER BY source_row")
        .pl()
        .to_dicts(),
        "polars": pl.scan_parquet(table / "scores", hive_partitioning=True).sort("source_row").collect().to_dicts(),
        "pandas": pd.read_parquet(table / "scores").sort_values("source_row").to_dict("records"),
        "pyarrow": pads.dataset(table / "scores", partitioning="hive").to_table().sort_by("source_row").to_pylist(),
    }


def test_every_reader_finds_each_column_with_its_values(tmp_path: Path, predictor: Predictor) -> None:
    pl.DataFrame(GIVEN).write_parquet(tmp_path / "a.parquet")
    scored = score_into(tmp_path / "table", predictor, run_on(tmp_path / "a.parquet", batch_rows=1))
    probabilities = predictor.predict(pl.Series(GIVEN["text"]))["probabilities"].arr.last().to_list()
    for reader, found in by_reader(tmp_path / "table").items():
        for name, values in STORED.items():
            assert [row[name] for row in found] == values, (reader, name)
        assert [row["probability"] for row in found] == pytest.approx(probabilities, abs=1e-6)
        assert {row["label"] for row in found} <= {"positive", "negative"}
        assert {str(row["version"]) for row in found} == {"7"}
        assert len({str(row["date"])[:10] for row in found} | {str(found[0]["scored_at"])[:10]}) == 1
    assert scored.counts.scored == 2


def delta(table: Path) -> pl.DataFrame:
    return pl.read_delta(str(table / "delta")).sort("source_file", "source_row")


def test_a_delta_table_has_each_column_with_its_values(tmp_path: Path, predictor: Predictor) -> None:
    pytest.importorskip("deltalake")
    pl.DataFrame(GIVEN).write_parquet(tmp_path / "a.parquet")
    score_into(tmp_path / "table", predictor, run_on(tmp_path / "a.parquet", output_format="delta"))
    rows = delta(tmp_path / "table")
    for name, values in STORED.items():
        assert rows[name].to_list() == values
    assert rows["version"].unique().to_list() == ["7"]


def test_files_that_spell_a_column_in_their_own_ways_share_a_delta_table(tmp_path: Path, predictor: Predictor) -> None:
    pytest.importorskip("deltalake")
    folder = tmp_path / "in"
    folder.mkdir()
    run = run_on(folder, output_format="delta")
    pl.DataFrame({"text": ["good"], "Stars": [5], "empty": [None]}).write_parquet(folder / "a.parquet")
    pl.DataFrame({"text": ["bad"], "STARS": [1], "empty": [None]}).write_parquet(folder / "b.parquet")
    score_into(tmp_path / "table", predictor, run)
    for name in "ab":
        (folder / f"{name}.parquet").unlink()
    pl.DataFrame({"text": ["fine"], "stars": [4], "empty": [7]}).write_parquet(folder / "c.parquet")
    score_into(tmp_path / "table", predictor, run)
    rows = delta(tmp_path / "table")
    assert rows["Stars"].to_list() == [5, 1, 4]
    assert rows["empty"].to_list() == [None, None, 7]

    (folder / "c.parquet").unlink()
    pl.DataFrame({"text": ["fine"], "stars": ["many"]}).write_parquet(folder / "d.parquet")
    with pytest.raises(StoreError, match=r"cannot write d\.parquet to the Delta table .*many.*an output of their own"):
        score_into(tmp_path / "table", predictor, run)
    assert len(delta(tmp_path / "table")) == 3
