"""JSON as people write it: what a strict parser of one object a line refuses, and documents of many lines."""

import ast
import codecs
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from sentiment_model.sources.records import NOT_UTF8
from sentiment_model.text.reviews import Fault

Record = dict[str, Any]

_INNER_OBJECTS = 20  # that one which is no strict JSON may hold, as far as it is repaired

# As Python's json and pandas read them, and as they write them.
_DECODER = json.JSONDecoder(strict=False, parse_constant=lambda _: None)
_BETWEEN = re.compile(r"[\s,\[\]\ufeff]*")
_NEXT = re.compile(r"[\n,\[}][^\S\n]*+(?=\{)")  # no step is taken twice, however many lines are blank
_STRAY_COMMA = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\Z)|,(?=\s*[}\]])', re.DOTALL)
_HALF = re.compile("[\ud800-\udfff]")
_HALF_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")
_UNDECODED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are not UTF-8
_PYTHON = re.compile(r"\{\s*['}]")


def read_line(line: bytes) -> list[Record] | Fault:
    """Return the objects of a line that is no strict JSON.

    Read are several objects, commas behind them, NaN and infinities (as null), control characters, halves of
    surrogate pairs (as U+FFFD), and dictionaries as Python prints them.
    """
    try:
        text = line.decode().strip()
    except UnicodeDecodeError:
        return Fault("undecodable", NOT_UTF8, line)
    records: list[Record] = []
    place = _BETWEEN.match(text).end()  # type: ignore[union-attr]  # it matches the empty string too
    try:
        while place < len(text):
            value, place = _value(text, place)
            if not isinstance(value, dict):
                return Fault("broken_json", f"no JSON object, but {_kind(value)}", line)
            records.append(_sound(value))
            place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]
    except (ValueError, RecursionError, MemoryError) as error:
        return Fault("broken_json", f"no JSON: {_first_line(error)}", line)
    return records or Fault("broken_json", "no JSON object", line)


def _value(text: str, place: int) -> tuple[Any, int]:
    """Return the value at a place, and where it ends.

    Raises:
        ValueError: there is none.
    """
    if _PYTHON.match(text, place):
        return _python(text[place:]), len(text)
    try:
        return _DECODER.raw_decode(text, place)
    except json.JSONDecodeError:
        repaired = _STRAY_COMMA.sub(lambda found: "" if found[0] == "," else found[0], text[place:])
        value, end = _DECODER.raw_decode(repaired)
        if _BETWEEN.match(repaired, end).end() < len(repaired):  # type: ignore[union-attr]
            raise
        return value, len(text)


def _python(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know, which are left as they are
            tree = ast.parse(text.rstrip(", \t\r"), mode="eval")
        return json.loads(json.dumps(ast.literal_eval(_NoNumbers().visit(tree)), allow_nan=False))
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError("it begins like a Python dictionary, and is none that JSON could hold") from error


class _NoNumbers(ast.NodeTransformer):
    """Puts None for `nan` and `inf`, which Python prints and cannot read."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(None) if node.id in ("nan", "inf") else node


def is_document(head: bytes) -> bool:
    """Tell whether content that begins like this is an array, or objects of several lines or several in the first."""
    text = head.decode(errors="replace").lstrip("\ufeff \t\r\n")
    if text.startswith("["):
        return True
    if not text.startswith("{"):
        return False
    first, _, others = text.partition("\n")
    try:
        _, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError) as error:
        return bool(others) and isinstance(read_line(first.encode()), Fault) and not _is_certain(error, text)
    place = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]
    return end > len(first) or first.startswith("{", place)


def read_documents(chunks: Iterator[bytes | Fault], limit: int) -> Iterator[tuple[Record, int] | Fault]:
    """Yield the objects of JSON that is not one to a line: of an array, or one after the other, on any lines.

    After an object that cannot be read, reading goes on at the next that stands at a line's start or after a comma.

    Args:
        chunks: the content as UTF-8.
        limit: characters of the longest object.
    """
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    text, place = "", 0
    fault: Fault | None = None
    ended = False
    while True:
        place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]
        if place < len(text):
            try:
                value, end = _DECODER.raw_decode(text, place)
                found = _checked(value, text[place:end])
            except (ValueError, RecursionError) as error:
                is_too_long = len(text) - place > limit
                if ended or is_too_long or _is_certain(error, text):
                    ends = [following.end() for following in islice(_NEXT.finditer(text, place), _INNER_OBJECTS)]
                    if len(ends) == _INNER_OBJECTS or ended or is_too_long:
                        ends += [len(text)] if len(ends) < _INNER_OBJECTS else []
                        if repaired := _repaired(text, place, ends):
                            found, place = repaired
                            yield found
                            continue
                        yield Fault("broken_json", f"no JSON: {_first_line(error)}", _raw(text[place : place + limit]))
                        place = ends[0]
                        continue
            else:
                if end < len(text) or ended:  # or a number might go on
                    yield found
                    place = end
                    continue
        if ended:
            break
        chunk = next(chunks, None)
        ended = not isinstance(chunk, bytes)
        fault = chunk if isinstance(chunk, Fault) else None
        text, place = text[place:] + decode(chunk if isinstance(chunk, bytes) else b"", ended), 0
    if fault:
        yield fault


def _repaired(text: str, place: int, ends: Iterable[int]) -> tuple[tuple[Record, int] | Fault, int] | None:
    """Return the object at a place that is no strict JSON, and where it ends; None where it ends at none of `ends`."""
    for end in ends:
        piece = text[place:end]
        with suppress(ValueError, RecursionError, MemoryError):
            return _checked(_value(piece[: piece.rfind("}") + 1], 0)[0], piece), end
    return None


def _is_certain(error: Exception, text: str) -> bool:
    """Tell whether what is wrong is not that the text ends here."""
    if not isinstance(error, json.JSONDecodeError):
        return True
    return not error.msg.startswith("Unterminated string") and error.pos < len(text) - 16


def _checked(value: Any, text: str) -> tuple[Record, int] | Fault:
    if not isinstance(value, dict):
        return Fault("broken_json", f"no JSON object, but {_kind(value)}", _raw(text))
    if _UNDECODED.search(text):
        return Fault("undecodable", NOT_UTF8, _raw(text))
    return _sound(value) if _HALF_ESCAPED.search(text) else value, len(text)


def _sound(value: Any) -> Any:
    """Return the value with U+FFFD for each half of a surrogate pair, which UTF-8 cannot hold."""
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value) if _HALF.search(value) else value
    if isinstance(value, dict):
        return {_sound(key): _sound(inner) for key, inner in value.items()}
    return list(map(_sound, value)) if isinstance(value, list) else value


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _kind(value: Any) -> str:
    return {list: "an array", str: "a string", bool: "a truth value", type(None): "null"}.get(type(value), "a number")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
