"""What a power cut leaves: every name that was given is of a whole file, and what a call has done is there.

A disk may keep everything that was written, or only what was synced. The tests take the second for granted, which no
kill of a process shows.
"""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sentiment_model.store.datasets import MANIFEST, DatasetWriter, Stage, Store
from sentiment_model.store.objects import Objects
from sentiment_model.training.checkpoint import save_checkpoint


class Disk:
    """Knows what was synced: the content of files and the names in folders, by inode, as they were then."""

    def __init__(self) -> None:
        self.synced: dict[int, Any] = {}
        self.synced_before: dict[Path, dict[int, Any]] = {}  # by the name that was given

    def sync(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            names = os.listdir(descriptor)
            self.synced[found.st_ino] = {name: os.stat(name, dir_fd=descriptor).st_ino for name in names}
        else:
            self.synced[found.st_ino] = os.pread(descriptor, found.st_size + 1, 0)

    def name(self, path: str | Path) -> None:
        self.synced_before[Path(path)] = dict(self.synced)

    def content_when_named(self, path: Path) -> bytes | None:
        """Return what was on the disk of a file that is there, at the moment when it got its name."""
        return self.synced_before[path].get(path.stat().st_ino)

    def left(self, folder: Path) -> dict[str, bytes]:
        """Return the files below a folder that a power cut leaves, by their path in it."""

        def below(inode: int, path: Path) -> Iterator[tuple[str, bytes]]:
            for name, of in self.synced.get(inode, {}).items():
                if isinstance(self.synced.get(of), bytes):
                    yield str(path / name), self.synced[of]
                else:
                    yield from below(of, path / name)

        return dict(below(folder.stat().st_ino, Path()))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    fsync = os.fsync

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        disk.sync(descriptor)

    def naming(call: Callable[..., None]) -> Callable[..., None]:
        def named(source: Any, target: Any, **options: Any) -> None:
            disk.name(target)
            call(source, target, **options)

        return named

    monkeypatch.setattr(os, "fsync", synced)
    for name in ("link", "rename", "replace"):
        monkeypatch.setattr(os, name, naming(getattr(os, name)))
    return disk


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(str(tmp_path / "store"))


def test_a_new_object_is_whole_and_there_with_its_folders(objects: Objects, disk: Disk) -> None:
    assert objects.create("a/b/new", b"content")
    root = Path(objects.url)
    assert disk.content_when_named(root / "a/b/new") == b"content"
    assert disk.left(root) == {"a/b/new": b"content"}


def test_of_an_object_that_is_replaced_one_or_the_other_is_there(objects: Objects, disk: Disk) -> None:
    objects.create("a/b/old", b"first")
    objects.replace("a/b/old", b"second")
    root = Path(objects.url)
    assert disk.content_when_named(root / "a/b/old") == b"second"
    assert disk.left(root) == {"a/b/old": b"second"}


def test_an_object_that_was_moved_is_there(objects: Objects, disk: Disk) -> None:
    objects.create("a/old", b"content")
    assert objects.move("a/old", "b/c/new")
    assert disk.left(Path(objects.url))["b/c/new"] == b"content"


def test_what_is_deleted_first_is_gone_before_anything_else_is(objects: Objects, disk: Disk) -> None:
    paths = ["a/first", "b/second", "b/third"]
    for path in paths:
        objects.create(path, path.encode())
    root = Path(objects.url)

    def one_by_one() -> Iterator[str]:
        for number, path in enumerate(paths):
            assert sorted(disk.left(root)) == paths[number:]
            yield path

    objects.delete(one_by_one())
    assert disk.left(root) == {}
    assert list(root.iterdir()) == []  # folders that are empty go with what was in them


def test_what_is_gone_already_keeps_nothing_else_from_being_deleted(objects: Objects) -> None:
    objects.create("a/one", b"content")
    objects.delete(["a/none", "b/none", "a/one"])
    assert list(objects.list("a")) == []
    assert not objects.move("a/one", "b/one")


@pytest.mark.parametrize("is_in_place", [True, False])
def test_an_upload_is_there(is_in_place: bool, tmp_path: Path, objects: Objects, disk: Disk) -> None:
    folder = Path(objects.url, "a")
    folder.mkdir()
    file = folder / "new" if is_in_place else tmp_path / "elsewhere"
    file.write_bytes(b"content")
    objects.upload("a/new", file)
    assert disk.left(folder) == {"new": b"content"}


def test_a_manifest_is_of_files_that_are_there(tmp_path: Path, disk: Disk) -> None:
    contents = {"one": b"first", "two": b"second"}

    def write(writer: DatasetWriter) -> dict[str, int]:
        for name, content in contents.items():
            writer.file(name).write_bytes(content)
        return {}

    dataset, _ = Store(str(tmp_path / "store")).materialise(Stage("stage", 1), {}, {}, write)
    (folder,) = {Path(path).parent for path in dataset.files("part")}
    before = disk.synced_before[Path(dataset.url, MANIFEST)]
    inodes = before[folder.stat().st_ino]
    assert {name: before[inode] for name, inode in inodes.items()} == contents
    left = disk.left(tmp_path / "store")
    assert {Path(path).name: content for path, content in left.items() if Path(path).name != MANIFEST} == contents
    assert left[f"{dataset.ref}/{MANIFEST}"] == Path(dataset.url, MANIFEST).read_bytes()


def test_a_checkpoint_is_whole_before_it_takes_the_place_of_the_last(tmp_path: Path, disk: Disk) -> None:
    checkpoint = tmp_path / "c.safetensors"
    for step in (1, 2):
        save_checkpoint(checkpoint, {"weight": torch.full((3,), float(step))}, {"step": step})
        assert disk.content_when_named(checkpoint) == checkpoint.read_bytes()
