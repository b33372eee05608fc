"""Files on this machine and in object stores, through the same few calls."""

import errno
import glob
import hashlib
import io
import os
import re
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from sentiment_model.errors import FileAccessError, NoReviewsError, SourceError
from sentiment_model.store.datasets import sha256_of
from sentiment_model.store.objects import first_line

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import ObjectMeta

_WILDCARD = re.compile(r"[*?\[]")
_CREDENTIALS = re.compile(r"^([a-z][a-z0-9+]*://)[^/]*@")
_READ_AHEAD = 8 << 20
_NOT_UTF8 = "with a name that is not UTF-8"


class FileState(NamedTuple):
    """What the file system says of a local file; who changes the file changes that.

    Attributes:
        inode: its number.
        size: in bytes.
        modified_ns: when its content was last changed, in nanoseconds since 1970; can be set.
        changed_ns: when anything of it was last changed, this time too; cannot be set.
    """

    inode: int
    size: int
    modified_ns: int
    changed_ns: int


@dataclass(frozen=True)
class Location:
    """One file.

    Attributes:
        root: local folder, or URL of an object-store prefix.
        name: path below `root`; it names the file in ids and messages, so that a dump gives the same
            reviews wherever it lies.
        size: in bytes.
        version: the object's e-tag or time of change; None for a local file.
        modified: when it was last changed, in seconds since 1970.
    """

    root: str
    name: str
    size: int
    version: str | None
    modified: float

    @property
    def path(self) -> str:
        """Full path or URL."""
        return f"{self.root.rstrip('/')}/{self.name}"

    @property
    def identity(self) -> str:
        """Where the file is, spelled in one way: a path without links, or a URL without credentials."""
        if self.version is None:
            return os.path.realpath(self.path)
        return _CREDENTIALS.sub(r"\1", self.path)

    def state(self) -> FileState | None:
        """Return what a local file is now, without reading it; None of an object.

        Raises:
            FileAccessError: it is gone, or cannot be reached.
        """
        if self.version is not None:
            return None
        with self._readable():
            found = Path(self.path).stat()
        return FileState(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def fingerprint(self) -> str:
        """Return a hash of the content: SHA-256 of a local file, e-tag and size of an object.

        A store's e-tag of an object that came in several parts depends on the parts: put there again in other ones,
        the same bytes are another content.
        """
        if self.version is None:
            with self._readable():
                return sha256_of(Path(self.path))
        return hashlib.sha256(f"{self.version}:{self.size}".encode()).hexdigest()

    def check_unchanged(self) -> None:
        """Check that the file is still the one that was found.

        Raises:
            FileAccessError: it was changed or removed since.
        """
        with self._readable():
            if self.version is None:
                found = Path(self.path).stat()
                same = (found.st_size, found.st_mtime) == (self.size, self.modified)
            else:
                same = _version(obstore.head(from_url(self.root), self.name)) == self.version
        if not same:
            raise FileAccessError(f"{self.path} was changed while it was being read; run again when it is complete")

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file for reading; it can seek.

        Raises:
            FileAccessError: it cannot be opened or, on an object store, read.
        """
        with self._readable():
            if self.version is None:
                with Path(self.path).open("rb") as file:
                    yield file
            else:
                with io.BufferedReader(_ObjectFile(from_url(self.root), self.name), 1 << 16) as file:
                    yield cast("BinaryIO", file)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FileAccessError(f"cannot read {self.path}: {error}") from error
        except BaseError as error:
            raise FileAccessError(f"cannot read {self.path}: {first_line(error)}") from error


class _ObjectFile(io.RawIOBase):
    """Python's file protocol over obstore's reader, which fetches ranges and so survives a slow consumer."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._key = key
        with self._accessed():
            self._reader = obstore.open_reader(store, key, buffer_size=_READ_AHEAD)

    @contextmanager
    def _accessed(self) -> Iterator[None]:
        """Tell a store that fails from a file that is broken, which to readers of Parquet are both an OSError."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise FileAccessError(f"cannot read {self._key}: {first_line(error)}") from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with self._accessed():
            return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        with self._accessed():
            data = bytes(self._reader.read(len(view)))
        view[: len(data)] = data
        return len(data)


@dataclass(frozen=True)
class Found:
    """Files at a path.

    Attributes:
        locations: the files.
        by_name: whether the path names them (a file, a glob), or their folder.
        exists: whether there is such a file or folder; for a glob, the folder before its first wildcard.
        passed_over: names of the files of a folder that are left out whatever they hold, by why.
    """

    locations: tuple[Location, ...]
    by_name: bool
    exists: bool = True
    passed_over: Mapping[str, Sequence[str]] = field(default_factory=dict)


def find(path: str) -> Found:
    """Return the files at a local path, glob or folder, or at an object-store URL, sorted by name.

    Folders are searched to any depth, through links too; what starts with a dot or an underscore is left out (`.git`,
    `_SUCCESS`), and what has a name that is not UTF-8. In a URL a `*` matches `/` too. A prefix exists where an object
    lies below it, also one that is left out; a bucket always does.

    Raises:
        NoReviewsError: no file matches the glob, whose folder is there.
        SourceError: there is no such path, or it cannot be listed.
    """
    if not _is_utf8(path):
        raise SourceError(f"the name {_printable(path)} is not UTF-8; rename it")
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    found = _find_objects(path) if re.match(r"^[a-z][a-z0-9+]*://", path) else _find_local(path)
    if not found.exists:
        raise SourceError(f"there is no file at {path}; name a file, a glob, a folder or an object-store URL")
    if not found.locations and found.by_name and not found.passed_over:
        raise NoReviewsError(f"no file matches {path}")
    return found


def _find_local(path: str) -> Found:
    target = Path(path).absolute()
    try:
        if target.is_dir():
            _check_listable(target)
            unlisted: list[str] = []
            names, passed_over = _sorted_out(_walk(target, unlisted))
            if unlisted:
                passed_over["below a folder that cannot be listed"] = sorted(unlisted)
            locations = _local(str(target), names, passed_over)
            return Found(locations, by_name=False, passed_over=passed_over)
        if target.exists():
            return Found(_local(str(target.parent), [target.name], {}), by_name=True)
        if not _WILDCARD.search(path):
            return Found((), by_name=True, exists=False)
        root = Path(*takewhile(lambda part: not _WILDCARD.search(part), target.parts))
        if not root.is_dir():
            return Found((), by_name=True, exists=False)
        _check_listable(root)
        names = [
            os.path.relpath(match, root)
            for match in glob.iglob(str(target), recursive=True)  # noqa: PTH207  (the pattern may be absolute)
            if Path(match).is_file()
        ]
        readable = [name for name in names if _is_utf8(name)]
        others = [_printable(name) for name in names if not _is_utf8(name)]
        passed_over = {_NOT_UTF8: others} if others else {}
        return Found(_local(str(root), readable, passed_over), by_name=True, passed_over=passed_over)
    except OSError as error:
        raise SourceError(f"cannot list {path}: {error.strerror}; check the path and its permissions") from error


def _walk(root: Path, unlisted: list[str]) -> Iterator[str]:
    """Yield the paths of all files below a folder, through links, but into no folder twice: a link may lead to others.

    A folder that links lead to as well has its own name, or the first of theirs. What cannot be listed is noted.
    """

    def note(error: OSError) -> None:
        unlisted.append(_printable(os.path.relpath(error.filename, root)))

    seen = set()
    waiting = deque([str(root)])
    while waiting:
        for folder, folders, files in os.walk(waiting.popleft(), onerror=note):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not _is_hidden(name))
            paths = (os.path.join(folder, name) for name in folders)  # noqa: PTH118  (os.walk speaks strings)
            waiting.extend(path for path in paths if os.path.islink(path))  # noqa: PTH114
            yield from (os.path.relpath(os.path.join(folder, file), root) for file in files)  # noqa: PTH118


def _sorted_out(names: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the names of files that may be read, and the others by why; nothing is said of hidden folders."""
    good: list[str] = []
    passed_over: dict[str, list[str]] = {}
    for name in sorted(names):
        path = Path(name)
        if _is_hidden(str(path.parent)):
            continue
        if not _is_utf8(name):
            passed_over.setdefault(_NOT_UTF8, []).append(_printable(name))
        elif not _is_hidden(path.name):
            good.append(name)
        elif len(path.suffixes) and not path.suffix.endswith("crc"):  # no mark such as _SUCCESS
            passed_over.setdefault("beginning with . or _", []).append(name)
    return good, passed_over


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _printable(name: str) -> str:
    return os.fsencode(name).decode(errors="backslashreplace")


def _check_listable(folder: Path) -> None:
    """Raise OSError where a folder cannot be listed, which looks empty to what walks through it."""
    os.scandir(folder).close()


def _local(root: str, names: list[str], passed_over: dict[str, list[str]]) -> tuple[Location, ...]:
    """Return the files of these names; what is no file is noted among what is passed over."""
    found = []
    for name in sorted(names):
        try:
            state = Path(root, name).stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):  # gone since it was listed, or a link to nothing
                raise
            if Path(root, name).is_symlink():
                passed_over.setdefault("that are links to nothing", []).append(name)
        else:
            if stat.S_ISREG(state.st_mode):
                found.append(Location(root, Path(name).as_posix(), state.st_size, None, state.st_mtime))
            else:  # to open a pipe waits for who writes into it
                passed_over.setdefault("that are no files", []).append(name)
    return tuple(found)


def _find_objects(url: str) -> Found:
    try:
        if match := _WILDCARD.search(url):
            root = url[: match.start()].rpartition("/")[0]
            pattern = url[len(root) + 1 :]
            objects = [meta for meta in _list(root) if fnmatchcase(meta["path"], pattern)]
            return Found(_objects(root, objects), by_name=True, exists=bool(objects) or _is_prefix(root))
        root, _, name = url.rpartition("/")
        if name and not root.endswith(("/", ":")):
            try:
                head = obstore.head(from_url(root), name)
                return Found(_objects(root, [head]), by_name=True)
            except FileNotFoundError:
                pass  # not an object: the prefix of some
        root = url.rstrip("/")
        listed = {meta["path"]: meta for meta in _list(root)}
        names, passed_over = _sorted_out(listed)
        objects = [listed[name] for name in names]
        exists = bool(objects) or _is_prefix(root)
        return Found(_objects(root, objects), by_name=False, exists=exists, passed_over=passed_over)
    except (BaseError, OSError, ValueError) as error:
        raise SourceError(f"cannot list {url}: {first_line(error)}; check the URL and the credentials") from error


def _list(root: str) -> Iterator["ObjectMeta"]:
    for page in obstore.list(from_url(root)):
        yield from page


def _is_prefix(root: str) -> bool:
    is_bucket = not urlsplit(root).path.strip("/")
    return is_bucket or next(_list(root), None) is not None


def _version(meta: "ObjectMeta") -> str:
    return meta["e_tag"] or meta["last_modified"].isoformat()


def _objects(root: str, objects: list["ObjectMeta"]) -> tuple[Location, ...]:
    return tuple(
        Location(root, meta["path"], meta["size"], _version(meta), meta["last_modified"].timestamp())
        for meta in sorted(objects, key=lambda meta: meta["path"])
    )


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in Path(name).parts)
