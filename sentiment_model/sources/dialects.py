r"""How a file of delimited text is written: found out from its first lines, as far as that is safe.

The column with the text, which the user named, is what decides: a header that has it, split at another character, was
split at the wrong one. Quotes and escapes are found out only where one reading leaves no doubt. Guessing from the types
of the values, as sniffers do, is not safe for reviews, which hold any character.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from sentiment_model.config import ReviewFiles

DELIMITERS = (",", "\t", ";", "|")
QUOTE = '"'
_RARE_IN_TEXT = "\t|"


@dataclass(frozen=True)
class Dialect:
    """How records become fields.

    Attributes:
        delimiter: between the fields.
        quote: around fields that hold delimiters or line breaks; None where quotes mean nothing.
        escape: before a quote that is a part of its field; None where that is written twice.
        columns: the names of the columns of a file without a header; None where the first record has them.
        is_wrapped: whether each record stands in quotes as a whole, as spreadsheets save one that they did not split.
    """

    delimiter: str
    quote: str | None = QUOTE
    escape: str | None = None
    columns: tuple[str, ...] | None = None
    is_wrapped: bool = False

    def __str__(self) -> str:
        """Return the same in words."""
        names = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
        said = [f"{names.get(self.delimiter, repr(self.delimiter))} between fields"]
        said += ["no quotes"] if self.quote is None else [f"quotes {self.quote}"] if self.quote != QUOTE else []
        said += [f"escapes by {self.escape}"] if self.escape else []
        said += ["no header"] if self.columns else []
        said += ["each record in quotes"] if self.is_wrapped else []
        return ", ".join(said)

    def records(self, lines: Iterable[str], *, strict: bool = True) -> Iterator[list[str]]:
        """Yield the fields of each record of some lines.

        Raises:
            csv.Error: a quote is where none may be, where strict.
        """
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote,
            escapechar=self.escape,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            strict=strict,
        )

    def split(self, line: str) -> list[str]:
        """Return the fields of one line; none where it cannot be read."""
        try:
            fields = next(self.records([line], strict=False), [])
        except csv.Error:
            return []
        return self.unwrapped(fields)

    def unwrapped(self, fields: list[str]) -> list[str]:
        """Return the fields of a record that stands in quotes as a whole; of another, the same."""
        return replace(self, is_wrapped=False).split(fields[0]) if self.is_wrapped and len(fields) == 1 else fields


def separator(line: str) -> str | None:
    """Return the delimiter that a first line such as ``sep=;`` tells spreadsheets, or None."""
    found = re.fullmatch(r'"?sep=([^"\r\n])"?\s*', line, re.IGNORECASE)
    return found[1] if found else None


def first_guess(lines: Sequence[str], config: ReviewFiles, usual: str, text: set[str]) -> Dialect:
    """Return how the first line is split so that it has the text; or so that most lines have the columns named.

    Args:
        lines: the first lines, without a line that names the delimiter.
        config: what is known of how the file is written.
        usual: the delimiter of such files.
        text: names that the column with the text may have.
    """
    columns = config.column_names
    delimiters = [config.delimiter] if config.delimiter else dict.fromkeys([usual, *DELIMITERS])
    usual_quotes = [QUOTE, "'"] if lines and lines[0].startswith("'") else [QUOTE]
    quotes = usual_quotes if config.quote is None else [None if config.quote == "none" else config.quote]
    guesses = [
        Dialect(delimiter, quote, None if config.escape in ("none", quote) else config.escape, columns)
        for quote in quotes
        for delimiter in delimiters
        if delimiter not in (quote, config.escape)
    ]
    guesses += [replace(guess, is_wrapped=True) for guess in guesses]

    def fit(dialect: Dialect) -> int:
        if columns is not None:
            return sum(len(dialect.split(line)) == len(columns) for line in lines)
        return bool(lines) and not text.isdisjoint(dialect.split(lines[0]))

    return max(guesses, key=fit)  # the first of several that fit as well


def has_no_quotes(lines: Sequence[str], dialect: Dialect, width: int) -> bool:
    """Tell whether quotes mean nothing in these lines, which are whole.

    They do not where every line by itself is a record and more fields open a quote that they do not close than are
    quoted as they should be. Texts may hold commas and semicolons, so this is found out only between tabs and bars.
    """
    if dialect.delimiter not in _RARE_IN_TEXT or width < 2:
        return False
    quote = dialect.quote or QUOTE
    right = wrong = 0
    for line in lines:
        fields = line.split(dialect.delimiter)
        if len(fields) != width:
            return False
        for field in fields:
            if field.startswith(quote):
                inner = field[1:-1].replace(quote * 2, "")
                is_quoted = len(field) > 1 and field.endswith(quote) and quote not in inner
                right, wrong = right + is_quoted, wrong + (not is_quoted)
    return wrong > right


def are_records(lines: Sequence[str], fields: Sequence[str], dialect: Dialect) -> bool:
    """Tell whether lines that a quoted field joins to one record are records of their own.

    A quote that is a part of its review joins all lines up to the next one. That shows where each line has as many
    fields as the record and, as texts may hold commas, the numbers that the record has before its text and behind it,
    or numbers that count the lines.

    Args:
        lines: those of the record.
        fields: of the record.
        dialect: how they are written.
    """
    width = len(fields)
    if width < 2 or any(line.count(dialect.delimiter) != width - 1 for line in lines):
        return False
    if dialect.delimiter in _RARE_IN_TEXT:
        return True
    numbers = [place for place, field in enumerate(fields) if _is_number(field)]
    broken = [place for place, field in enumerate(fields) if "\n" in field]
    unquoted = [[field.strip(f"{dialect.quote} ") for field in line.split(dialect.delimiter)] for line in lines]
    if not all(_is_number(line[place]) for line in unquoted for place in numbers):
        return False
    if numbers and broken and numbers[0] < broken[0] and broken[-1] < numbers[-1]:
        return True
    return any(_are_counted([float(line[place]) for line in unquoted]) for place in numbers)


def _are_counted(numbers: Sequence[float]) -> bool:
    return all(following == number + 1 for number, following in pairwise(numbers))


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
