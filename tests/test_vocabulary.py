"""The vocabulary: which tokens, in which order, and that a damaged file is refused."""

import hashlib
import random
from pathlib import Path

import polars as pl
import pytest

from sentiment_model.config import TokenizeConfig
from sentiment_model.errors import ModelError, QualityError
from sentiment_model.text.tokens import Unit, choose_unit, tokens_of
from sentiment_model.text.vocabulary import Vocabulary

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
        ("می\u200cخواهم क्\u200dष", ["می\u200cخواهم", "क्\u200dष"]),
        ("ok👍🏽 👩\u200d👧🏽❤", ["ok", "👍", "🏽", "👩", "\u200d👧", "🏽", "❤"]),
        ("", []),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    assert split(text, "word") == tokens
    assert split(text, "character") == tokens  # where no script makes a difference


@pytest.mark.parametrize(
    ("text", "words", "characters"),
    [
        ("재밌어요ㅋㅋ! CGI도 10점", "재밌어요ㅋㅋ ! cgi도 10점", "재 밌 어 요 ㅋ ㅋ ! cgi 도 10 점"),
        ("这部电影很好看,我给10分", "这部电影很好看 , 我给10分", "这 部 电 影 很 好 看 , 我 给 10 分"),
        ("人々はスーパー最高", "人々はスーパー最高", "人 々 は ス ー パ ー 最 高"),
        ("ดีที่สุด ๑๐/๑๐", "ดีที่สุด ๑๐ / ๑๐", "ดี ที่ สุ ด ๑๐ / ๑๐"),
        ("ດີຫຼາຍ ល្អ ကောင်း", "ດີຫຼາຍ ល្អ ကောင်း", "ດີ ຫຼ າ ຍ ល្ អ ကော င်း"),
        ("བོད་ཡིག", "བོད ་ ཡིག", "བོ ད ་ ཡི ག"),
        ("हिन्दी العربية Ünï", "हिन्दी العربية ünï", "हिन्दी العربية ünï"),
        ("e\u0301x'ก ก'x", "e\u0301x'ก ก'x", "e\u0301x ' ก ก ' x"),
    ],
)
def test_tokens_of_scripts_without_spaces(text: str, words: str, characters: str) -> None:
    assert split(text, "word") == words.split()
    assert split(text, "character") == characters.split()


def split(text: str, unit: Unit) -> list[str]:
    tokens: list[str] = pl.DataFrame({"text": [text]}).select(tokens_of(pl.col("text"), unit)).item().to_list()
    return tokens


@pytest.mark.parametrize(
    ("texts", "unit"),
    [
        (["I like it", "Très bien", "очень хорошо", "बहुत अच्छी", "ممتاز"], "word"),
        (["Like 七人の侍, but longer and in English, which is why nobody here has seen it yet"] * 9, "word"),
        (["정말 재미있는 영화"], "character"),
        (["真的很好看", "a film that nobody has seen"], "character"),
        (["หนังดีมาก"], "character"),
        (["10/10 !!!", ""], "word"),
        ([], "word"),
    ],
)
def test_the_scripts_of_the_reviews_choose_the_unit(texts: list[str], unit: Unit) -> None:
    assert choose_unit(pl.LazyFrame({"text": texts}, schema={"text": pl.String})) == unit


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


def test_the_unit_is_part_of_the_vocabulary(tmp_path: Path) -> None:
    units: tuple[Unit, ...] = ("word", "character")
    words, characters = (fit(["재미 있다"], TokenizeConfig(unit=unit, min_count=1)) for unit in units)
    characters.save(tmp_path / "v.parquet")
    loaded = Vocabulary.load(tmp_path / "v.parquet")
    assert (loaded.unit, loaded.digest) == ("character", characters.digest)
    assert fit(["재미 있다"], TokenizeConfig(min_count=1)).digest == characters.digest  # which `auto` chooses
    # Of the same tokens, too.
    assert Vocabulary(characters.table, "word").digest != characters.digest
    assert words.digest == hashlib.sha256("<pad>\n<unk>\n있다\n재미".encode()).hexdigest()  # as before there were units


def test_a_file_from_before_there_were_units_is_of_words(tmp_path: Path) -> None:
    fit(["good film good film"]).table.write_parquet(tmp_path / "v.parquet")
    assert Vocabulary.load(tmp_path / "v.parquet").unit == "word"


def test_a_unit_of_a_later_version_is_refused(tmp_path: Path) -> None:
    fit(["good film good film"]).table.write_parquet(tmp_path / "v.parquet", metadata={"sentiment.unit": "piece"})
    with pytest.raises(ModelError, match=r"does not know \(piece\)"):
        Vocabulary.load(tmp_path / "v.parquet")


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
