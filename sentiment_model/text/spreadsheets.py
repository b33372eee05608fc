"""Texts that a spreadsheet would take for a formula, and what keeps it from that.

A spreadsheet that opens a CSV file shows an apostrophe in front of such a text and writes it again, or takes it for its
own mark and leaves it out. So both come back.
"""

import polars as pl

_FORMULA = "[=+\\-@\t\r\n＝＋－＠]"
"""How a text begins that a spreadsheet takes for a formula, see OWASP's page on CSV injection."""

_NUMBER = r"^[+\-](?:[0-9][0-9.,]*|[.,][0-9]+)(?:[eE][+\-]?[0-9]+)?%?$"


def guarded(texts: pl.Expr) -> pl.Expr:
    """Return texts with an apostrophe in front of those that would be formulas; numbers stay as they are.

    So do apostrophes become one more in front of what would be a formula, or nobody could tell which are the guard.
    """
    is_formula = texts.str.contains(f"^'*{_FORMULA}") & ~texts.str.contains(_NUMBER)
    return pl.when(is_formula).then(pl.concat_str(pl.lit("'"), texts)).otherwise(texts)


def unguarded(texts: pl.Series) -> pl.Series:
    """Return texts without the apostrophe that :func:`guarded` has put in front of them."""
    return texts.str.replace(f"^'('*{_FORMULA})", "$1")
