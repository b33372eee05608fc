"""Content hashes are remembered: of a file that is as it was, and of no other."""

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from sentiment_model.config import ReviewFiles, ScoringRun
from sentiment_model.errors import FileAccessError
from sentiment_model.scoring.planning import open_inbox
from sentiment_model.scoring.shards import file_key
from sentiment_model.sources import hashes as hashes_module
from sentiment_model.sources import locations
from sentiment_model.sources.hashes import KnownHashes
from sentiment_model.sources.locations import Location, find
from sentiment_model.store.datasets import sha256_of

LONG_AGO = (1_700_000_000_000_000_000,) * 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "in").mkdir()
    for number in range(3):
        write(folder / f"{number}.csv", f"text\n{number}\n")
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are read to be hashed, in their order."""
    names: list[str] = []

    def hashed(path: Path) -> str:
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(locations, "sha256_of", hashed)
    return names


def write(path: Path, text: str, times: tuple[int, int] = LONG_AGO) -> None:
    path.write_text(text)
    os.utime(path, ns=times)


def fingerprints(folder: Path, memory: Path) -> list[str]:
    with KnownHashes(memory) as known:
        found = [known.fingerprint(location) for location in find(str(folder)).locations]
    assert known.fault is None
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]
    return found


def test_a_file_that_is_as_it_was_is_not_read_again(folder: Path, tmp_path: Path, read: list[str]) -> None:
    memory = tmp_path / "new" / "hashes"
    fingerprints(folder, memory)
    assert read == ["0.csv", "1.csv", "2.csv"]
    fingerprints(folder, memory)
    assert len(read) == 3
    write(folder / "3.csv", "text\nnew\n")
    fingerprints(folder, memory)
    assert read[3:] == ["3.csv"]


def longer(path: Path) -> None:
    write(path, "text\nmore\n")


def newer(path: Path) -> None:
    write(path, "text\nx\n", (LONG_AGO[0] + 1,) * 2)


def replaced(path: Path) -> None:
    write(path.with_name(".new"), "text\nx\n")
    path.with_name(".new").replace(path)


def set_back(path: Path) -> None:
    """Write as many bytes to the same place, and say that it was long ago; only the change's own time is new."""
    write(path, "text\nx\n")


def linked(path: Path) -> None:
    write(path.parent.parent / "other.csv", "text\nx\n")
    path.unlink()
    path.symlink_to(path.parent.parent / "other.csv")


@pytest.mark.parametrize("change", [longer, newer, replaced, set_back, linked])
def test_a_file_that_was_changed_is_read_again(
    change: Callable[[Path], None], folder: Path, tmp_path: Path, read: list[str]
) -> None:
    first = fingerprints(folder, tmp_path / "hashes")
    change(folder / "1.csv")
    second = fingerprints(folder, tmp_path / "hashes")
    assert read[3:] == ["1.csv"]
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]


def test_what_may_change_without_a_trace_is_not_remembered(folder: Path, tmp_path: Path, read: list[str]) -> None:
    now = time.time_ns()
    os.utime(folder / "0.csv", ns=(now, now))
    os.utime(folder / "1.csv", ns=(now, now + 3600 * 10**9))  # by a clock that is ahead
    fingerprints(folder, tmp_path / "hashes")
    fingerprints(folder, tmp_path / "hashes")
    assert read[3:] == ["0.csv", "1.csv"]


def test_a_file_that_changes_while_it_is_read_is_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(path: Path) -> str:
        found = sha256_of(path)
        write(path, "text\nx\n")
        return found

    with monkeypatch.context() as patch, KnownHashes(tmp_path / "hashes") as known:
        patch.setattr(locations, "sha256_of", overtaken)
        for location in find(str(folder)).locations:
            known.fingerprint(location)
    assert len(set(fingerprints(folder, tmp_path / "hashes"))) == 1


def test_without_a_place_to_remember_files_are_read(folder: Path, tmp_path: Path, read: list[str]) -> None:
    for _ in range(2):
        with KnownHashes(folder / "0.csv" / "hashes") as known:
            found = [known.fingerprint(location) for location in find(str(folder)).locations]
        assert found[0] == sha256_of(folder / "0.csv")
        assert "0.csv" in str(known.fault)
    assert len(read) == 6


def test_who_cannot_write_reads_what_others_remember(folder: Path, tmp_path: Path, read: list[str]) -> None:
    memory = tmp_path / "hashes"
    fingerprints(folder, memory)
    write(folder / "3.csv", "text\nnew\n")
    known_one, *_, location = find(str(folder)).locations
    with KnownHashes(memory) as known:
        known.fingerprint(known_one)
        assert known._connection
        known._connection.execute("PRAGMA query_only = 1")  # as a file system that is mounted read-only; root may write
        assert known.fingerprint(location) == sha256_of(folder / "3.csv")
    assert "readonly" in str(known.fault)
    fingerprints(folder, memory)
    assert read[3:] == ["3.csv", "3.csv"]


def test_a_damaged_memory_is_made_anew(folder: Path, tmp_path: Path, read: list[str]) -> None:
    memory = tmp_path / "hashes"
    memory.write_bytes(b"no database" * 1000)
    with KnownHashes(memory) as known:
        for location in find(str(folder)).locations:
            known.fingerprint(location)
    assert "not a database" in str(known.fault)
    fingerprints(folder, memory)
    fingerprints(folder, memory)
    assert len(read) == 6


def test_several_processes_remember_at_once(folder: Path, tmp_path: Path, read: list[str]) -> None:
    for number in range(3, 300):
        write(folder / f"{number}.csv", f"text\n{number}\n")
    memory = tmp_path / "hashes"
    with get_context("spawn").Pool(3) as processes:
        found = processes.starmap(fingerprints, [(folder, memory)] * 6)
    assert all(each == found[0] for each in found)
    assert fingerprints(folder, memory) == found[0]
    assert read == []


def test_the_memory_is_bounded(folder: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes_module, "_MOST", 2)
    memory = tmp_path / "hashes"
    fingerprints(folder, memory)
    ((rows,),) = sqlite3.connect(memory).execute("SELECT count(*) FROM hashes").fetchall()
    assert rows == 2
    write(folder / "0.csv", "text\nx\n")
    fingerprints(folder, memory)
    assert read[3:] == ["0.csv"], "those that were read last are remembered"


def test_an_inbox_has_the_same_keys_with_and_without_memory(folder: Path, tmp_path: Path, read: list[str]) -> None:
    run = ScoringRun(files=ReviewFiles(path=str(folder)))
    plain = open_inbox(run, Location.fingerprint).files
    for _ in range(2):
        with KnownHashes(tmp_path / "hashes") as known:
            assert open_inbox(run, known.fingerprint).files == plain
    assert list(plain) == [file_key(file) for file in plain.values()]
    assert len(read) == 9


def test_a_file_that_is_gone_is_not_remembered(folder: Path, tmp_path: Path) -> None:
    fingerprints(folder, tmp_path / "hashes")
    (location,) = find(str(folder / "0.csv")).locations
    (folder / "0.csv").unlink()
    with KnownHashes(tmp_path / "hashes") as known, pytest.raises(FileAccessError, match=r"cannot read .*0\.csv"):
        known.fingerprint(location)
