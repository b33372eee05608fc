"""Objects below a local folder or an object-store prefix, through the same few durable operations."""

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import LocalStore, ObjectStore, from_url
from pydantic import BaseModel, ValidationError

from sentiment_model.errors import StoreError

Record = TypeVar("Record", bound=BaseModel)


class StoredObject(NamedTuple):
    """An object in a store, unopened."""

    path: str
    bytes: int
    modified: datetime


class Objects:
    """A folder or prefix; paths are relative to it.

    What :meth:`create`, :meth:`replace` and :meth:`move` have done survives a power cut when they return.
    """

    def __init__(self, url: str) -> None:
        """Open a folder, made where it is missing, or a prefix.

        Raises:
            StoreError: it cannot be opened.
        """
        self.is_local = not re.match(r"^[a-z][a-z0-9+]+://", url) or url.startswith("file://")
        self.url = str(Path(url.removeprefix("file://")).absolute()) if self.is_local else url.rstrip("/")
        try:
            self._store: ObjectStore = LocalStore(self.url, mkdir=True) if self.is_local else from_url(self.url)
        except (BaseError, OSError, ValueError) as error:
            raise StoreError(f"cannot open the store {url}: {first_line(error)}; check SENTIMENT_STORE_URL") from error

    def read(self, path: str) -> bytes | None:
        """Return the content of an object, or None where there is none."""
        try:
            return bytes(obstore.get(self._store, path).bytes())
        except FileNotFoundError:
            return None

    def load(self, kind: type[Record], path: str) -> Record | None:
        """Return the record that an object holds as JSON, or None where there is none.

        Raises:
            StoreError: the object is damaged, or of a version of the format that this program does not know.
        """
        content = self.read(path)
        try:
            return None if content is None else kind.model_validate_json(content)
        except ValidationError as error:
            raise StoreError(
                f"{self.url}/{path} is damaged, or was written by another version of this program: "
                f"{error.errors()[0]['msg']} ({'.'.join(map(str, error.errors()[0]['loc']))})"
            ) from error

    def size(self, path: str) -> int | None:
        """Return the size of an object in bytes, or None where there is none."""
        try:
            return int(obstore.head(self._store, path)["size"])
        except FileNotFoundError:
            return None

    def list(self, folder: str) -> Iterator[StoredObject]:
        """Yield every object below a folder, at any depth."""
        for page in obstore.list(self._store, f"{folder}/"):
            for meta in page:
                yield StoredObject(meta["path"], int(meta["size"]), meta["last_modified"])

    def create(self, path: str, content: bytes) -> bool:
        """Create an object; return False, and change nothing, where another writer's exists already.

        A store may have stored the object and not have been able to say so: it is asked again, and refuses, or gives
        an error. So whoever creates something reads it back then, and knows its own object by its content, which must
        name its writer.
        """
        try:
            created = self._link(path, content) if self.is_local else self._put_if_absent(path, content)
        except BaseError:
            if self._holds(path, content):
                return True
            raise
        return created or self.read(path) == content

    def _put_if_absent(self, path: str, content: bytes) -> bool:
        try:
            obstore.put(self._store, path, content, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def _link(self, path: str, content: bytes) -> bool:
        with self._written(path, content) as (temporary, target):
            try:
                os.link(temporary, target)  # unlike a rename, fails where the target exists
            except FileExistsError:
                return False
        _fsync_folders(target, Path(self.url))
        return True

    def _holds(self, path: str, content: bytes) -> bool:
        try:
            return self.read(path) == content
        except BaseError:
            return False  # nobody knows; the caller gets the first error

    def replace(self, path: str, content: bytes) -> None:
        """Write an object, whether it exists or not."""
        if not self.is_local:
            obstore.put(self._store, path, content)
            return
        with self._written(path, content) as (temporary, target):
            temporary.replace(target)
        fsync(target.parent)

    @contextmanager
    def _written(self, path: str, content: bytes) -> Iterator[tuple[Path, Path]]:
        target = Path(self.url, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:12]}")
        try:
            temporary.write_bytes(content)
            fsync(temporary)
            yield temporary, target
        finally:
            temporary.unlink(missing_ok=True)

    def upload(self, path: str, file: Path) -> None:
        """Write a local file's content as an object. Below a local folder, `file` may be that object already."""
        if not self.is_local:
            obstore.put(self._store, path, file)
            return
        target = Path(self.url, path)
        if file != target:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        fsync(target)
        fsync(target.parent)

    def download(self, path: str, target: Path) -> None:
        """Copy an object to a local file."""
        with target.open("wb") as file:
            for chunk in obstore.get(self._store, path).stream(min_chunk_size=8 << 20):
                file.write(chunk)

    def move(self, source: str, target: str) -> bool:
        """Rename an object; return False where there is none (any more)."""
        try:
            if self.is_local:
                new = Path(self.url, target)
                new.parent.mkdir(parents=True, exist_ok=True)
                Path(self.url, source).replace(new)
                _fsync_folders(new, Path(self.url))
            else:
                obstore.rename(self._store, source, target)
        except FileNotFoundError:
            return False
        return True

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects in the given order, and local folders that are empty then.

        What comes first is gone for good before anything else is. Objects that are gone already are passed over.
        """
        for path in paths:
            try:
                obstore.delete(self._store, path)
                if self.is_local:
                    self._forget(Path(self.url, path).parent)
            except FileNotFoundError:
                continue

    def _forget(self, folder: Path) -> None:
        """Make a deletion in the folder durable, and remove the folder and those above it while they are empty."""
        fsync(folder)
        with suppress(OSError):  # not empty
            while folder != Path(self.url):
                folder.rmdir()
                folder = folder.parent


def new_writer() -> str:
    """Return a name that nobody else has, for what :meth:`Objects.create` shall know as its writer's own."""
    return uuid.uuid4().hex


def fsync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_folders(target: Path, root: Path) -> None:
    folder = target.parent
    while folder != root.parent:
        fsync(folder)
        folder = folder.parent


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
