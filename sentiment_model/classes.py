"""What a review can be: one of two classes or more; and which labels and ratings mean which."""

import math
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

_KEY_CHARACTERS = 60


class Classes(BaseModel):
    """The classes of a model, or of labelled reviews.

    A label is a class's number, counted from 0.

    Attributes:
        names: of the classes; where they are ordered, from the lowest to the highest.
        ordered: whether to take one class for its neighbour is a smaller mistake than to take it for another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    ordered: bool = False

    def __len__(self) -> int:
        return len(self.names)


def class_keys(classes: Classes) -> tuple[str, ...]:
    """Return what names each class in the key of a metric: its name, with `_` for what is no letter, digit or `_`.

    Where two classes would have the same, or one of them none, each also has its number.
    """
    keys = tuple(re.sub(r"\W+", "_", name).strip("_")[:_KEY_CHARACTERS] for name in classes.names)
    if "" in keys or len(set(keys)) < len(keys):
        return tuple(f"{key}_{number}".lstrip("_") for number, key in enumerate(keys))
    return keys


BINARY = Classes(names=("negative", "positive"))


class Range(NamedTuple):
    """Ratings from the lowest to the highest, both included."""

    low: float
    high: float


_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"({_NUMBER})(?:\s*-\s*({_NUMBER}))?")
_STARS = {
    BINARY.names: (Range(1, 2), Range(4, 5)),
    ("negative", "neutral", "positive"): (Range(1, 2), Range(3, 3), Range(4, 5)),
}
_SPELLINGS = {"negative": ("neg",), "neutral": ("neu",), "positive": ("pos",)}
_BINARY_SPELLINGS = {"negative": ("0", "false"), "positive": ("1", "true")}
_MOST_RATING = 1000  # of an example
_OUT_OF = (5, 10, 20, 100)  # the highest ratings of the scales that people use

MISSING_VALUES = (
    "nan",
    "-nan",
    "NaT",
    "NA",
    "N/A",
    "<NA>",
    "null",
    "(null)",
    "[null]",
    "none",
    "undefined",
    r"\N",
    "#N/A",
    "#N/A N/A",
    "#NA",
    "#NAME?",
    "#VALUE!",
    "#REF!",
    "#NULL!",
    "#NUM!",
    "#DIV/0!",
)
"""What pandas, R, JavaScript, databases and spreadsheets write where they have no value."""

WHOLE = r"^([+-]?\d+)\.0+$"
"""A whole number that is written as a fraction, and before its point the number."""


def fold(value: str) -> str:
    """Return what a value of a label column or a rating is known by, whatever its letter case and spelling."""
    return re.sub(WHOLE, r"\1", unicodedata.normalize("NFC", value).strip().lower())


def read_ranges(texts: Sequence[str]) -> tuple[Range, ...]:
    """Return the ratings that texts like `1-2` and `3` say, which ascend.

    Raises:
        ValueError: a text says no range, or they do not ascend.
    """
    ranges = []
    for text in texts:
        found = _RANGE.fullmatch(text.strip())
        if not found:
            raise ValueError(f"{text!r} is no range of ratings; write 1-2, or 3")
        ranges.append(Range(float(found[1]), float(found[2] or found[1])))
    bounds = [bound for found in ranges for bound in found]
    if bounds != sorted(bounds) or any(one.high == two.low for one, two in pairwise(ranges)):
        raise ValueError("the ranges of ratings must ascend, as 1-2,3,4-5 do")
    return tuple(ranges)


def example_ranges(low: float, high: float, n_classes: int) -> tuple[str, ...] | None:
    """Return ranges for two or three classes on the scale that ratings from `low` to `high` are likely on.

    Ratings about the middle are of no class, or of the middle one. For more classes, and for numbers that are hardly
    ratings, there is no example.
    """
    low, high = round(low, 3), round(high, 3)
    if n_classes > 3 or not -_MOST_RATING <= low <= high - 0.1 <= _MOST_RATING:
        return None
    if low < 1 and high == 5 and low >= 0:  # stars with halves, or with none at all
        return (_written(low, 2), *(["3"] if n_classes > 2 else []), "4-5")
    if high - low > 2:
        high = next((top for top in _OUT_OF if 5 < high <= top), high)
        low = min(low, 1) if low < 1 else 1
    step = 1 if high - low >= 2 else 0.1 * (high - low)
    apart = max(step, 0.1 * (high - low))
    middle = (low + high) / 2
    below = max(low, low + step * math.floor((middle - apart - low) / step + 1e-9))
    above = min(high, low + step * math.ceil((middle + apart - low) / step - 1e-9))
    if below + (n_classes - 1) * step > above + 1e-9:  # what is between has no room
        return None
    between = (_written(below + step, above - step),) if n_classes > 2 else ()
    return (_written(low, below), *between, _written(above, high))


def _written(low: float, high: float) -> str:
    low, high = round(low, 4), round(high, 4)
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


def usual_ranges(names: tuple[str, ...]) -> tuple[Range, ...] | None:
    """Return the ratings of classes that are named by them, or those of up to five stars that common names mean.

    There are none where the names are no ratings, or ratings that do not ascend.
    """
    try:
        return read_ranges(names)
    except ValueError:
        return _STARS.get(tuple(map(fold, names)))


def usual_spellings(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return for each class other values of a label column that commonly mean it."""
    folded = tuple(map(fold, names))
    more = _BINARY_SPELLINGS if folded == BINARY.names else {}
    return tuple(_SPELLINGS.get(name, ()) + more.get(name, ()) for name in folded)


def read_spellings(texts: Sequence[str], names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return for each class the values that texts like `negative=bad` say.

    Raises:
        ValueError: a text names no class.
    """
    found: dict[str, list[str]] = {name: [] for name in names}
    for text in texts:
        # Of classes `a` and `a=b`, the text `a=b=c` is of the latter.
        named = max((name for name in names if text.startswith(f"{name}=")), key=len, default=None)
        if named is None:
            raise ValueError(f"{text!r} is not CLASS=VALUE with one of the classes {', '.join(names)}")
        found[named].append(text.removeprefix(f"{named}="))
    return tuple(map(tuple, found.values()))
