"""Which script a text is in."""

from functools import cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

# Japanese is of two that go together, with letters that Unicode gives neither of them (ー), and of Han.
_LETTERS = {"Kana": r"[\p{Hiragana}\p{Katakana}\x{3031}-\x{3035}\x{30fc}\x{ff70}]", "other": r"\P{Common}"}
SCRIPTS = (
    "Latin",
    "Kana",  # before Han, with which it makes Japanese: the first of two equals is taken
    "Han",
    "Hangul",
    "Cyrillic",
    "Greek",
    "Armenian",
    "Georgian",
    "Hebrew",
    "Arabic",
    "Ethiopic",
    "Devanagari",
    "Bengali",
    "Gurmukhi",
    "Gujarati",
    "Oriya",
    "Tamil",
    "Telugu",
    "Kannada",
    "Malayalam",
    "Sinhala",
    "Thai",
    "Lao",
    "Khmer",
    "Myanmar",
    "Tibetan",
    "other",
)
"""The scripts that are told apart."""

_READ = 256  # characters of a text
_LAST = 0x20000  # from here on all letters are of Han


def main_scripts(texts: pl.Series) -> pl.Series:
    """Return the script of most letters among the first 256 characters of each text, an Enum; null without a letter.

    Args:
        texts: without nulls, raw or normalised.
    """
    heads = texts.str.head(_READ)
    is_latin = heads.str.contains("[a-zA-Z]") & (heads.str.len_bytes() == heads.str.len_chars())
    others = heads.filter(~is_latin)
    codes = np.frombuffer("".join(others).encode("utf-32-le"), dtype=np.uint32)
    rows = np.repeat(np.arange(len(others)), others.str.len_chars().to_numpy())
    kinds = len(SCRIPTS) + 1
    counts = np.bincount(rows * kinds + _by_code()[np.minimum(codes, _LAST)], minlength=len(others) * kinds)
    counts = counts.reshape(len(others), kinds)
    counts[:, 0] = 0  # what is no letter
    found = np.full(len(texts), SCRIPTS.index("Latin") + 1)
    found[~is_latin.to_numpy()] = counts.argmax(axis=1)
    return pl.Series("script", [None, *SCRIPTS], dtype=pl.Enum(SCRIPTS)).gather(found)


@cache
def _by_code() -> NDArray[np.uint8]:
    """Return of each character the number of its script, from 1 on; 0 where it is no letter."""
    scripts = np.zeros(_LAST + 1, dtype=np.uint8)
    scripts[_LAST] = SCRIPTS.index("Han") + 1
    codes = [code for code in range(_LAST) if not 0xD800 <= code < 0xE000]
    left = pl.DataFrame({"code": codes, "character": [chr(code) for code in codes]})
    left = left.filter(pl.col("character").str.contains(r"\p{L}"))
    for number, script in enumerate(SCRIPTS, 1):
        mine = left["character"].str.contains(_LETTERS.get(script, rf"\p{{{script}}}"))
        scripts[left["code"].filter(mine).to_numpy()] = number
        left = left.filter(~mine)
    return scripts
