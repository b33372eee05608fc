"""Normalisation: what goes, what stays, and that it settles on any text in linear time."""

import time

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentiment_model.text.normalise import normalise

MARKUP = [
    "<",
    ">",
    "&",
    ";",
    "/",
    "!",
    "--",
    "<!--",
    "-->",
    "<b>",
    "<br />",
    "<script>",
    "</script>",
    "<style",
    "</style>",
]
MARKUP += ["&amp;", "&lt", "&gt;", "&#60;", "&#x3C;", "lt;", "amp;", "\uff1c", "\uff06", "&#146;", "&zwj;", "&nbsp"]
UNICODE = ["\x00", "\x85", "\x96", "\xa0", "\xad", "\u00b4", "\u0301", "\u0338", "\u1680", "\u200b", "\u200d", "\u2028"]
UNICODE += [
    "\u202e",
    "\u2019",
    "\u3164",
    "\ufb01",
    "\ufdfa",
    "\ufe0f",
    "\uffff",
    "\ue000",
    "\ue14b",
    "ㅋ",
    "ㅠ",
    "ㄳ",
    "\uffb1",
    "\u1100",
    "\u1161",
    "가",
    "\U000e0041",
    "`",
    "'",
    " ",
    "\n",
    "a",
    "é",
    "\u200c",
    "ک",
    "\u0654",
    "\ufe70",
    "क",
    "\u094d",
    "ര\u0d4d",
    "👩",
    "🏽",
    "©",
]
nasty_text = st.lists(st.one_of(st.sampled_from(MARKUP + UNICODE), st.text(max_size=3))).map("".join)


def normalised(*texts: str | None) -> list[str | None]:
    return pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(normalise(pl.col("text")))["text"].to_list()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Great<br /><br />film<BR>!", "Great film !"),
        ("I <3 it, he </3 it, and a < b > c", "I <3 it, he </3 it, and a < b > c"),
        ("<p class='x'>Good</p><!-- not > this -->", "Good"),
        ("a<script>if (a < b) bad()</script >b<STYLE type=x>p {}</STYLE>c", "a b c"),
        ("x<?xml:namespace prefix = o />y", "x y"),
        ("<script>never closed", "never closed"),
        ("Tom &amp; Jerry &lt;3 &quot;caf&eacute;&quot;", 'Tom & Jerry <3 "café"'),
        ("one&lt;br&gt;two&amp;lt;br /&amp;gt;three", "one two three"),
        ("&lt;script&gt;bad()&lt;/script&gt;good", "good"),
        ("R&B and AT&T", "R&B and AT&T"),
        ("&#99999999999999; &#xD800; &#0;", "\ufffd \ufffd \ufffd"),
        ("don\u2019t don\u00b4t don`t don\x92t don&#146;t don\uff07t", "don't don't don't don't don't don't"),
        ("\u201cwell\u201d \x93well\x94", '"well" "well"'),
        ("bad\x96very bad\x85the end", "bad–very bad...the end"),
        ("a\x00\u0301 e\u200d\u0301", "á é"),  # what is between them would keep them apart
        ("N\x00U\x07L zero\u200bwidth so\xadft \u202eright\u202c \ufeffbom", "NUL zerowidth soft right bom"),
        ("love it \u2764\ufe0f\ufe0f", "love it \u2764"),
        ("\uff26\uff35\uff2c\uff2c \ufb01ne e\u0301", "FULL fine é"),
        (" \t a \u00a0\u3000\u2028 b\r\n\x0bc ", "a b c"),
        ("ИЗ Case Ünchanged İ ẞ", "ИЗ Case Ünchanged İ ẞ"),
        ("<br /> \u200b &nbsp; \x00", ""),
        ("", ""),
        (None, None),
    ],
)
def test_what_goes_and_what_stays(text: str | None, expected: str | None) -> None:
    assert normalised(text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Korean letters outside syllables, of full and of half width; the parts of syllables that other systems write.
        ("재밌다ㅋㅋㅋㅠㅠ ㅋㅠ ㄱㅏ 하ㄳ", "재밌다ㅋㅋㅋㅠㅠ ㅋㅠ ㄱㅏ 하ㄳ"),
        ("\uffbb\uffbb\uffda\u3164\uffa0 배우ㆍ감독", "ㅋㅋㅡ 배우ㆍ감독"),
        ("\u1112\u1161\u11ab국", "한국"),
        # Kana of half width, letters and digits of full width, what Japanese and Chinese compress into a character.
        ("ｽｰﾊﾟｰ ｶﾞｯﾂﾘ ＡＢＣ１２！？ ㍿", "スーパー ガッツリ ABC12!? 株式会社"),
        ("が か\u3099 々〆ー", "が が 々〆ー"),
        ("很好看，真的。“不错”", '很好看,真的。"不错"'),
        # Marks stay on their letters. A vowel that Unicode calls composed comes apart in the same way everywhere.
        ("ดีที่สุด ๑๐", "ดีที่สุด ๑๐"),
        ("น\u0e49ำ", "น\u0e49\u0e4dา"),
        ("हिन्दी বাংলা தமிழ்", "हिन्दी বাংলা தமிழ்"),
        ("العربيّة עִבְרִית ﻻ", "العربيّة עִבְרִית لا"),
        # Joiners between letters that join, and in emoji; no others, and one at a place.
        ("क्\u200dष می\u200cخواهم ශ්\u200dරී ক\u200cখ\u200cগ", "क्\u200dष می\u200cخواهم ශ්\u200dරී ক\u200cখ\u200cগ"),
        ("क&zwj;ष क\u200c\u200d\u200cष ک\u200c\u200eک", "क\u200dष क\u200cष ک\u200cک"),
        (
            "\u200cخوب\u200c \u200dक\u200d, a\u200cb ک\u200dک ㅋ\u200dㅠ 한\u200c국 ไ\u200cทย",
            "خوب क, ab کک ㅋㅠ 한국 ไทย",
        ),
        ("ک\u200c<b>ک क\u200d5 👩\u200d a\u200d👩", "ک ک क5 👩 a👩"),
        ("അവന്\u200d ഞാന്\u200d", "അവൻ ഞാൻ"),  # as Malayalam was written before these letters were one character
        (
            "👩\u200d👩\u200d👧 👍🏽 ❤\ufe0f\u200d🔥 🤷🏽\u200d♀\ufe0f 🇰🇷 1\ufe0f⃣",
            "👩\u200d👩\u200d👧 👍🏽 ❤\u200d🔥 🤷🏽\u200d♀ 🇰🇷 1⃣",
        ),
    ],
)
def test_what_carries_meaning_in_other_scripts(text: str, expected: str) -> None:
    assert normalised(text) == [expected]


@given(st.lists(nasty_text, min_size=1, max_size=8))
def test_idempotent_and_the_same_alone_as_in_company(texts: list[str]) -> None:
    once = normalised(*texts)
    assert normalised(*once) == once
    assert [normalised(text)[0] for text in texts] == once


def test_idempotent_on_every_character() -> None:
    # All that Unicode assigns: planes 4 to 13 are empty, and 15 and 16 are private use like the end of plane 0.
    codes = [*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE1000), 0xF0000, 0x10FFFF]
    characters = [chr(code) for code in codes]
    for context in ("{}", "a{}b", "<{}", "&{}amp;", "{}\u0301\u0338", "'{}"):
        once = normalised(*[context.format(character) for character in characters])
        assert normalised(*once) == once
        remains = pl.Series(once).str.contains(r"[\p{Cc}\p{Cf}\p{Co}\p{Default_Ignorable_Code_Point}]|[\s&&[^ ]]")
        assert not remains.any()


@pytest.mark.parametrize(
    "text",
    [
        "&" + "amp;" * 100_000,
        "<a" * 100_000 + ">" * 100_000,
        "<script" + "<!---->" * 60_000,
        "<!--" * 100_000,
        "&#" + "9" * 400_000 + ";",
        "&#" * 200_000,
        "\u0301\u0327" * 200_000,
    ],
    ids=lambda text: text[:12],
)
def test_text_made_to_be_slow_is_not(text: str) -> None:
    start = time.perf_counter()
    once = normalised(text)
    assert time.perf_counter() - start < 5  # tenths of a second; quadratic time would be minutes
    assert normalised(*once) == once


def test_the_input_stays_as_it_was_and_streaming_gives_the_same() -> None:
    texts = pl.DataFrame({"text": ["a<br>b &amp; é\u200b", None, "plain"] * 1000})
    before = texts.clone()
    streamed = texts.lazy().select(normalise(pl.col("text"))).collect(engine="streaming")
    assert streamed.equals(texts.select(normalise(pl.col("text"))))
    assert texts.equals(before)
