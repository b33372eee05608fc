"""What a file is by its first bytes, whatever its name says."""

from collections.abc import Mapping

_TAR_MAGIC = slice(257, 262)

HEAD_BYTES = 512
"""How much of a file tells what it is."""

_FOREIGN: Mapping[bytes, str] = {
    b"version https://git-lfs.github.com/spec/": "is a Git LFS pointer, not the data; run `git lfs pull`",
    b"%PDF-": "is a PDF document; export the reviews as CSV or JSON Lines",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "is a workbook or document of an old office program; save it as CSV (UTF-8)",
    b"7z\xbc\xaf'\x1c": "is a 7z archive; unpack it",
    b"Rar!\x1a\x07": "is a RAR archive; unpack it",
    b"\x1f\x9d": "is compressed with `compress`; unpack it",
    b"\x04\x22\x4d\x18": "is compressed with LZ4; unpack it",
    b"SQLite format 3\0": "is an SQLite database; export the reviews as CSV or JSON Lines",
    b"ARROW1\0\0": "is an Arrow (Feather) file; save it as Parquet",
    b"Obj\x01": "is an Avro file; save it as Parquet or JSON Lines",
    b"\x89HDF\r\n": "is an HDF5 file; save it as Parquet",
    b"\x80\x04\x95": "is a Python pickle, which could run code; save it as Parquet",
    b"\x80\x05\x95": "is a Python pickle, which could run code; save it as Parquet",
    b"<!doctype html": "is a web page, perhaps one that asks to sign in; download the file itself",
    b"<html": "is a web page, perhaps one that asks to sign in; download the file itself",
    b"<?xml": "is XML; convert it to CSV or JSON Lines",
}


def is_parquet(head: bytes) -> bool:
    """Tell whether content begins as Parquet does."""
    return head.startswith(b"PAR1")


def foreign(head: bytes) -> str | None:
    """Return what content that begins like this is, and what to do about it, where it is nothing to read reviews from.

    Args:
        head: the first :data:`HEAD_BYTES` of it.
    """
    if head[_TAR_MAGIC] == b"ustar":
        return "is a tar archive; unpack it into a folder and name that"
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t")[:64].lower()
    return next(
        (what for signature, what in _FOREIGN.items() if head.startswith(signature) or start.startswith(signature)),
        None,
    )
