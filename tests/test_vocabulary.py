"""The vocabulary: which tokens, in which order, and that a damaged file is refused."""

import random
from pathlib import Path

import polars as pl
import pytest

from sentiment_model.config import TokenizeConfig
from sentiment_model.errors import ModelError, QualityError
from sentiment_model.text.vocabulary import Vocabulary, tokens_of

CONFIG = TokenizeConfig(max_vocabulary=10, min_count=2)


def fit(texts: list[str], config: TokenizeConfig = CONFIG) -> Vocabulary:
    return Vocabulary.fit(pl.LazyFrame({"text": texts}, schema={"text": pl.String}), config)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("I DON'T like it!!", ["i", "don't", "like", "it", "!", "!"]),
        ("'quoted' _stressed_ dogs'", ["'", "quoted", "'", "_", "stressed", "_", "dogs", "'"]),
        ("<3 :-) 10/10 état 好 😀", ["<", "3", ":", "-", ")", "10", "/", "10", "état", "好", "😀"]),
        ("z\u0334a\u0335lgo", ["z\u0334a\u0335lgo"]),
        ("", []),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    assert pl.DataFrame({"text": [text]}).select(tokens_of(pl.col("text"))).item().to_list() == tokens


def test_most_frequent_first_and_ties_by_code_point_whatever_the_order_of_the_reviews() -> None:
    texts = ["b b b", "z é a", "é z a", "rare", ""]
    table = fit(texts).table
    assert table["token"].to_list() == ["<pad>", "<unk>", "b", "a", "z", "é"]
    assert table["id"].to_list() == list(range(6))
    assert table["count"].to_list() == [0, 0, 3, 2, 2, 2]
    random.Random(0).shuffle(texts)
    assert fit(texts).digest == fit(texts[::-1]).digest


def test_limits() -> None:
    words = [f"w{i:02}" for i in range(20)]
    assert len(fit([" ".join(words)] * 2)) == 10
    assert len(fit([" ".join(words)], TokenizeConfig(min_count=1))) == 22
    with pytest.raises(QualityError, match="no token occurs 2 times in training; lower min_count"):
        fit([" ".join(words)])


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    vocabulary = fit(["good film good film", "bad film"])
    vocabulary.save(tmp_path / "v.parquet")
    loaded = Vocabulary.load(tmp_path / "v.parquet")
    assert loaded.table.equals(vocabulary.table)
    assert loaded.digest == vocabulary.digest
    assert loaded.digest != fit(["good film good film bad bad"]).digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.with_columns(pl.col("id") + 1), "ids do not count from 0"),
        (lambda table: table.reverse(), "ids do not count from 0"),
        (lambda table: table.tail(2), "ids do not count from 0"),
        (lambda table: table.with_columns(token=pl.lit("x")), "not distinct"),
        (lambda table: table.with_columns(token=pl.col("token").replace("<unk>", None)), "not distinct"),
        (lambda table: table.with_columns(token=pl.col("token").replace("<pad>", "pad")), "start with <pad>"),
        (lambda table: table.with_columns(pl.col("id").cast(pl.String)), r"are token \(String\), id \(String\)"),
        (lambda table: table.drop("count"), "columns are token"),
        (lambda table: table.clear(), "start with <pad>"),
    ],
)  # fmt: skip
def test_a_damaged_table_is_refused(change: object, message: str, tmp_path: Path) -> None:
    change(fit(["good film good film"]).table).write_parquet(tmp_path / "v.parquet")  # type: ignore[operator]
    with pytest.raises(ModelError, match=message):
        Vocabulary.load(tmp_path / "v.parquet")


def test_no_file_or_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v.parquet").write_bytes(b"no Parquet")
    for name in ("v.parquet", "missing.parquet"):
        with pytest.raises(ModelError, match="cannot read the vocabulary"):
            Vocabulary.load(tmp_path / name)
