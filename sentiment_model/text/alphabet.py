"""What each character is to the scanner, and which one a token has for it.

The answers are those of :func:`normalise` and of the tokens' regular expression, asked about each character once.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sentiment_model.text.normalise import normalise
from sentiment_model.text.tokens import MARK as COMBINES
from sentiment_model.text.tokens import UNSPACED, Unit

MARK, WORD, CHARACTER, SPACE, OTHER, APOSTROPHE, TAG, AMPERSAND, UNREADABLE = range(9)
"""What a character is: those up to `WORD` make words, a `CHARACTER` is a token of its own, with the marks after it."""
RAW, NORMALISED = range(2)
"""The text that a character stands in."""

_CODES = 0x20000  # those above are of rare Han characters and of nothing that is written
_CONTEXTUAL = "\u03a3"  # which sigma it is in lower case depends on what follows


def read_alphabet() -> tuple[dict[Unit, NDArray[np.uint8]], NDArray[np.uint32]]:
    """Return of each character, in raw text and in normalised text, what it is and which one a token has for it.

    What it is depends on the unit of the tokens. In raw text a character counts only if normalising makes one character
    of it, whatever stands beside it.
    """
    codes = [code for code in range(_CODES) if not _is_known(code)]
    text = pl.Series([chr(code) for code in codes])
    between = pl.DataFrame({"text": "a" + text + "a"}).select(normalise(pl.col("text"))).to_series()
    normal = between.str.extract(r"(?s)^a(.)a$", 1)
    # What may join its neighbour, and what may begin markup once it is the plain character.
    normal = normal.set(normal.str.contains(r"[\p{M}\u1100-\u11ff&<]"), None)
    kinds = np.full((2, _CODES), CHARACTER, dtype=np.uint8)
    folds = np.tile(np.arange(_CODES, dtype=np.uint32), (2, 1))
    for mode, characters in enumerate((normal, text)):
        lower = characters.str.to_lowercase()  # which is done before tokens are searched for
        code = pl.Series([ord(one) if one is not None and len(one) == 1 else None for one in lower], dtype=pl.UInt32)
        found = pl.select(
            pl.when(code.is_null() | characters.is_in(list(_CONTEXTUAL)))
            .then(UNREADABLE)
            .when(lower == "'")
            .then(APOSTROPHE)
            .when(lower.str.contains(f"^{UNSPACED}$"))
            .then(CHARACTER)
            .when(lower.str.contains(f"^{COMBINES}$"))
            .then(MARK)
            .when(lower.str.contains(r"^[^\W_]$"))
            .then(WORD)
            .when(lower.str.contains(r"^\s$"))
            .then(SPACE)
            .otherwise(OTHER)
        ).to_series()
        kinds[mode, codes], folds[mode, codes] = found.to_numpy(), code.fill_null(0).to_numpy()
    kinds[RAW, ord("<")], kinds[RAW, ord("&")], folds[RAW, ord("&")] = TAG, AMPERSAND, ord("&")
    kinds[:, 0xD800:0xE000] = UNREADABLE
    words = np.where((kinds == CHARACTER) | (kinds == MARK), np.uint8(WORD), kinds)
    return {"word": words, "character": kinds, "subword": words}, folds


def _is_known(code: int) -> bool:
    """Return whether a character is a letter that is the same in every respect: of Han or Hangul, or a surrogate."""
    return 0x3400 <= code < 0x4DC0 or 0x4E00 <= code < 0xA000 or 0xAC00 <= code < 0xD7A4 or 0xD800 <= code < 0xE000


KINDS, FOLDS = read_alphabet()
