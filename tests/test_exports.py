"""What people open in a spreadsheet: texts, types and formulas, and labels that come back."""

import csv
import datetime as dt
import decimal
import io
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from bulk import run_on, score_into
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_bundle

from sentiment_model.classes import BINARY
from sentiment_model.config import IngestConfig
from sentiment_model.models.bundle import Predictor
from sentiment_model.scoring.exports import export, write_csv, write_to_label
from sentiment_model.scoring.report import unexported_message
from sentiment_model.scoring.summary import ScoringSummary
from sentiment_model.sources.ingest import write_reviews
from sentiment_model.store.datasets import DatasetWriter
from sentiment_model.store.objects import Objects
from sentiment_model.text.spreadsheets import guarded, unguarded


def scores(folder: Path, *columns: dict[str, Any]) -> list[str]:
    """Write a file of scores for each of some columns of inputs."""
    paths = []
    for number, inputs in enumerate(columns):
        table = pl.DataFrame(inputs)
        ids = pl.Series("row_id", [f"{number}-{row}" for row in range(len(table))])
        paths.append(str(folder / f"[{number}].parquet"))
        table.with_columns(ids, label=pl.lit("positive"), probability=0.5).write_parquet(paths[-1])
    return paths


def rows(path: str) -> list[dict[str, str]]:
    content = Path(path).read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


MOMENT = dt.datetime(2020, 1, 1, 1, 2, 3)


def test_columns_of_different_types_are_one_column_of_text(tmp_path: Path) -> None:
    columns: list[tuple[Any, str]] = [
        ("abc", "abc"),
        (dt.date(2020, 1, 1), "2020-01-01"),
        (MOMENT, "2020-01-01T01:02:03"),
        (pl.Series([MOMENT]).dt.replace_time_zone("UTC"), "2020-01-01T01:02:03+00:00"),
        (pl.Series([MOMENT], dtype=pl.Datetime("ns")), "2020-01-01T01:02:03"),
        (dt.time(1, 2), "01:02:00"),
        (dt.timedelta(hours=1), "PT1H"),
        (pl.Series([dt.timedelta(hours=1)], dtype=pl.Duration("ms")), "PT1H"),
        (2**53 + 1, "9007199254740993"),
        (1.5, "1.5"),
        (-73.98, "-73.98"),
        (decimal.Decimal("1.10"), "1.10"),
        (True, "true"),
        (None, ""),
        (pl.Series(["k"], dtype=pl.Categorical), "k"),
        (b"abc", "abc"),
        (b"\xff\xfe", "//4="),
        (b"\x00\x01", "AAE="),
        (["a", None], '["a",null]'),
        ({"name": "y"}, '{"name":"y"}'),
        ([{"day": dt.date(2020, 1, 1)}], '[{"day":"2020-01-01"}]'),
        ({"b": b"abc", "n": [b"\xff"]}, '{"b":"abc","n":["/w=="]}'),
        (pl.Series([None], dtype=pl.List(pl.String())), ""),
    ]
    given = [{"x": value if isinstance(value, pl.Series) else [value]} for value, _ in columns]
    path = write_csv(Objects(str(tmp_path)), "csv/a.csv", scores(tmp_path, *given))
    assert [row["x"] for row in rows(path)] == [text for _, text in columns]
    assert {row["probability"] for row in rows(path)} == {"0.5"}


def test_numbers_are_no_formulas(tmp_path: Path) -> None:
    harmless = ["-73.98", "+5", "-1e3", "-1.5E-7", "-1,234.5", "+12%", "-.5", "plain", "a=b", "", "'quoted'"]
    formulas = ["=1+1", "-1+cmd|' /C calc'!A0", "+5+5", "@x", "\tx", "\rx", "\nx", "-", "＝1", "-1\n=1", "--1"]
    table = scores(tmp_path, {"x": [*harmless, *formulas], "=name": "y"})
    read = rows(write_csv(Objects(str(tmp_path)), "csv/a.csv", table))
    assert [row["x"] for row in read] == [*harmless, *(f"'{text}" for text in formulas)]
    assert "'=name" in read[0]


@given(st.lists(st.text() | st.text(alphabet="'=-+1@ \r\n.", max_size=5)))
def test_the_guard_comes_off_again(texts: list[str]) -> None:
    series = pl.Series("text", texts, pl.String())
    safe = series.to_frame().select(guarded(pl.col("text"))).to_series()
    assert unguarded(safe).to_list() == texts


@pytest.mark.parametrize("review", [{"text": "good\r\ncafé"}, '{"text": "good\\r\\ncafé"}'])
def test_a_nested_text_can_be_labelled(review: Any, tmp_path: Path) -> None:
    paths = scores(tmp_path, {"review": [review, None]}, {"review": [{"text": "=1"}]})
    path = write_to_label(Objects(str(tmp_path)), "to-label/a.csv", paths, "review.text", BINARY, 0.5, 9)
    found = {row["row_id"]: row["text"] for row in rows(path)}
    assert found == {"0-0": "good\r\ncafé", "0-1": "", "1-0": "'=1"}


def test_a_long_text_stays_whole(tmp_path: Path) -> None:
    long = "word " * 20_000
    path = write_to_label(Objects(str(tmp_path)), "a.csv", scores(tmp_path, {"text": [long]}), "text", BINARY, 0.5, 9)
    assert rows(path)[0]["text"] == long


def test_a_labelled_file_comes_back(tmp_path: Path) -> None:
    """As a spreadsheet saves it: the guard stays, or is taken for the spreadsheet's own mark and left out."""
    texts = ["=good film", "'=x great film", "a café", "-5", "bad film"]
    path = write_to_label(Objects(str(tmp_path)), "a.csv", scores(tmp_path, {"text": texts}), "text", BINARY, 0.5, 9)
    labelled = [{**row, "label": "positive" if "good" in row["text"] else ""} for row in rows(path)]
    labelled.append({**labelled[0], "text": "=another good film", "label": "negative"})
    with (tmp_path / "labelled.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(labelled[0]))
        writer.writeheader()
        writer.writerows(labelled)
    (tmp_path / "out").mkdir()
    columns = {"text": "text", "label": "label"}
    config = IngestConfig(source="files", path=str(tmp_path / "labelled.csv"), columns=columns)
    write_reviews(DatasetWriter(tmp_path / "out"), config)
    back = pl.read_parquet(tmp_path / "out" / "*.parquet")
    assert sorted(back["text"]) == sorted([*texts, "=another good film"])
    assert back.filter(pl.col("label").is_not_null())["label"].sort().to_list() == [0, 1]


def test_what_cannot_be_exported_is_told(tmp_path: Path) -> None:
    paths = scores(tmp_path, {"text": ["good"]})
    run = run_on(tmp_path, csv=True, to_label=5)
    exports = export(Objects(str(tmp_path)), "a", paths, run, "body", BINARY)
    assert exports.csv == f"{tmp_path}/csv/a.csv"
    assert exports.to_label is None
    assert "no column 'body'" in exports.faults["reviews to label"]
    (tmp_path / "csv" / "a.csv").unlink()
    (tmp_path / "csv").rmdir()
    (tmp_path / "csv").touch()
    exports = export(Objects(str(tmp_path)), "a", paths, run, "text", BINARY)
    assert (exports.csv, set(exports.faults)) == (None, {"CSV"})
    summary = ScoringSummary.model_construct(unexported=exports.faults)
    assert unexported_message(summary).startswith("no CSV: ")


def test_the_text_of_a_renamed_column_can_be_labelled(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundle")
    predictor = Predictor.load(tmp_path / "bundle")
    folder = tmp_path / "in"
    folder.mkdir()
    pl.DataFrame({"Label": ["no"], "label": ["a good film"], "input_label": ["nor this"]}).write_csv(folder / "a.csv")
    pl.DataFrame({"LABEL": ["nor that"], "label": ["a bad film"]}).write_parquet(folder / "b.parquet")
    scored = score_into(tmp_path / "table", predictor, run_on(folder, columns={"text": "label"}))
    paths = scored.table.paths(scored.receipts)
    path = write_to_label(scored.table.objects, "a.csv", paths, "label", BINARY, 0.5, 9)
    assert sorted(row["text"] for row in rows(path)) == ["a bad film", "a good film"]
