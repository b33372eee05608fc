"""Text normalisation: markup and encodings out, words, case and punctuation kept.

Training, evaluation and scoring all read text through :func:`normalise`.
"""

import html

import polars as pl

# Rust's regular expressions. `<3` and `a < b` are no tags: a tag starts with a letter, a slash or `!`.
_DROPPED_ELEMENTS = r"(?is)<!--.*?-->|<script\b.*?</script\s*>|<style\b.*?</style\s*>"
_TAG = r"<(?:/?[a-zA-Z]|!)[^<>]*>"
# Format characters include zero-width and bidirectional marks, which hide or reorder text but carry no words.
_INVISIBLE = r"[\p{Cc}\p{Cf}\p{Co}]"


def normalise(text: pl.Expr) -> pl.Expr:
    """Return text without markup and invisible characters, in Unicode form NFKC, with single spaces.

    HTML entities are resolved however often they were escaped, tags become spaces, and comments, scripts and style
    sheets are dropped with their content. Curly quotes become straight ones, so that `don’t` and `don't` are one word.
    The function is idempotent, and nulls stay null.
    """
    return text.map_batches(_normalise, return_dtype=pl.String, is_elementwise=True)


def _normalise(texts: pl.Series) -> pl.Series:
    result = texts.cast(pl.String).clone()
    rows = pl.arange(len(result), eager=True).cast(pl.UInt32)
    pending = result
    # Nearly every text is done in one pass; what was escaped or nested more deeply goes through again.
    while len(rows):
        passed = _one_pass(pending)
        result = passed if len(rows) == len(result) else result.scatter(rows, passed)
        again = (passed.str.contains("&", literal=True) | passed.str.contains(_TAG)) & (passed != pending)
        again = again.fill_null(False)
        rows, pending = rows.filter(again), passed.filter(again)
    return result


def _one_pass(texts: pl.Series) -> pl.Series:
    escaped = texts.str.contains("&", literal=True).fill_null(False)
    if escaped.any():
        # polars has no function for entities; most texts have none.
        unescaped = [html.unescape(text) for text in texts.filter(escaped)]
        texts = texts.clone().scatter(escaped.arg_true(), pl.Series(unescaped, dtype=pl.String))
    return (
        texts.str.replace_all(r"\s+", " ")
        .str.replace_all(_INVISIBLE, "")
        .str.normalize("NFKC")
        .str.replace_all(_DROPPED_ELEMENTS, " ")
        .str.replace_all(_TAG, " ")
        .str.replace_all("[\u2018\u2019\u02bc]", "'")
        .str.replace_all("[\u201c\u201d]", '"')
        .str.replace_all(r"\s+", " ")
        .str.strip_chars(" ")
    )
