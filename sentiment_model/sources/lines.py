"""Lines of UTF-8 from files of any size and encoding, in bounded memory."""

import codecs
from collections.abc import Iterator

from sentiment_model.sources.compression import PIECE_BYTES
from sentiment_model.text.reviews import Fault

_HEAD_BYTES = 1 << 16  # in which a line ends, or the file has other ends of lines


def split_lines(chunks: Iterator[bytes | Fault], limit: int) -> Iterator[bytes | Fault]:
    r"""Yield lines of UTF-8 without their ``\n``, and without the byte-order marks that joined files leave.

    Args:
        chunks: what :func:`as_utf8` yields; a fault ends it, and takes the line that it cuts.
        limit: bytes of the longest line; of a longer one only the start is kept, in a fault.
    """
    parts: list[bytes] = []  # of the line that goes on in the next chunk; joined once, for long lines' sake
    size = 0
    for chunk in _in_pieces(chunks):
        if isinstance(chunk, Fault):
            yield chunk._replace(raw=b"".join(parts))
            return
        first, *others = chunk.split(b"\n")
        if size <= limit:
            parts.append(first)
            size += len(first)
        if others:
            yield _checked(b"".join(parts), limit)
            for line in others[:-1]:
                yield _checked(line, limit)
            parts = [others[-1]]
            size = len(others[-1])
    if size:
        yield _checked(b"".join(parts), limit)


def _in_pieces(chunks: Iterator[bytes | Fault]) -> Iterator[bytes | Fault]:
    """Yield the same in pieces of which a list of lines, each with its reference, is no burden: all may be empty."""
    for chunk in chunks:
        if isinstance(chunk, Fault):
            yield chunk
        else:
            yield from (chunk[start : start + PIECE_BYTES] for start in range(0, len(chunk), PIECE_BYTES))


def _checked(line: bytes, limit: int) -> bytes | Fault:
    if len(line) <= limit:
        return line.removeprefix(codecs.BOM_UTF8)
    return Fault("line_too_long", f"the line is longer than {limit:,} bytes", line)


def as_utf8(chunks: Iterator[bytes | Fault], encoding: str | None = None) -> Iterator[bytes | Fault]:
    r"""Yield the content as UTF-8 without a byte-order mark; lines that end with ``\r`` alone then end with ``\n``.

    UTF-16 with a byte-order mark (Google Play exports), or recognisable by the zero bytes of its first two
    characters, is found out. What cannot be decoded, such as lone surrogates, becomes bytes that are not UTF-8.

    Args:
        chunks: the file's content; a fault ends it.
        encoding: its encoding; None for UTF-8 or UTF-16.
    """
    head, rest = taken(chunks, 4)
    found = encoding or _utf16(head)
    chunks = _chained(head, rest)
    if found:
        chunks = _transcoded(chunks, found)
    head, rest = taken(chunks, _HEAD_BYTES)
    head = head.removeprefix(codecs.BOM_UTF8)
    chunks = _chained(head, rest)
    if b"\n" in head or b"\r" not in head[:-1]:
        return chunks
    return (chunk if isinstance(chunk, Fault) else chunk.replace(b"\r", b"\n") for chunk in chunks)


def taken(chunks: Iterator[bytes | Fault], size: int) -> tuple[bytes, Iterator[bytes | Fault]]:
    """Return the start of the content, this many bytes or more unless it ends or is damaged, and what follows."""
    parts: list[bytes] = []
    missing = size
    for chunk in chunks:
        if isinstance(chunk, Fault):
            return b"".join(parts), iter([chunk])
        parts.append(chunk)
        missing -= len(chunk)
        if missing <= 0:
            break
    return b"".join(parts), chunks


def _chained(head: bytes, rest: Iterator[bytes | Fault]) -> Iterator[bytes | Fault]:
    yield head
    yield from rest


def _transcoded(chunks: Iterator[bytes | Fault], encoding: str) -> Iterator[bytes | Fault]:
    # The handler that keeps what cannot be decoded: surrogateescape needs bytes that are not zero.
    errors = "surrogatepass" if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")) else "surrogateescape"
    decoder = codecs.getincrementaldecoder(encoding)(errors)

    try:
        for chunk in chunks:
            if isinstance(chunk, Fault):
                yield chunk
                return
            yield decoder.decode(chunk).encode("utf-8", errors)
        yield decoder.decode(b"", final=True).encode("utf-8", errors)
    except UnicodeError as error:  # a half of a character at the end, or what the handler cannot keep
        if errors == "surrogatepass" and isinstance(error, UnicodeDecodeError):
            yield error.object[: error.start].decode(error.encoding, errors).encode("utf-8", errors)
        yield Fault("undecodable", f"not {encoding}, what follows is lost: {error}")


def _utf16(head: bytes) -> str | None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # A header or a JSON document starts with two ASCII characters (the rule of RFC 4627, section 3).
    zeros = [byte == 0 for byte in head[:4]]
    if zeros == [False, True, False, True]:
        return "utf-16-le"
    return "utf-16-be" if zeros == [True, False, True, False] else None
