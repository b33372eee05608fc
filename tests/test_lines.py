"""Decompression: all that a file holds, in pieces of bounded size, whatever its members and wherever it is read."""

import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentiment_model.sources import compression
from sentiment_model.sources.compression import read_chunks
from sentiment_model.text.reviews import Fault

MEMBERS = st.lists(st.binary(max_size=300) | st.integers(0, 3000).map(lambda size: b"x" * size), min_size=1, max_size=4)


def read(content: bytes, plain: int, packed: int) -> tuple[bytes, str | None]:
    """Return what is read of a gzip file, in pieces of so many bytes, and the fault that ended it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "PIECE_BYTES", plain)
        patch.setattr(compression._Gz, "INPUT_BYTES", packed)
        chunks = list(read_chunks(io.BytesIO(content), "gz"))
    pieces = [chunk for chunk in chunks if isinstance(chunk, bytes)]
    assert all(len(piece) <= plain for piece in pieces)
    (fault,) = [chunk.reason for chunk in chunks if isinstance(chunk, Fault)] or [None]
    return b"".join(pieces), fault


@given(MEMBERS, st.sampled_from([1, 7, 64, 1 << 20]), st.sampled_from([1, 5, 64, 1 << 16]), st.sampled_from([0, 1, 9]))
def test_gzip_members_are_read_whole(members: list[bytes], plain: int, packed: int, level: int) -> None:
    content = b"".join(gzip.compress(member, level) for member in members)
    assert read(content, plain, packed) == (b"".join(members), None)


@given(st.binary(min_size=1, max_size=300), st.data(), st.sampled_from([1, 64]))
def test_gzip_that_is_cut_off_ends_in_a_fault(member: bytes, data: st.DataObject, plain: int) -> None:
    content = gzip.compress(member)
    cut = data.draw(st.integers(1, len(content) - 1))
    found, fault = read(content[:cut], plain, 1 << 16)
    assert member.startswith(found)
    assert fault == "truncated"
