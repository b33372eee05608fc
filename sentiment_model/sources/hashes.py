"""Hashes of the content of local files, remembered: a file that is as it was is not read again.

They are kept in an SQLite file, which several processes may use at once. It is a cache, and may be deleted at any time:
where it cannot be read or written, the files are read.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from sentiment_model.sources.locations import Location

CONTENT_HASHES = "content-hashes.sqlite"
_MOST = 1_000_000
"""So many files are remembered, those that were read last; about 200 bytes each."""
_BATCH = 1_000
_BUSY_SECONDS = 10.0
_TICK_NS = 2_000_000_000
"""The coarsest clock of a file system, FAT's. What changes again within a tick keeps its time of change."""
_SCHEMA = "CREATE TABLE IF NOT EXISTS hashes (path BLOB PRIMARY KEY, state TEXT NOT NULL, sha256 TEXT NOT NULL)"


class KnownHashes:
    """Content hashes as :meth:`Location.fingerprint` returns them, of local files from memory where that holds.

    To be entered before use, and used by one thread.

    Attributes:
        fault: why nothing is remembered, or None.
    """

    def __init__(self, path: Path) -> None:
        """Name the file that they are kept in; it is made where it is missing."""
        self.fault: str | None = None
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._is_opened = False
        self._new: list[tuple[bytes, str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._save()
        if self._connection:
            self._connection.close()

    def fingerprint(self, location: Location) -> str:
        """Return the hash of a file's content.

        Raises:
            SourceError: the file cannot be read.
        """
        now = time.time_ns()
        state = location.state()
        if state is None:
            return location.fingerprint()
        if not self._is_opened:  # with the first local file: objects need none
            self._open()
        row = os.fsencode(location.path), " ".join(map(str, state))
        if known := self._find(*row):
            return known
        found = location.fingerprint()
        # Nothing is remembered that may change without a trace: within the tick of its last change. What changes while
        # it is read has another state from then on.
        if state.modified_ns < now - _TICK_NS:
            self._new.append((*row, found))
            if len(self._new) >= _BATCH:
                self._save()
        return found

    def _open(self) -> None:
        self._is_opened = True
        with self._or_without():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS)
            with self._connection:
                self._connection.execute(_SCHEMA)

    def _find(self, path: bytes, state: str) -> str | None:
        with self._or_without():
            if self._connection:
                query = "SELECT sha256 FROM hashes WHERE path = ? AND state = ?"
                found = self._connection.execute(query, (path, state)).fetchone()
                return str(found[0]) if found else None
        return None

    def _save(self) -> None:
        with self._or_without():
            if self._connection and self._new:
                with self._connection:
                    self._connection.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", self._new)
                    oldest = "DELETE FROM hashes WHERE rowid <= (SELECT max(rowid) FROM hashes) - ?"
                    self._connection.execute(oldest, (_MOST,))
        self._new.clear()

    @contextmanager
    def _or_without(self) -> Iterator[None]:
        """Go on without the file where it cannot be used; remove one that is damaged, so that the next run has one."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self.fault = f"{self._path}: {error}"
            if self._connection:
                self._connection.close()
                self._connection = None
            if type(error) is sqlite3.DatabaseError:  # other errors have classes of their own
                with suppress(OSError):
                    self._path.with_name(f"{self._path.name}-journal").unlink(missing_ok=True)
                    self._path.unlink(missing_ok=True)
