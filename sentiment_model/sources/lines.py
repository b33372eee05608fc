"""Lines of UTF-8 from files of any size, compressed or not, in bounded memory."""

import codecs
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal, Protocol

import zstandard

from sentiment_model.text.reviews import Fault

Compression = Literal["gz", "zst"]

_PLAIN_BYTES = 1 << 20
# A decompressor returns at once all that its input expands to. Two KiB expand to 2 MiB at most with gzip, and
# to 64 MiB with zstd (blocks of one repeated byte: 4 bytes for 128 KiB), so a bomb cannot fill the memory.
_COMPRESSED_BYTES = 2048


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _new_gz() -> _Decompressor:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _new_zst() -> _Decompressor:
    return zstandard.ZstdDecompressor().decompressobj()


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {"gz": _new_gz, "zst": _new_zst}


def read_chunks(file: BinaryIO, compression: Compression | None) -> Iterator[bytes | Fault]:
    """Yield the file's content, decompressed; where that is cut off or damaged, a fault ends it."""
    if compression is None:
        while chunk := file.read(_PLAIN_BYTES):
            yield chunk
        return
    new = _DECOMPRESSORS[compression]
    decompressor = None
    while data := file.read(_COMPRESSED_BYTES):
        while data:
            decompressor = decompressor or new()
            try:
                yield decompressor.decompress(data)
            except (zlib.error, zstandard.ZstdError) as error:
                yield Fault("corrupt", f"the {compression} data is damaged, what follows is lost: {error}")
                return
            data = b""
            if decompressor.eof:  # another member or frame may follow
                data, decompressor = decompressor.unused_data, None
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
