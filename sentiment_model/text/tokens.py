"""What a token is.

It is a word, a character where words have no spaces between them or endings glued to them, or a piece of a word.
"""

from typing import Literal

import polars as pl

Unit = Literal["word", "character", "subword"]

PAD, UNKNOWN = "<pad>", "<unk>"
UNKNOWN_ID = 1
CONTINUES = "##"
"""Before a piece that does not start a word."""

# Scripts in which lines break between any two letters, or where a dictionary says (Unicode's UAX 14, classes ID, H2, H3
# and SA), and Tibetan. Korean has spaces, but so much is glued to a noun or a verb that most words are rare.
_SCRIPTS = (
    "Han",
    "Hiragana",
    "Katakana",
    "Bopomofo",
    "Hangul",
    "Yi",
    "Thai",
    "Lao",
    "Khmer",
    "Myanmar",
    "Tai_Le",
    "New_Tai_Lue",
    "Tai_Tham",
    "Tai_Viet",
    "Tibetan",
)
_SHARED = "\u3006\u3031-\u3035\u303c\u30fc"  # letters of Japanese that Unicode gives no single script: ー and the like
# Their letters; their digits make numbers and their signs stand alone like all others.
UNSPACED = "[[" + "".join(rf"\p{{{script}}}" for script in _SCRIPTS) + _SHARED + r"]&&[\p{L}\p{Nl}]]"
MARK = r"\p{M}"
JOINER = 0x200D
_LETTER = r"[^\W_]"  # or digit, or mark, or joiner
_OTHER_LETTER = f"[{_LETTER}--{UNSPACED}]"

# Words, with apostrophes inside them, and any other character on its own. Rules that split off `n't`, keep emoticons or
# join repeated marks made no measurable difference. An emoji of several is as many tokens, the later ones with the
# joiner before them: whole, most of them would be unknown. A token starts with a joiner nowhere else.
_JOINED = rf"\x{{{JOINER:x}}}\S"
_WORD = rf"{_JOINED}|{_LETTER}+(?:'{_LETTER}+)*|\S"
_TOKEN: dict[Unit, str] = {
    "word": _WORD,
    "subword": _WORD,
    "character": rf"{_JOINED}|{UNSPACED}{MARK}*|{_OTHER_LETTER}+(?:'{_OTHER_LETTER}+)*|\S",
}

# In reviews of other scripts characters leave the tokens as they are, so it takes no majority; but a few names of
# Japanese films are not worth changing all ids for.
_MIN_SHARE = 0.1


def tokens_of(text: pl.Expr, unit: Unit) -> pl.Expr:
    """Return the tokens of normalised text, in lower case, as a list column.

    With the unit `character`, each letter of the scripts above is a token, with the marks on it; all else is as with
    `word`. With `subword` they are words, which the vocabulary cuts into its pieces.
    """
    return text.str.to_lowercase().str.extract_all(_TOKEN[unit])


def choose_unit(reviews: pl.LazyFrame) -> Unit:
    """Return the unit that suits the normalised column `text`: characters where a tenth of all is of their scripts."""
    text = pl.col("text")
    found = reviews.select(
        of_scripts=text.str.count_matches(UNSPACED).cast(pl.Int64).sum(),
        of_all=text.str.len_chars().cast(pl.Int64).sum(),
    ).collect(engine="streaming")
    of_scripts, of_all = found.row(0)
    return "character" if of_scripts > _MIN_SHARE * of_all else "word"
