"""The scanner finds what normalising and tokenizing find, in whatever people and machines write."""

import random
import sys
from typing import get_args

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sentiment_model.config import TokenizeConfig
from sentiment_model.sources.imdb import imdb_file
from sentiment_model.text.alphabet import RAW
from sentiment_model.text.normalise import normalise
from sentiment_model.text.scanner import Scanner
from sentiment_model.text.tokenize import encode
from sentiment_model.text.tokens import Unit
from sentiment_model.text.vocabulary import UNKNOWN_ID, Vocabulary

PIECES = [
    "good", "Bad", "don't", "DON’T", "o'", "'", "`", "rock'n'roll", "snake_case", "x1", "²", "½", "…",
    "—", "“ha”", "\x85", "\x93", " ", "  ", "\t", "\n", "\r\n", "\x0b", "\u00a0", "\u2003", "\u3000",
    "\u200b", "\ufeff", "\x00", "\x1f", "\x7f", "\xad", "<", ">", "<3", "</3", "a < b", "<br />",
    "<BR>", "<p class='x'>", "</p>", "<b>b</b>", "<a <b>c>", "<i>>", "<!-- x -->", "<!doctype>",
    "<?php ?>", "<script>x</script>", "</script>", "<style>", "<strong>", "<stuff", "<s>", "</s>",
    "<unk>", "<pad>", "<é>", "<a\x00>", "<a &lt;>", "&", "& ", "&&", "AT&T", "&amp;",
    "&amp;lt;br&amp;gt;", "&lt;b&gt;", "&#39;", "&#x27;", "&#9999999999;", "&copy", "&nbsp;",
    "&notanentity;", "é", "É", "e\u0301", "İ", "ı", "ß", "ẞ", "ﬁ", "Σ", "ς", "σ", "ΟΔΟΣ", "ǅ", "K", "Å",
    "Ω", "ñ", "Ñ", "\u0301", "\u0345", "한국", "ㅋㅋㅋ", "ㅠ", "\u1112\u1161\u11ab", "ｶﾞ", "カ", "が",
    "漢字", "ภาษา", "हिन्दी", "עברית", "العربية", "👍", "👍🏽", "👩\u200d👩", "🇩🇪", "𝒳", "\U00020000",
    "\ue000", "\ud7ff", "\U000e0001", "１２", "Ａ", "٣", "ª", "º",
    "ㄱㅏ", "ㅋㅠ", "하ㄳ", "ﾡￂ", "スーパー", "น้ำ", "๑๒", "가'나", "ဗမာ", "བོད་", "e\u0331",
    "＜b＞", "﹤b﹥", "＆amp;", "﹠lt;", "＜script>", "_", "-", "--", "!", "?!", "10/10",
    "می\u200cخواهم", "ک\u200c", "क्\u200dष", "ශ්\u200dරී", "ন\u200cক", "അവന്\u200d", "\u200c", "\u200d", "❤\ufe0f\u200d🔥",
    "🤷🏽\u200d♀", "🅰", "©", "ᄏ", "1\ufe0f⃣",
    "$5", "#1", "@you", "http://x.y/?a=1&b=2",
]  # fmt: skip


def fit(texts: list[str], unit: Unit) -> Vocabulary:
    config = TokenizeConfig(unit=unit, min_count=1, max_vocabulary=50_000)
    return Vocabulary.fit(pl.LazyFrame({"text": texts}).select(normalise(pl.col("text"))), config)


VOCABULARY, CHARACTERS, SUBWORDS = (fit(PIECES, unit) for unit in get_args(Unit))


def check(texts: list[str], max_tokens: int = 12) -> None:
    for vocabulary in (VOCABULARY, CHARACTERS, SUBWORDS):
        check_with(vocabulary, texts, max_tokens)


def check_with(vocabulary: Vocabulary, texts: list[str], max_tokens: int = 12) -> None:
    raw = pl.Series("text", texts, dtype=pl.String)
    read = Scanner(vocabulary, max_tokens).read(raw)
    expected = encode(raw.to_frame().select(normalise(pl.col("text"))), vocabulary, max_tokens)
    for name, found in (("n_tokens", read.n_tokens), ("n_unknown", read.n_unknown)):
        wrong = (found != expected[name]).arg_true()
        assert wrong.is_empty(), (name, texts[wrong[0]], found[wrong[0]], expected[name][wrong[0]])
    lengths = expected["ids"].list.len().cast(pl.Int64).to_numpy()
    assert (read.reviews.lengths.numpy() == lengths).all()
    ids = expected["ids"].explode().drop_nulls().to_numpy()
    found_ids = read.reviews.flat().numpy()
    if not np.array_equal(found_ids, ids):
        place = int(np.flatnonzero(found_ids != ids)[0])
        row = int(np.searchsorted(lengths.cumsum(), place, side="right"))
        raise AssertionError(
            (texts[row], read.reviews.take(torch.tensor([row])).flat().tolist(), expected["ids"][row].to_list())
        )
    assert read.reviews.labels.isnan().all()


@settings(max_examples=150)
@given(st.lists(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=8).map("".join), max_size=6))
def test_whatever_is_written_is_read_as_training_reads_it(texts: list[str]) -> None:
    check(texts)


@pytest.mark.parametrize("unit", ["word", "character"])
def test_every_character_alone_and_beside_others(unit: Unit) -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    for form in ("{}", "x{}y {}1 a'{} {}'s", "국{}ก{}' {}\u0e35"):
        texts = [form.replace("{}", one) for one in characters]
        check_with(fit(texts[:0x3200], unit), texts)


def test_pairs_of_characters() -> None:
    """Some become one, some change each other."""
    generator = random.Random(0)
    blocks = [
        (0x20, 0x250),
        (0x300, 0x500),
        (0x900, 0xE00),
        (0x1100, 0x1200),
        (0x3040, 0x3130),
        (0xAC00, 0xAC80),
        (0xFF00, 0xFFEF),
    ]
    texts = []
    for _ in range(60_000):
        low, high = generator.choice(blocks)
        texts.append("".join(chr(generator.randrange(low, high)) for _ in range(generator.choice([2, 2, 3]))))
    check(texts)


@pytest.mark.parametrize("max_tokens", [4, 5, 7])
def test_long_reviews_keep_their_first_and_last_tokens(max_tokens: int) -> None:
    check(["good Bad x1 don't - ! ? 10", "good", "a b c d e f g", "é " * 9, ""], max_tokens)


def test_a_word_longer_than_any_that_is_known_is_unknown() -> None:
    longest = max(VOCABULARY.table["token"].str.len_bytes())
    check(["x" * (longest + extra) + " good" for extra in range(-5, 9)] + ["é" * longest, "漢" * 100])
    read = Scanner(VOCABULARY, 10).read(pl.Series(["x" * 100_000 + " good"]))
    assert read.reviews.flat().tolist() == [UNKNOWN_ID, VOCABULARY.table.filter(token="good")["id"].item()]


def test_texts_are_read_in_their_order_whoever_reads_them() -> None:
    """Many threads, a view into a larger column, and rows that take each of the three ways."""
    generator = random.Random(1)
    texts = ["".join(generator.choices(PIECES, k=generator.randrange(60))) for _ in range(20_000)]
    texts[7] = "good " * 300_000
    check(texts)
    raw = pl.Series(texts)
    whole = Scanner(VOCABULARY, 12).read(raw)
    part = Scanner(VOCABULARY, 12).read(raw[500:600])
    assert part.reviews.flat().equal(whole.reviews.take(torch.arange(500, 600)).flat())
    assert part.n_tokens.equals(whole.n_tokens[500:600])
    nothing = Scanner(VOCABULARY, 12).read(raw[:0])
    assert (len(nothing.reviews), len(nothing.n_tokens)) == (0, 0)


def test_nearly_all_of_what_people_write_is_read_in_one_pass() -> None:
    texts = pl.read_csv(imdb_file().location.path)["text"].gather_every(10)
    check_with(VOCABULARY, texts.to_list(), 1000)
    _, unread = Scanner(VOCABULARY, 1000)._scan(texts, np.arange(len(texts)), RAW)
    assert len(unread) < 0.05 * len(texts)


@pytest.mark.parametrize("vocabulary", [VOCABULARY, CHARACTERS, SUBWORDS], ids=get_args(Unit))
def test_so_is_what_they_write_in_korean_and_chinese(vocabulary: Vocabulary) -> None:
    texts = pl.Series(["정말 재밌어요ㅋㅋㅋ 또 볼래요ㅠㅠ", "这部电影真好看，我看了三遍！", "最高でした。スーパー！"])
    check(texts.to_list())
    _, unread = Scanner(vocabulary, 1000)._scan(texts, np.arange(len(texts)), RAW)
    assert not len(unread)
