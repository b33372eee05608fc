"""Bad input all the way, as training reads it and as scoring does: each row is used rightly or is in quarantine."""

import gzip
import json
import tempfile
from pathlib import Path

import polars as pl
import pytest
from bulk import run_on, score_into
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_sources import NASTY, SAMPLES

from sentiment_model.config import IngestConfig
from sentiment_model.errors import QualityError, SourceError
from sentiment_model.models.bundle import Predictor
from sentiment_model.sources.ingest import write_reviews
from sentiment_model.store.datasets import DatasetWriter

Rows = dict[tuple[str, int], str]
"""Something about each row, by file and number."""


def ingested(path: Path, **options: object) -> tuple[Rows, Rows]:
    """Return the texts that training gets, and why it does not get the others."""
    with tempfile.TemporaryDirectory() as folder:
        config = IngestConfig(source="files", path=str(path), max_bad_share=1.0, **options)
        write_reviews(DatasetWriter(Path(folder)), config)
        reviews, rejects = (pl.read_parquet(f"{folder}/{role}-*.parquet") for role in ("part", "quarantine"))
    places = [(file, int(row)) for file, _, row in (made.rpartition(":") for made in reviews["review_id"])]
    return dict(zip(places, reviews["text"], strict=True)), reasons(rejects)


def scored(path: Path, predictor: Predictor, **options: object) -> tuple[Rows, Rows]:
    """Return the texts that are in the table of scores, and why the others are not."""
    with tempfile.TemporaryDirectory() as folder:
        found = score_into(f"{folder}/table", predictor, run_on(path, **options))
        frames = [pl.read_parquet(each, glob=False) for each in found.table.paths(found.receipts)]
        rejects = found.rows("quarantine")
    texts: Rows = {}
    for frame in frames:
        assert frame["probability"].is_between(0, 1).all()
        rows = frame.select("source_file", "source_row", pl.col("text").cast(pl.String)).rows()
        assert not texts.keys() & {(file, row) for file, row, _ in rows}
        texts |= {(file, row): text for file, row, text in rows}
    assert found.counts.rows_in == len(texts) + len(rejects)
    return texts, reasons(rejects)


def reasons(rejects: pl.DataFrame) -> Rows:
    return {(file, row): reason for file, row, reason in rejects.select("file", "row", "reason").iter_rows()}


def test_training_and_scoring_say_the_same_of_the_nasty_samples(predictor: Predictor) -> None:
    folder = SAMPLES / "nasty"
    texts, rejected = ingested(folder)
    assert set(texts) == {(name, row) for name, (good, _) in NASTY.items() for row in good}
    assert rejected == {(name, row): why for name, (_, bad) in NASTY.items() for row, why in bad.items()}
    alone = ("nul-bytes.csv", 2)  # holds no word; training drops it as it cleans, as it does all such reviews
    del texts[alone]
    assert scored(folder, predictor) == (texts, rejected | {alone: "empty_text"})


def test_a_review_of_ten_megabytes(tmp_path: Path, predictor: Predictor) -> None:
    text = "good film " * 1_000_000
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"text": text}).encode()))
    assert ingested(path, max_text_bytes=10_000_000) == scored(path, predictor, max_text_bytes=10_000_000)
    assert scored(path, predictor, max_text_bytes=10_000_000) == ({("a.jsonl.gz", 1): text}, {})
    assert scored(path, predictor) == ({}, {("a.jsonl.gz", 1): "text_too_long"})
    with pytest.raises(QualityError, match="1 of 1 rows"):
        ingested(path)


def test_columns_in_another_order_and_types_that_differ_between_files(tmp_path: Path, predictor: Predictor) -> None:
    (tmp_path / "a.csv").write_text("stars,text,id\n5,good film,1\n1,bad film,1\n")  # an id twice
    (tmp_path / "b.csv").write_text("id,text,stars\n1,great film,5\n")
    pl.DataFrame({"text": [7, 8], "id": ["x", "y"]}).write_parquet(tmp_path / "c.parquet")
    expected = {
        ("a.csv", 1): "good film",
        ("a.csv", 2): "bad film",
        ("b.csv", 1): "great film",
        ("c.parquet", 1): "7",
        ("c.parquet", 2): "8",
    }
    assert ingested(tmp_path) == scored(tmp_path, predictor) == (expected, {})


@settings(deadline=None, max_examples=30)
@given(
    lines=st.lists(
        st.one_of(
            st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")),
            st.text(max_size=20).map(lambda text: json.dumps({"text": text}).encode("utf-8", "surrogatepass")),
            st.sampled_from([b'{"text": "good \\ud83d"}', b'{"text": {"a": 1}}', b'{"text": 5}', b'{"text": "good"}']),
        ),
        max_size=8,
    )
)
@example(lines=[b"\xff\xfe"])
@example(lines=[b"\x80\x04\x95"])
def test_whatever_the_lines_are_no_row_is_lost(lines: list[bytes], predictor: Predictor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        path.write_bytes(b"\n".join([*lines, b'{"text": "the end"}']))
        try:
            texts, rejected = scored(path, predictor)
        except SourceError:  # by its first bytes the file is something else
            with pytest.raises(SourceError):
                ingested(path)
            return
        try:
            trained, unused = ingested(path)
        except QualityError:  # no row is left to train on: by its first bytes the file is UTF-16
            assert texts == {}
            assert rejected
            return
    assert (texts | rejected).keys() == (trained | unused).keys()
    assert trained.items() >= texts.items()
    assert {why for place, why in rejected.items() if place in trained} <= {"empty_text"}  # no word after cleaning
