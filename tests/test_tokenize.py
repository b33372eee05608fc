"""Tokenization: one function for training and scoring, and what the stage writes."""

import resource
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sentiment_model.config import TokenizeConfig
from sentiment_model.errors import StoreError
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.store.datasets import DatasetWriter
from sentiment_model.text.normalise import normalise
from sentiment_model.text.sides import SPLITS
from sentiment_model.text.tokenize import TOKEN_SCHEMA, encode, read_tokens, write_tokens
from sentiment_model.text.tokens import tokens_of
from sentiment_model.text.vocabulary import Vocabulary

NASTY = [
    "I <3 it &amp; you<br /><br />don\u2019t",
    "good film " * 500,
    "h\u0321\u0353e\u0334\u031b comes",
    "مرحبا \u202eאבג\u202c good",
    "NUL \x00 zero\u200bwidth \ufeff film",
    "👩\u200d👩\u200d👧 ❤\ufe0f 🇬🇧",
    "&lt;script&gt;bad()&lt;/script&gt;",
    "\x96\x97 good\x85film",
    "",
    "x" * 300_000,
]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    texts = pl.LazyFrame({"text": ["good film , bad film . i love it", "good ❤ &"]})
    return Vocabulary.fit(texts, TokenizeConfig(max_vocabulary=50, min_count=1))


def reference(text: str, vocabulary: Vocabulary, max_tokens: int) -> tuple[list[int], int, int]:
    """The same in plain Python, a text at a time; the tokens are polars' own."""
    ids = dict(vocabulary.table.select("token", "id").iter_rows())
    tokens = pl.DataFrame({"text": [text]}).select(tokens_of(pl.col("text"), vocabulary.unit)).item().to_list()
    all_ids = [ids.get(token, 1) for token in tokens]
    tail = max_tokens // 2
    kept = all_ids if len(all_ids) <= max_tokens else all_ids[: max_tokens - tail] + all_ids[-tail:]
    return kept, len(all_ids), all_ids.count(1)


@given(
    st.lists(st.text("gofilmbad .,'❤é", max_size=60), max_size=6),
    st.integers(min_value=4, max_value=12),
)
def test_as_a_plain_loop_would(vocabulary: Vocabulary, texts: list[str], max_tokens: int) -> None:
    frame = encode(pl.DataFrame({"text": texts}, schema={"text": pl.String}), vocabulary, max_tokens)
    assert frame.select("ids", "n_tokens", "n_unknown").rows() == [
        reference(text, vocabulary, max_tokens) for text in texts
    ]
    assert frame.schema == {"text": pl.String, "ids": pl.List(pl.Int32), "n_tokens": pl.Int32, "n_unknown": pl.Int32}


def test_long_reviews_keep_both_ends_and_count_all(vocabulary: Vocabulary) -> None:
    frame = encode(pl.DataFrame({"said": ["good bad bad bad what film"]}), vocabulary, 5, text_column="said")
    table = dict(vocabulary.table.select("token", "id").iter_rows())
    assert frame["ids"].item().to_list() == [table["good"], table["bad"], table["bad"], 1, table["film"]]
    assert frame.select("n_tokens", "n_unknown").row(0) == (6, 1)


def cleaned(texts: list[str], splits: list[str]) -> pl.LazyFrame:
    frame = pl.LazyFrame({"text": texts, "split": splits}).with_columns(normalise(pl.col("text")))
    return frame.with_row_index("review_id").with_columns(
        pl.col("review_id").cast(pl.String), source=pl.lit("x"), label=pl.lit(1, pl.Int8)
    )


def written(folder: Path, reviews: pl.LazyFrame, config: TokenizeConfig) -> tuple[DatasetWriter, dict[str, object]]:
    folder.mkdir()
    writer = DatasetWriter(folder)
    return writer, write_tokens(writer, reviews, config)


def part(writer: DatasetWriter, role: str) -> pl.DataFrame:
    return pl.read_parquet([writer.folder / name for name, of in writer.roles.items() if of == role])


def test_nasty_text_gets_the_same_ids_in_training_and_in_scoring(tmp_path: Path) -> None:
    config = TokenizeConfig(min_count=1, max_tokens=20)
    writer, _ = written(tmp_path / "tokens", cleaned(NASTY, ["train"] * len(NASTY)), config)
    trained_on = part(writer, "train")
    vocabulary = Vocabulary.load(writer.folder / "vocabulary.parquet")
    for text, expected in zip(NASTY, trained_on.select("ids", "n_tokens", "n_unknown").rows(), strict=True):
        alone = pl.DataFrame({"text": [text]}).select(normalise(pl.col("text")))
        assert encode(alone, vocabulary, config.max_tokens).select("ids", "n_tokens", "n_unknown").rows() == [expected]


def test_the_vocabulary_comes_from_what_is_learned_from(tmp_path: Path) -> None:
    texts = ["seen seen", "heldout heldout", "tested tested", "extra extra"]
    writer, _ = written(tmp_path / "tokens", cleaned(texts, list(SPLITS)), TokenizeConfig())
    assert Vocabulary.load(writer.folder / "vocabulary.parquet").table["token"].to_list() == [
        "<pad>",
        "<unk>",
        "extra",
        "seen",
    ]


def test_every_split_is_written_in_order_with_its_counts(tmp_path: Path) -> None:
    texts = ["good good film", "bad bad bad film film film", "good new", "film"]
    reviews = cleaned([*texts, *texts], ["train", "train", "validation", "test"] * 2)
    writer, counts = written(tmp_path / "tokens", reviews, TokenizeConfig(min_count=1, max_tokens=4))
    for split, ids in {"train": "0145", "validation": "26", "test": "37", "unlabelled": ""}.items():
        assert part(writer, split).schema == TOKEN_SCHEMA
        assert part(writer, split)["review_id"].to_list() == list(ids)
    assert counts == {
        "vocabulary": 5,
        "unit": "word",
        "train": {"reviews": 4, "tokens": 18, "unknown_share": 0.0, "cut_share": 0.5},
        "validation": {"reviews": 2, "tokens": 4, "unknown_share": 0.5, "cut_share": 0.0},
        "test": {"reviews": 2, "tokens": 2, "unknown_share": 0.0, "cut_share": 0.0},
    }


def test_unlabelled_reviews_have_a_say_in_the_unit_and_those_held_out_have_none(tmp_path: Path) -> None:
    korean, english = "정말 재미있는 영화였다", "good film"
    texts = {"train": english, "validation": korean, "test": korean}
    _, counts = written(tmp_path / "a", cleaned(list(texts.values()), list(texts)), TokenizeConfig(min_count=1))
    assert counts["unit"] == "word"
    texts["unlabelled"] = korean
    _, counts = written(tmp_path / "b", cleaned(list(texts.values()), list(texts)), TokenizeConfig(min_count=1))
    assert (counts["unit"], counts["vocabulary"]) == ("character", 2 + 2 + 10)


def test_where_tokens_cannot_be_kept_is_said(tmp_path: Path) -> None:
    writer, _ = written(tmp_path / "tokens", cleaned(["good film"] * 4, ["train"] * 4), TokenizeConfig(min_count=1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
    try:
        with pytest.raises(StoreError, match=f"^cannot write to the store {tmp_path}: .*File too large"):
            read_tokens([[writer.folder / name for name, role in writer.roles.items() if role == "train"]], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_is_read_is_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From several files and row groups, with reviews that have no token or no label, and a split without any."""
    monkeypatch.setattr("sentiment_model.store.parts.GROUP_ROWS", 7)
    monkeypatch.setattr("sentiment_model.store.parts.PART_ROWS", 20)
    monkeypatch.setattr("sentiment_model.text.tokenize._ROWS_AT_ONCE", 3)
    texts = [" ".join(["good", "bad", "film"] * (i % 9))[: 5 * i] for i in range(100)]
    reviews = cleaned(texts, ["train", "train", "unlabelled", "validation"] * 25)
    reviews = reviews.with_columns(label=pl.when(pl.col("split") != "unlabelled").then(pl.col("label")))
    writer, _ = written(tmp_path / "tokens", reviews, TokenizeConfig(min_count=1))
    files = {split: [writer.folder / name for name, role in writer.roles.items() if role == split] for split in SPLITS}
    assert len(files["train"]) > 1
    before = sorted(tmp_path.iterdir())
    read = read_tokens(list(files.values()), tmp_path)
    assert sorted(tmp_path.iterdir()) == before  # the file of the tokens has no name
    for split, found in zip(SPLITS, read, strict=True):
        expected = TokenizedReviews.from_frame(pl.concat(map(pl.read_parquet, files[split])))
        assert len(found) == {"train": 50, "test": 0}.get(split, 25)
        assert found.values is read[0].values
        assert found.flat().equal(expected.values)
        assert found.lengths.equal(expected.lengths)
        torch.testing.assert_close(found.labels, expected.labels, rtol=0, atol=0, equal_nan=True)
