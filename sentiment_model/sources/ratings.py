"""Ratings as people write them: numbers, shares of a scale, stars and words."""

import polars as pl

_NUMBER = r"(\d+(?:[.,]\d+)?)"
_STARS = r"(?:stars?|sterne?n?|étoiles?|estrellas?|estrelas?|stelle|stella|sterren|stjärnor|gwiazdki|gwiazdek|[★⭐])"
_FILLED, _HOLLOW = "[★⭐🌟]", "[☆✩]"
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS = {word: float(number) for number, word in enumerate(_DIGITS)}

# As shops write it in their languages: `4.0 out of 5 stars`, `4,0 von 5 Sternen`, `8/10`.
_OUT_OF = rf"^(?:rated |rating:? )?{_NUMBER}\s*(?:/|out of|of|von|sur|de|su|van|av|z)\s*{_NUMBER}(?:\s*{_STARS})?$"
_PERCENT = rf"^{_NUMBER}\s*%$"
_OF_STARS = rf"^{_NUMBER}\s*-?\s*{_STARS}$"
_HALVES = r"^(\d+)\s*½$"
_DECIMAL_COMMA = r"^([+-]?\d{1,3},\d{1,2})$"
_DRAWN = rf"^{_FILLED}+½?{_HOLLOW}*$"
_WORD = rf"^({'|'.join(_WORDS)})(?:[ -]{_STARS})?$"


def read_ratings(values: pl.Series) -> pl.DataFrame:
    """Return the numbers that ratings say.

    Only what can mean one thing is read. A scale is told where it is written: `4/5`, `80%`, `★★★★☆`.

    Args:
        values: ratings as text, in lower case and without space around them.

    Returns:
        `number` and `scale`, both Float64: the rating, null where it is no finite number, and the highest one of its
        scale, null where none is written.
    """
    text = pl.col("text")
    plain = text.cast(pl.Float64(), strict=False)
    table = pl.DataFrame({"text": values}).with_columns(
        number=pl.when(plain.is_finite()).then(plain), scale=pl.lit(None, pl.Float64())
    )
    written = text.is_not_null() & plain.is_null()
    if not table.select(written.any()).item():
        return table.drop("text")
    drawn = text.str.replace_all(r"[\s\x{fe0f}]", "")
    filled = drawn.str.count_matches(_FILLED).cast(pl.Float64())
    hollow, half = drawn.str.count_matches(_HOLLOW), drawn.str.contains("½", literal=True)
    is_drawn = drawn.str.contains(_DRAWN)
    number = pl.coalesce(
        _number(text.str.extract(_OUT_OF)),
        _number(text.str.extract(_PERCENT)),
        _number(text.str.extract(_OF_STARS)),
        _number(text.str.extract(_DECIMAL_COMMA)),
        _number(text.str.extract(_HALVES)) + 0.5,
        text.str.extract(_WORD).replace_strict(_WORDS, default=None, return_dtype=pl.Float64()),
        pl.when(is_drawn).then(filled + half.cast(pl.Float64()) / 2),
    )
    scale = pl.coalesce(
        _number(text.str.extract(_OUT_OF, 2)),
        pl.when(text.str.contains(_PERCENT)).then(100.0),
        pl.when(is_drawn & (hollow > 0)).then(filled + hollow + half),
    )
    return table.select(number=pl.when(written).then(number).otherwise("number"), scale=pl.when(written).then(scale))


def _number(text: pl.Expr) -> pl.Expr:
    return text.str.replace(",", ".", literal=True).cast(pl.Float64(), strict=False)
