"""Datasets exist whole or not at all, whoever is killed or competes."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sentiment_model.errors import StoreError
from sentiment_model.store.datasets import MANIFEST, Dataset, DatasetWriter, Stage, Store, open_dataset

STAGE = Stage("squares", 1)


def write_rows(writer: DatasetWriter) -> dict[str, Any]:
    pl.DataFrame({"x": [1, 2, 3]}).write_parquet(writer.file("part-00000.parquet"))
    pl.DataFrame({"x": [4]}).write_parquet(writer.file("part-00001.parquet"))
    pl.DataFrame({"reason": ["odd"]}).write_parquet(writer.file("quarantine.parquet", role="quarantine"))
    return {"rows": 4}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def make(store: Store, **parameters: Any) -> Dataset:
    return store.materialise(STAGE, {"source": "abc"}, parameters, write_rows)[0]


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_dataset_is_read_through_its_manifest(store: Store) -> None:
    dataset = make(store, n=1)
    assert dataset.scan().collect()["x"].to_list() == [1, 2, 3, 4]
    assert dataset.scan("quarantine").collect()["reason"].to_list() == ["odd"]
    assert dataset.counts == {"rows": 4}
    assert open_dataset(dataset.ref).manifest == dataset.manifest
    with dataset.local_folder() as folder:
        assert sorted(path.name for path in folder.iterdir()) == [
            "part-00000.parquet",
            "part-00001.parquet",
            "quarantine.parquet",
        ]
    with pytest.raises(StoreError, match="no 'labels' file"):
        dataset.scan("labels")


def test_the_same_work_is_done_once_and_other_work_anew(store: Store) -> None:
    calls = []

    def write(writer: DatasetWriter) -> dict[str, Any]:
        calls.append(writer.folder)
        return write_rows(writer)

    first, reused_first = store.materialise(STAGE, {"source": "abc"}, {"n": 1}, write)
    again, reused_again = store.materialise(STAGE, {"source": "abc"}, {"n": 1}, write)
    assert (reused_first, reused_again, len(calls)) == (False, True, 1)
    assert again.ref == first.ref
    others = [
        store.materialise(STAGE, {"source": "abd"}, {"n": 1}, write),
        store.materialise(STAGE, {"source": "abc"}, {"n": 2}, write),
        store.materialise(Stage("squares", 2), {"source": "abc"}, {"n": 1}, write),
    ]
    assert len({first.ref.fingerprint, *(dataset.ref.fingerprint for dataset, _ in others)}) == 4


def test_a_failed_writer_leaves_nothing(store: Store) -> None:
    def fail(writer: DatasetWriter) -> dict[str, Any]:
        write_rows(writer)
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        store.materialise(STAGE, {}, {}, fail)
    assert files_below(Path(store.url)) == []
    assert store.find(STAGE.name, STAGE.fingerprint({}, {})) is None


def test_a_killed_writer_leaves_nothing_readable(store: Store) -> None:
    program = f"""
import os, signal
import polars as pl
from sentiment_model.store.datasets import Stage, Store
def write(writer):
    pl.DataFrame({{"x": [1]}}).write_parquet(writer.file("part-00000.parquet"))
    os.kill(os.getpid(), signal.SIGKILL)
Store({store.url!r}).materialise(Stage("squares", 1), {{}}, {{}}, write)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert files_below(Path(store.url)), "the writer was killed before it wrote; the test shows nothing"
    assert store.find(STAGE.name, STAGE.fingerprint({}, {})) is None
    dataset, reused = store.materialise(STAGE, {}, {}, write_rows)
    assert not reused
    assert dataset.scan().collect().height == 4


def test_of_two_writers_at_once_one_publishes_and_both_read_it(store: Store) -> None:
    barrier = threading.Barrier(4)
    results: list[tuple[Dataset, bool]] = []

    def write(writer: DatasetWriter) -> dict[str, Any]:
        barrier.wait()
        return write_rows(writer)

    def work() -> None:
        results.append(store.materialise(STAGE, {}, {"n": 7}, write))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reused for _, reused in results) == [False, True, True, True]
    assert len({dataset.manifest.files[0].path for dataset, _ in results}) == 1
    assert all(dataset.scan().collect().height == 4 for dataset, _ in results)
    left = {path.name for path in files_below(Path(results[0][0].url))}
    assert left == {MANIFEST, "part-00000.parquet", "part-00001.parquet", "quarantine.parquet"}
    assert len(files_below(Path(results[0][0].url))) == 4


@pytest.mark.parametrize("damage", ["missing", "shorter", "manifest"])
def test_damage_is_noticed(damage: str, store: Store) -> None:
    dataset = make(store)
    part = Path(dataset.files("part")[0])
    if damage == "missing":
        part.unlink()
    elif damage == "shorter":
        part.write_bytes(part.read_bytes()[:-1])
    else:
        (Path(dataset.url) / MANIFEST).write_text("{")
    with pytest.raises(StoreError, match="delete"):
        store.get(dataset.ref)


def test_changed_bytes_are_noticed_where_files_are_fetched(store: Store) -> None:
    dataset = make(store)
    part = Path(dataset.files("part")[0])
    content = bytearray(part.read_bytes())
    content[10] ^= 1
    part.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"), dataset.local_folder():
        pass


def test_a_full_disk_is_a_clear_error(store: Store) -> None:
    def fill(writer: DatasetWriter) -> dict[str, Any]:
        writer.file("part-00000.parquet").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match="no space left"):
        store.materialise(STAGE, {}, {}, fill)
    assert files_below(Path(store.url)) == []


def test_a_store_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    with pytest.raises(StoreError, match="SENTIMENT_STORE_URL"):
        Store(str(occupied))


def test_unknown_dataset(store: Store) -> None:
    ref = make(store).ref.model_copy(update={"fingerprint": "0" * 20})
    with pytest.raises(StoreError, match="does not exist"):
        open_dataset(ref)
