"""Immutable datasets, addressed by what they were made from.

Layout of a store (a local folder or an object-store prefix)::

    <stage>/<fingerprint>/<writer>/part-00000.parquet, ...
    <stage>/<fingerprint>/_manifest.json
    <stage>/<fingerprint>/_used

The manifest is created last, exclusively, and names every file with its size and SHA-256. A dataset exists only
through its manifest, so a killed writer leaves nothing readable, and of two writers at once exactly one publishes:
each writes below a folder of its own name, and the loser removes its files and takes the winner's dataset.
No step needs a rename, which object stores do not have. The time of `_used`, where there is one, is when a run last
reused the dataset.
"""

import errno
import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl
from obstore.exceptions import BaseError
from pydantic import BaseModel, ConfigDict, ValidationError

from sentiment_model.errors import SentimentError, StoreError
from sentiment_model.store.objects import Objects, StoredObject, first_line

MANIFEST = "_manifest.json"
USED = "_used"


class DatasetRef(BaseModel):
    """Names a dataset; small enough to travel between tasks."""

    model_config = ConfigDict(frozen=True)

    store_url: str
    stage: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.stage}/{self.fingerprint}"


class FileEntry(BaseModel):
    """One file of a dataset; `path` is relative to the dataset's folder."""

    path: str
    role: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a dataset is, what it was made from, and which files it consists of; `writer` names who published it."""

    schema_version: Literal[1] = 1
    stage: str
    stage_version: int
    fingerprint: str
    inputs: dict[str, str]
    parameters: dict[str, Any]
    counts: dict[str, Any]
    files: list[FileEntry]
    created_at: datetime
    writer: str = ""


@dataclass(frozen=True)
class Stage:
    """A stage's name and the version of its code; a new version makes new datasets."""

    name: str
    version: int

    def fingerprint(self, inputs: Mapping[str, str], parameters: Mapping[str, Any]) -> str:
        """Return the hash that names this stage's output for these inputs and parameters (JSON-able)."""
        identity = {"stage": self.name, "version": self.version, "inputs": inputs, "parameters": parameters}
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:20]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a local file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Dataset:
    """A published dataset, read through its manifest."""

    def __init__(self, store: "Store", manifest: Manifest) -> None:
        self._store = store
        self.manifest = manifest

    @property
    def ref(self) -> DatasetRef:
        """The dataset's name."""
        return DatasetRef(store_url=self._store.url, stage=self.manifest.stage, fingerprint=self.manifest.fingerprint)

    @property
    def url(self) -> str:
        """The dataset's folder."""
        return f"{self._store.url}/{self.ref}"

    @property
    def counts(self) -> dict[str, Any]:
        """What the stage counted while it wrote the dataset."""
        return self.manifest.counts

    def files(self, role: str) -> list[str]:
        """Return the paths or URLs of the files with this role, in the order they were written.

        Raises:
            StoreError: the dataset has no such file.
        """
        found = [f"{self.url}/{entry.path}" for entry in self.manifest.files if entry.role == role]
        if not found:
            raise StoreError(f"dataset {self.url} has no {role!r} file; delete its folder to make it again")
        return found

    def scan(self, role: str = "part") -> pl.LazyFrame:
        """Return the rows of the Parquet files with this role, lazily.

        Raises:
            StoreError: the dataset has no such file.
        """
        return pl.scan_parquet(self.files(role))

    @contextmanager
    def local_folder(self) -> Iterator[Path]:
        """Yield a local folder with the dataset's files, each checked against its checksum.

        Raises:
            StoreError: a file is missing or differs from what was published.
        """
        if self._store.is_local:
            yield self._verified(Path(self.url))
            return
        with tempfile.TemporaryDirectory(prefix="sentiment-") as temporary:
            for entry in self.manifest.files:
                target = Path(temporary, entry.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                self._store.objects.download(f"{self.ref}/{entry.path}", target)
            yield self._verified(Path(temporary))

    def _verified(self, folder: Path) -> Path:
        for entry in self.manifest.files:
            path = folder / entry.path
            if not path.is_file() or sha256_of(path) != entry.sha256:
                raise StoreError(f"{self.url}/{entry.path} is missing or damaged; delete {self.url} to make it again")
        writers = {entry.path.partition("/")[0] for entry in self.manifest.files}
        return folder / writers.pop() if len(writers) == 1 else folder


@dataclass
class DatasetWriter:
    """Collects the files of one dataset in a local folder until they are published."""

    folder: Path
    roles: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    def file(self, name: str, role: str = "part") -> Path:
        """Return the local path at which to write the file `name` of the dataset."""
        self.roles[name] = role
        return self.folder / name


class Store:
    """A folder or object-store prefix of datasets."""

    def __init__(self, url: str) -> None:
        self.objects = Objects(url)
        self.is_local, self.url = self.objects.is_local, self.objects.url

    def find(self, stage: str, fingerprint: str) -> Dataset | None:
        """Return the dataset, or None where none was published under this name.

        Raises:
            StoreError: the manifest cannot be read, or a file it names is missing or has another size.
        """
        folder = f"{stage}/{fingerprint}"
        manifest = self.manifest(stage, fingerprint)
        if manifest is None:
            return None
        try:
            sizes = {entry.path: self.objects.size(f"{folder}/{entry.path}") for entry in manifest.files}
        except BaseError as error:
            raise StoreError(f"cannot read the store {self.url}: {first_line(error)}") from error
        if None in sizes.values():
            raise StoreError(f"a file of dataset {self.url}/{folder} is missing; delete it to make it again")
        if wrong := [entry.path for entry in manifest.files if sizes[entry.path] != entry.bytes]:
            raise StoreError(f"{self.url}/{folder}/{wrong[0]} is damaged; delete {self.url}/{folder} to make it again")
        return Dataset(self, manifest)

    def manifest(self, stage: str, fingerprint: str) -> Manifest | None:
        """Return a dataset's manifest, without a look at its files, or None where none was published.

        Raises:
            StoreError: the manifest cannot be read.
        """
        folder = f"{stage}/{fingerprint}"
        try:
            content = self.objects.read(f"{folder}/{MANIFEST}")
            return None if content is None else Manifest.model_validate_json(content)
        except ValidationError as error:
            raise StoreError(
                f"manifest of {self.url}/{folder} is damaged or of another version; delete it to make it again"
            ) from error
        except BaseError as error:
            raise StoreError(f"cannot read the store {self.url}: {first_line(error)}") from error

    def get(self, ref: DatasetRef) -> Dataset:
        """Return the dataset.

        Raises:
            StoreError: it is not in the store, or is damaged.
        """
        dataset = self.find(ref.stage, ref.fingerprint)
        if dataset is None:
            raise StoreError(f"dataset {self.url}/{ref} does not exist; run the stage {ref.stage!r} again")
        return dataset

    def materialise(
        self,
        stage: Stage,
        inputs: Mapping[str, str],
        parameters: Mapping[str, Any],
        write: Callable[[DatasetWriter], dict[str, Any]],
    ) -> tuple[Dataset, bool]:
        """Return the stage's dataset for these inputs and parameters, writing it unless it exists.

        Args:
            stage: the stage.
            inputs: fingerprints of what the dataset is made from, by name.
            parameters: everything else that its content depends on, JSON-able.
            write: writes the files through the writer and returns the stage's counts.

        Returns:
            the dataset, and whether it existed already.

        Raises:
            StoreError: the store cannot be read or written; nothing half-written is left readable.
        """
        fingerprint = stage.fingerprint(inputs, parameters)
        if existing := self.find(stage.name, fingerprint):
            return existing, True
        name = uuid.uuid4().hex[:12]
        folder = f"{stage.name}/{fingerprint}"
        try:
            with self._writer(f"{folder}/{name}") as writer:
                counts = write(writer)
                manifest = Manifest(
                    stage=stage.name,
                    stage_version=stage.version,
                    fingerprint=fingerprint,
                    inputs=dict(inputs),
                    parameters=dict(parameters),
                    counts=counts,
                    files=[
                        FileEntry(
                            path=f"{name}/{file}",
                            role=role,
                            bytes=(writer.folder / file).stat().st_size,
                            sha256=sha256_of(writer.folder / file),
                        )
                        for file, role in writer.roles.items()
                    ],
                    created_at=datetime.now(UTC),
                    writer=name,
                )
                for file in writer.roles:
                    self.objects.upload(f"{folder}/{name}/{file}", writer.folder / file)
                writer.complete = True  # the files are needed, even if the store cannot say that it has the manifest
                published = self.objects.create(f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=2).encode())
                if not published:
                    self._discard(writer, f"{folder}/{name}")
        except (OSError, BaseError, pl.exceptions.ComputeError) as error:
            raise store_error(self.url, error) from error
        if published:
            return Dataset(self, manifest), False
        winner = self.find(stage.name, fingerprint)
        if winner is None:
            raise StoreError(f"dataset {self.url}/{folder} was removed while it was being written; run again")
        return winner, True

    def mark_used(self, ref: DatasetRef) -> None:
        """Record that a run uses the dataset from now on, so that clean-up counts its age anew.

        Raises:
            StoreError: the store cannot be written.
        """
        try:
            self.objects.replace(f"{ref}/{USED}", b"")
        except (OSError, BaseError) as error:
            raise store_error(self.url, error) from error

    def listing(self, folder: str) -> list[StoredObject]:
        """Return every object below a folder, without opening any.

        Raises:
            StoreError: the store cannot be read.
        """
        try:
            return list(self.objects.list(folder))
        except (OSError, BaseError) as error:
            raise StoreError(f"cannot read the store {self.url}: {first_line(error)}") from error

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects in the given order, see :meth:`Objects.delete`.

        Raises:
            StoreError: the store cannot be written.
        """
        try:
            self.objects.delete(paths)
        except (OSError, BaseError) as error:
            raise store_error(self.url, error) from error

    @contextmanager
    def _writer(self, folder: str) -> Iterator[DatasetWriter]:
        if not self.is_local:
            with tempfile.TemporaryDirectory(prefix="sentiment-") as temporary:
                yield DatasetWriter(Path(temporary))
            return
        path = Path(self.url, folder)
        path.mkdir(parents=True)
        writer = DatasetWriter(path)
        try:
            yield writer
        except BaseException:
            if not writer.complete:
                shutil.rmtree(path, ignore_errors=True)
            raise

    def _discard(self, writer: DatasetWriter, folder: str) -> None:
        if self.is_local:
            shutil.rmtree(writer.folder, ignore_errors=True)
        else:
            self.objects.delete(f"{folder}/{file}" for file in writer.roles)


def open_dataset(ref: DatasetRef) -> Dataset:
    """Return the dataset that `ref` names.

    Raises:
        StoreError: it is not in its store, or is damaged.
    """
    return Store(ref.store_url).get(ref)


def store_error(url: str, error: Exception) -> SentimentError:
    """Return what to raise where writing to a store failed: no space left, or another reason."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)
    if full:
        return StoreError(
            f"no space left while writing to {url}; nothing half-written is readable: free some space and run again"
        )
    return StoreError(f"cannot write to the store {url}: {first_line(error)}; nothing half-written is readable")
