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
_INVISIBLE = r"[[\p{Cf}\p{Co}\p{Default_Ignorable_Code_Point}]--\p{Join_Control}]"
# Joiners that a reader sees are those between letters of scripts that join them. Elsewhere they are left-overs.
_NON_JOINER, _JOINER = "\u200c", "\u200d"
_INDIC = "".join(
    rf"\p{{{script}}}"
    for script in (
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
    )
)
_JOINS = rf"[[{_INDIC}]&&[\p{{L}}\p{{M}}]]"
# With the Arabic vowel signs, which Unicode gives no single script.
_PARTS = rf"[[{_INDIC}\p{{Arabic}}\p{{Syriac}}\u064b-\u0655\u0670]&&[\p{{L}}\p{{M}}]]"
_EMOJI = r"\p{Extended_Pictographic}"
_KEPT_JOINERS = (
    (rf"({_PARTS}){_NON_JOINER}({_PARTS})", "\ue000"),
    (rf"({_JOINS}){_JOINER}({_JOINS})", "\ue001"),
    (rf"({_EMOJI}|\p{{Emoji_Modifier}}){_JOINER}({_EMOJI})", "\ue001"),
)
_SHOWN_JOINERS = {"\ue000": _NON_JOINER, "\ue001": _JOINER}
# Letters of Malayalam that were three characters, the last of them a joiner, until Unicode 5.1 made them one.
_CHILLUS = {
    f"{letter}\u0d4d{_JOINER}": chillu
    for letter, chillu in zip(
        "\u0d23\u0d28\u0d30\u0d32\u0d33\u0d15", "\u0d7a\u0d7b\u0d7c\u0d7d\u0d7e\u0d7f", strict=True
    )
}
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
    are Korean letters outside syllables, the colour of an emoji's skin, and joiners between letters of Indic scripts,
    in Persian and the like, and inside emoji. What only chooses how a character is drawn (variation selectors) goes.

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
    texts = texts.str.replace_all(_CONTROL, "")  # which would keep apart what is one character
    texts = _change(texts, texts.str.len_bytes() != texts.str.len_chars(), _to_plain_unicode)
    texts = texts.str.replace_all("`", "'", literal=True)
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
    texts = _change(texts, texts.str.contains(r"\p{Join_Control}"), _drop_joiners)
    return (
        _change(texts, lone, lambda rows: rows.str.replace_many(_SHOWN_JAMO))
        .str.replace_all("[\u2018\u2019\u02bc]", "'")
        .str.replace_all("[\u201c\u201d]", '"')
        .str.replace_all(r"\s", " ")
    )


def _drop_joiners(texts: pl.Series) -> pl.Series:
    """Keep the joiners that stand where a reader sees them, of several in a row the first."""
    texts = texts.str.replace_many(_CHILLUS).str.replace_all(r"(\p{Join_Control})\p{Join_Control}+", "$1")
    for _ in range(2):  # a letter between two joiners is one's right neighbour, and then the other's left one
        for context, hidden in _KEPT_JOINERS:
            texts = texts.str.replace_all(context, f"${{1}}{hidden}${{2}}")
    texts = texts.str.replace_all(r"\p{Join_Control}", "").str.replace_many(_SHOWN_JOINERS)
    return texts.str.normalize("NFKC")  # what a joiner parted may be one character now


def _strip_markup(texts: pl.Series) -> pl.Series:
    for element in (*_DROPPED_ELEMENTS, _TAG):
        texts = texts.str.replace_all(element, " ")
    return texts
