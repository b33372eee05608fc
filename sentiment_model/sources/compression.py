"""Compressed content, unpacked as it is read, in bounded memory."""

import bz2
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal, Protocol, cast

import zstandard
from isal import isal_zlib

from sentiment_model.errors import SourceError
from sentiment_model.text.reviews import Fault

Compression = Literal["gz", "zst", "bz2", "xz", "zip"]

COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst", ".bz2": "bz2", ".xz": "xz", ".zip": "zip"}
"""By the ending of a file's name."""

PIECE_BYTES = 1 << 20
"""Content comes in pieces of about this size."""

_LONGEST_WINDOW = 2**31  # what `zstd --ultra --long=31` needs; the file says how much, and mostly it is 8 MiB
_SIGNATURES: dict[bytes, Compression] = {
    b"\x1f\x8b": "gz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"\xfd7zXZ\0": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # an empty one
}
_BZ2 = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")  # a block, or the end of an empty one; a header may begin BZh
_SKIPPABLE = b"\x2a\x4d\x18"  # with which a frame begins that has no content; pzstd writes one first
_DAMAGED: tuple[type[Exception], ...] = (
    cast("type[Exception]", isal_zlib.IsalError),
    zstandard.ZstdError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    OSError,  # of bz2
    EOFError,
    zlib.error,
)
_ZIP_DAMAGED: tuple[type[Exception], ...] = (
    *_DAMAGED,
    NotImplementedError,
    ValueError,
    struct.error,
    OverflowError,
)  # as its directory may be


class _Decompressor(Protocol):
    """Unpacks one member of a file."""

    def decompress(self, data: bytes) -> Iterator[bytes]:
        """Yield what some input expands to."""

    @property
    def rest(self) -> bytes | None:
        """What follows the member in the input so far; None before its end."""


class _Gz:
    INPUT_BYTES = 1 << 16

    def __init__(self) -> None:
        self._stream = isal_zlib.decompressobj(16 + isal_zlib.MAX_WBITS)

    def decompress(self, data: bytes) -> Iterator[bytes]:
        while True:
            plain = self._stream.decompress(data, PIECE_BYTES)
            yield plain
            data = self._stream.unconsumed_tail
            if self._stream.eof or not (data or len(plain) == PIECE_BYTES):  # a full piece may have more behind it
                return

    @property
    def rest(self) -> bytes | None:
        return self._stream.unused_data if self._stream.eof else None


class _Zst:
    # What this expands to comes at once. A block of one repeated byte is 4 bytes for 128 KiB, so these are 64 MiB at
    # most, and a bomb cannot fill the memory.
    INPUT_BYTES = 2048

    def __init__(self) -> None:
        self._stream = zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW).decompressobj()

    def decompress(self, data: bytes) -> Iterator[bytes]:
        yield self._stream.decompress(data)

    @property
    def rest(self) -> bytes | None:
        return self._stream.unused_data if self._stream.eof else None


class _Standard:
    """Those of the standard library, which have one protocol."""

    INPUT_BYTES = 1 << 16

    def __init__(self, stream: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._stream = stream

    def decompress(self, data: bytes) -> Iterator[bytes]:
        yield self._stream.decompress(data, PIECE_BYTES)
        while not (self._stream.eof or self._stream.needs_input):
            yield self._stream.decompress(b"", PIECE_BYTES)

    @property
    def rest(self) -> bytes | None:
        return self._stream.unused_data if self._stream.eof else None


_DECOMPRESSORS: dict[Compression, tuple[Callable[[], _Decompressor], int]] = {
    "gz": (_Gz, _Gz.INPUT_BYTES),
    "zst": (_Zst, _Zst.INPUT_BYTES),
    "bz2": (lambda: _Standard(bz2.BZ2Decompressor()), _Standard.INPUT_BYTES),
    "xz": (lambda: _Standard(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LONGEST_WINDOW)), _Standard.INPUT_BYTES),
}


def compression_of(head: bytes) -> Compression | None:
    """Return how content is compressed that begins with these bytes, 10 or more."""
    if _BZ2.match(head):
        return "bz2"
    if head[1:4] == _SKIPPABLE and head[0] & 0xF0 == 0x50:
        return "zst"
    return next((kind for signature, kind in _SIGNATURES.items() if head.startswith(signature)), None)


def read_chunks(file: BinaryIO, compression: Compression | None) -> Iterator[bytes | Fault]:
    """Yield the file's content, unpacked; where that is cut off or damaged, a fault ends it.

    Raises:
        SourceError: a zip archive holds no file, several, or one that cannot be unpacked.
    """
    if compression is None:
        while chunk := file.read(PIECE_BYTES):
            yield chunk
    elif compression == "zip":
        yield from _read_zip(file)
    else:
        yield from _read_members(file, compression)


def _read_members(file: BinaryIO, compression: Compression) -> Iterator[bytes | Fault]:
    new, input_bytes = _DECOMPRESSORS[compression]
    decompressor = None
    is_first = True
    while data := file.read(input_bytes):
        while data:
            if decompressor is None:
                data = data if is_first else data.lstrip(b"\0")  # which pads an archive to whole blocks
                if not data:
                    break
                decompressor, is_first = new(), False
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


def zip_member(file: BinaryIO) -> zipfile.ZipInfo:
    """Return the one file that a zip archive holds, apart from what macOS adds.

    Raises:
        SourceError: it is damaged, holds no file or several, or is a workbook or the like.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except _ZIP_DAMAGED as error:
        raise SourceError(f"is a zip archive that is damaged or cut off: {error}") from error
    names = [member.filename for member in members]
    if "[Content_Types].xml" in names or "mimetype" in names[:1]:
        raise SourceError("is a workbook or a document of an office program; save it as CSV (UTF-8)")
    members = [member for member in members if not member.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        some = ", ".join(member.filename for member in members[:3])
        raise SourceError(
            f"is a zip archive of {len(members)} files{f' ({some} ...)' if some else ''}, not of one; unpack it into a "
            "folder and name that"
        )
    if members[0].flag_bits & 1:
        raise SourceError("is a zip archive with a password; unpack it")
    return members[0]


def _read_zip(file: BinaryIO) -> Iterator[bytes | Fault]:
    member = zip_member(file)
    try:
        with zipfile.ZipFile(file) as archive, archive.open(member) as content:
            while chunk := content.read(PIECE_BYTES):
                yield chunk
    except NotImplementedError as error:
        raise SourceError(f"is a zip archive that cannot be unpacked here: {error}") from error
    except _ZIP_DAMAGED as error:
        yield Fault("corrupt", f"the zip data is damaged, what follows is lost: {error}")
