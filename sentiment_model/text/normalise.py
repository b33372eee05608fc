"""Text normalisation: markup and encodings out, words, letter case and punctuation kept.

Training, evaluation and scoring all read text through :func:`normalise`.
"""

import html
import unicodedata
from collections.abc import Callable

import polars as pl

# The regular expressions are Rust's, which take time linear in the text. Elements are searched for one kind at
# a time, because an open `<script` would make each search for the end of a comment read to the end of the text.
_DROPPED_ELEMENTS = (
    r"(?s)<!--.*?-->",
    r"(?is)<script\b.*?</script\s*>",
    r"(?is)<style\b.*?</style\s*>",
)
# `<3`, `</3` and `a < b` are no tags: a tag starts with a letter, a slash and a letter, `!` or `?`.
_TAG = r"<(?:/?[a-zA-Z]|[!?])[^<>]*>"
# No character has such a number, and Python refuses to read one of thousands of digits.
_ABSURD_REFERENCE = r"&#[0-9]{9,};?"
# C1 controls are hardly ever meant: they are Windows-1252 dashes, quotes and dots that were read as Latin-1.
_WINDOWS_1252 = {chr(code): bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}
_CONTROL = r"[\x00-\x08\x0e-\x1f\x7f]"
# Zero-width, bidirectional and other marks that hide or reorder text but carry no words, and private characters.
_INVISIBLE = r"[\p{Cf}\p{Co}\p{Default_Ignorable_Code_Point}]"
# Korean letters that stand alone, as in ㅋㅋㅋ and ㅠㅠ. NFKC makes parts of syllables of them, which join their
# neighbours: ㅋㅠ would be 큐. So they are hidden from it as private characters, of which none is left by then.
_LONE_JAMO = "[\u3131-\u318e\uffa1-\uffdc]"
_PRIVATE = 0xB000  # from a letter to the character that hides it
_SHOWN_JAMO = {chr(code + _PRIVATE): chr(code) for code in range(0x3131, 0x318F)}
_HIDDEN_JAMO = {letter: hidden for hidden, letter in _SHOWN_JAMO.items()} | {
    # Those of half width are first the others.
    chr(code): chr(int(full, 16) + _PRIVATE)
    for code in range(0xFFA1, 0xFFDD)
    if (full := unicodedata.decomposition(chr(code)).removeprefix("<narrow> "))
}
_PASSES = 8


def normalise(text: pl.Expr) -> pl.Expr:
    """Return text without markup and invisible characters, in Unicode form NFKC, with single spaces.

    HTML entities are resolved, also those that were escaped more than once; tags become spaces; comments, scripts
    and style sheets are dropped with their content. Misread Windows-1252 punctuation is repaired, and every kind
    of apostrophe and quote becomes the plain one, so that `don’t` and `don't` are one word. Letter case is kept, and so
    are Korean letters outside syllables. Joiners go: of scripts that have them, letters look different then, but hardly
    any two words become one.

    The function is idempotent and takes time linear in the text. Null stays null; a text may come out empty.
    """
    return text.map_batches(_settle, return_dtype=pl.String, is_elementwise=True)


def _settle(texts: pl.Series, passes: int = _PASSES) -> pl.Series:
    """Normalise until nothing changes: one pass for nearly all, more for what was escaped or nested more deeply."""
    passed = _one_pass(texts)
    unsettled = passed.str.contains("[&<]") & (passed != texts)
    if passes > 1:
        return _change(passed, unsettled, lambda rows: _settle(rows, passes - 1))
    # Nobody wrote these: thousands of nested escapes or tags, say. Without markup characters they are settled.
    return _change(passed, unsettled, lambda rows: _one_pass(rows.str.replace_all("[&<>]", " ")))


def _one_pass(texts: pl.Series) -> pl.Series:
    texts = _change(texts, texts.str.contains("&", literal=True), _unescape)
    texts = _change(texts, texts.str.len_bytes() != texts.str.len_chars(), _to_plain_unicode)
    texts = texts.str.replace_all("`", "'", literal=True).str.replace_all(_CONTROL, "")
    texts = _change(texts, texts.str.contains("<", literal=True), _strip_markup)
    return texts.str.replace_all(r"[ \t-\r]{2,}|[\t-\r]", " ").str.strip_chars(" ")


def _change(texts: pl.Series, rows: pl.Series, change: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """Return the texts with the chosen rows changed; most steps concern few of them."""
    chosen = rows.arg_true()
    return texts.clone().scatter(chosen, change(texts.gather(chosen))) if len(chosen) else texts


def _unescape(texts: pl.Series) -> pl.Series:
    texts = texts.str.replace_all(_ABSURD_REFERENCE, "\ufffd")
    return pl.Series([html.unescape(text) for text in texts], dtype=pl.String)  # polars has no function for it


def _to_plain_unicode(texts: pl.Series) -> pl.Series:
    texts = (
        texts.str.replace_many(_WINDOWS_1252)
        .str.replace_all(_INVISIBLE, "")
        .str.replace_all("\u00b4", "'")  # NFKC would make it a space and a combining accent
    )
    lone = texts.str.contains(_LONE_JAMO)
    texts = _change(texts, lone, lambda rows: rows.str.replace_many(_HIDDEN_JAMO)).str.normalize("NFKC")
    return (
        _change(texts, lone, lambda rows: rows.str.replace_many(_SHOWN_JAMO))
        .str.replace_all("[\u2018\u2019\u02bc]", "'")
        .str.replace_all("[\u201c\u201d]", '"')
        .str.replace_all(r"\s", " ")
    )


def _strip_markup(texts: pl.Series) -> pl.Series:
    for element in (*_DROPPED_ELEMENTS, _TAG):
        texts = texts.str.replace_all(element, " ")
    return texts
