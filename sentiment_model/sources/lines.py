"""Lines of UTF-8 from files of any size, compressed or not, in bounded memory."""

import codecs
from collections.abc import Iterator
from typing import BinaryIO, Literal, cast

import zstandard
from isal import isal_zlib

from sentiment_model.text.reviews import Fault

Compression = Literal["gz", "zst"]

_PLAIN_BYTES = 1 << 20
_DAMAGED: tuple[type[Exception], ...] = (cast("type[Exception]", isal_zlib.IsalError), zstandard.ZstdError)


class _Gz:
    """Decompresses a member of a gzip file, :data:`_PLAIN_BYTES` at a time."""

    INPUT_BYTES = 1 << 16

    def __init__(self) -> None:
        self._stream = isal_zlib.decompressobj(16 + isal_zlib.MAX_WBITS)

    def decompress(self, data: bytes) -> Iterator[bytes]:
        """Yield what some input expands to."""
        while True:
            plain = self._stream.decompress(data, _PLAIN_BYTES)
            yield plain
            data = self._stream.unconsumed_tail
            if self._stream.eof or not (data or len(plain) == _PLAIN_BYTES):  # a full piece may have more behind it
                return

    @property
    def rest(self) -> bytes | None:
        """What follows the member in the input so far; None before its end."""
        return self._stream.unused_data if self._stream.eof else None


class _Zst:
    """Decompresses a frame of a zstd file."""

    # What this expands to comes at once. A block of one repeated byte is 4 bytes for 128 KiB, so these are 64 MiB at
    # most, and a bomb cannot fill the memory.
    INPUT_BYTES = 2048

    def __init__(self) -> None:
        self._stream = zstandard.ZstdDecompressor().decompressobj()

    def decompress(self, data: bytes) -> Iterator[bytes]:
        """Yield what some input expands to."""
        yield self._stream.decompress(data)

    @property
    def rest(self) -> bytes | None:
        """What follows the frame in the input so far; None before its end."""
        return self._stream.unused_data if self._stream.eof else None


_DECOMPRESSORS: dict[Compression, type[_Gz | _Zst]] = {"gz": _Gz, "zst": _Zst}


def read_chunks(file: BinaryIO, compression: Compression | None) -> Iterator[bytes | Fault]:
    """Yield the file's content, decompressed; where that is cut off or damaged, a fault ends it."""
    if compression is None:
        while chunk := file.read(_PLAIN_BYTES):
            yield chunk
        return
    new = _DECOMPRESSORS[compression]
    decompressor = None
    while data := file.read(new.INPUT_BYTES):
        while data:
            decompressor = decompressor or new()
            try:
                yield from decompressor.decompress(data)
            except _DAMAGED as error:
                yield Fault("corrupt", f"the {compression} data is damaged, what follows is lost: {error}")
                return
            data = decompressor.rest or b""
            if decompressor.rest is not None:  # another member or frame may follow
                decompressor = None
    if decompressor is not None:
        yield Fault("truncated", f"the {compression} data is cut off, what follows is lost")


def split_lines(chunks: Iterator[bytes | Fault], limit: int) -> Iterator[bytes | Fault]:
    r"""Yield lines of UTF-8 without their ``\n``.

    UTF-16 with a byte-order mark (Google Play exports), or recognisable by the zero bytes of its first two
    characters, is transcoded; what it cannot hold, such as lone surrogates, becomes bytes that are not UTF-8.

    Args:
        chunks: the file's content; a fault ends it, and takes the line that it cuts.
        limit: bytes of the longest line; of a longer one only the start is kept, in a fault.
    """
    parts: list[bytes] = []  # of the line that goes on in the next chunk; joined once, for long lines' sake
    size = 0
    for chunk in _in_pieces(_as_utf8(chunks)):
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
            yield from (chunk[start : start + _PLAIN_BYTES] for start in range(0, len(chunk), _PLAIN_BYTES))


def _checked(line: bytes, limit: int) -> bytes | Fault:
    if len(line) <= limit:
        return line
    return Fault("line_too_long", f"the line is longer than {limit:,} bytes", line)


def _as_utf8(chunks: Iterator[bytes | Fault]) -> Iterator[bytes | Fault]:
    head = b""
    fault = None
    for chunk in chunks:
        if isinstance(chunk, Fault):
            fault = chunk
            break
        head += chunk
        if len(head) >= 4:
            break
    encoding = _utf16(head)
    if encoding is None:
        yield head.removeprefix(codecs.BOM_UTF8)
        yield from [fault] if fault else chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")

    def transcode(data: bytes, *, final: bool = False) -> bytes:
        try:
            return decoder.decode(data, final).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # an odd byte at the end
            return b"\xff"

    yield transcode(head)
    for chunk in [fault] if fault else chunks:
        if isinstance(chunk, Fault):
            yield chunk
            return
        yield transcode(chunk)
    yield transcode(b"", final=True)


def _utf16(head: bytes) -> str | None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # A header or a JSON document starts with two ASCII characters (the rule of RFC 4627, section 3).
    zeros = [byte == 0 for byte in head[:4]]
    if zeros == [False, True, False, True]:
        return "utf-16-le"
    return "utf-16-be" if zeros == [True, False, True, False] else None
