"""The table of scores: every shard's rows appear in it whole and once, whoever dies or comes twice.

Layout of a table (a local folder or an object-store prefix)::

    scores/version=3/date=2026-11-24/<shard>.parquet       published rows
    quarantine/version=3/date=2026-11-24/<shard>.parquet   rows without a usable text
    _staged/<shard>-<token>/...                            being written, or about to be published
    _log/<key>/plans/000000.json, ...                      which shards there are
    _log/<key>/claims/<shard>/000001.json, ...             who works on a shard
    _log/<key>/receipts/<shard>.json                       which shards are done
    _log/<key>/cancelled/<shard>.json                      which shards may be cancelled; their receipts tell
    _log/<key>/runs/<run>.json                             the files of a run, written when all of them are there

The key names model, options and how files are read. The protocol needs nothing of the store but creating an object
that must not exist yet, which local file systems (a hard link) and object stores (put if absent) both have:

- *Plan.* New files are cut into shards and appended to the log of plans as the next number. Of two schedulers that
  do so at once, one creates that number; the other reads it, and plans what is left. So a file is planned once.
- *Claim.* A worker takes a shard by creating its next claim, whose number is the fencing token. It may do so where
  there is none before, or the one before has expired, was given up, or belongs to a process of this machine that is
  gone. It renews its lease while it lives. Claims save double work; nothing below depends on clocks.
- *Commit.* The shard's files are written under a name of the claim's own, then its receipt is created, which names
  them and their checksums: this is the moment at which the shard is done, and only one claim can reach it.
- *Publish.* The files are renamed to where readers look for them. If the worker dies before that, whoever reads the
  receipt next does it: the receipt says from where to where.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from sentiment_model.errors import StoreError
from sentiment_model.objects import Objects
from sentiment_model.shards import Shard
from sentiment_model.store import sha256_of

LEASE_SECONDS = 60.0
_POLL_SECONDS = 0.5


class Plan(BaseModel):
    """New files and the shards that they are cut into.

    Attributes:
        files: names of the files by key.
        shards: the shards.
        created_at: when.
    """

    files: dict[str, str]
    shards: list[Shard]
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class PublishedFile(BaseModel):
    """A file of a shard, by its path below the table."""

    path: str
    staged: str
    role: str
    rows: int
    bytes: int
    sha256: str


class Receipt(BaseModel):
    """That a shard is done, and with what.

    Attributes:
        shard: id of the shard.
        token: number of the claim that did it; 0 for a shard that was cancelled and planned anew.
        files: what it wrote.
        counts: what it counted.
        created_at: when.
    """

    shard: str
    token: int
    files: list[PublishedFile]
    counts: dict[str, Any]
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Claim(BaseModel):
    """That a worker works on a shard.

    Attributes:
        shard: id of the shard.
        token: 1 for the first claim on the shard, 2 for the next: the fencing token.
        host: name of the worker's machine.
        process: its process id and when that process started, in seconds since 1970.
        expires_at: when the lease ends unless it is renewed, in seconds since 1970.
    """

    shard: str
    token: int
    host: str = Field(default_factory=platform.node)
    process: tuple[int, float] = Field(default_factory=lambda: (os.getpid(), psutil.Process().create_time()))
    expires_at: float

    def is_void(self) -> bool:
        """Tell whether another worker may take the shard."""
        if self.expires_at < time.time():
            return True
        if self.host != platform.node():
            return False
        pid, started = self.process
        try:
            process = psutil.Process(pid)
            return process.create_time() != started or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


class Staging:
    """Local paths for the files of a shard that is being scored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: dict[Path, str] = {}
        self.committed = False

    def file(self, name: str, role: str = "scores") -> Path:
        """Return the path at which to write the file `name`."""
        path = self._folder / name
        self.files[path] = role
        return path


class ScoreTable:
    """The scores of one model with one set of options, in a table that it may share with others."""

    def __init__(self, url: str, key: str) -> None:
        """Open a table.

        Args:
            url: its folder or prefix.
            key: names model, options and how files are read.

        Raises:
            StoreError: the folder or prefix cannot be opened.
        """
        self.objects = Objects(url)
        self.key = key
        self._log = f"_log/{key}"

    @property
    def url(self) -> str:
        """The table's folder or prefix."""
        return self.objects.url

    def plans(self) -> list[Plan]:
        """Return all plans, the oldest first."""
        plans: list[Plan] = []
        while (content := self.objects.read(self._plan_path(len(plans)))) is not None:
            plans.append(Plan.model_validate_json(content))
        return plans

    def append(self, plan: Plan, number: int) -> bool:
        """Append a plan as the one with this number; return False where there is such a plan already."""
        return self.objects.create(self._plan_path(number), plan.model_dump_json(indent=1).encode())

    def _plan_path(self, number: int) -> str:
        return f"{self._log}/plans/{number:06d}.json"

    def cancel(self, shard: str) -> bool:
        """Decide that a shard will never be done, unless it is done or in work; return whether it is cancelled."""
        last = self._last_claim(shard)
        if last is not None and not last.is_void():
            return False
        marker = f"{self._log}/cancelled/{shard}.json"
        self.objects.create(marker, b"{}")
        # The receipt decides: a worker that claims the shard now cannot commit it, or has committed it already.
        nothing = Receipt(shard=shard, token=0, files=[], counts={})
        self.objects.create(self._receipt_path(shard), nothing.model_dump_json().encode())
        return self._is_cancelled(shard)

    def _is_cancelled(self, shard: str) -> bool:
        receipt = self.receipt(shard)
        return receipt is not None and receipt.token == 0

    def cancelled(self) -> set[str]:
        """Return the ids of the shards that will never be done."""
        marked = {Path(path).stem for path, *_ in self.objects.list(f"{self._log}/cancelled") if path.endswith(".json")}
        return {shard for shard in marked if self._is_cancelled(shard)}

    def receipt(self, shard: str) -> Receipt | None:
        """Return a shard's receipt, or None where it is not done."""
        content = self.objects.read(self._receipt_path(shard))
        return None if content is None else Receipt.model_validate_json(content)

    def _receipt_path(self, shard: str) -> str:
        return f"{self._log}/receipts/{shard}.json"

    def done(self) -> set[str]:
        """Return the ids of the shards that are done."""
        return {Path(path).stem for path, *_ in self.objects.list(f"{self._log}/receipts") if path.endswith(".json")}

    @contextmanager
    def claim(self, shard: str) -> Iterator[Claim | Receipt]:
        """Hold a shard while the block lasts, or learn that it is done.

        Waits while another worker holds the shard. The claim is given up where the block ends.
        """
        held = self._take(shard)
        if isinstance(held, Receipt):
            yield held
            return
        stop = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(held, stop), daemon=True)
        renewal.start()
        try:
            yield held
        finally:
            stop.set()
            renewal.join()
            self._write(held.model_copy(update={"expires_at": 0.0}))

    def _take(self, shard: str) -> Claim | Receipt:
        while True:
            if receipt := self.receipt(shard):
                return receipt
            last = self._last_claim(shard)
            if last is None or last.is_void():
                token = last.token + 1 if last else 1
                claim = Claim(shard=shard, token=token, expires_at=time.time() + LEASE_SECONDS)
                if self.objects.create(self._claim_path(shard, token), claim.model_dump_json().encode()):
                    return claim
            else:
                time.sleep(_POLL_SECONDS)

    def _last_claim(self, shard: str) -> Claim | None:
        paths = [path for path, *_ in self.objects.list(f"{self._log}/claims/{shard}") if path.endswith(".json")]
        content = self.objects.read(max(paths)) if paths else None
        return None if content is None else Claim.model_validate_json(content)

    def _claim_path(self, shard: str, token: int) -> str:
        return f"{self._log}/claims/{shard}/{token:06d}.json"

    def _renew(self, claim: Claim, stop: threading.Event) -> None:
        while not stop.wait(LEASE_SECONDS / 4):
            self._write(claim.model_copy(update={"expires_at": time.time() + LEASE_SECONDS}))

    def _write(self, claim: Claim) -> None:
        self.objects.replace(self._claim_path(claim.shard, claim.token), claim.model_dump_json().encode())

    @contextmanager
    def staging(self, claim: Claim) -> Iterator[Staging]:
        """Yield where to write the files of a claimed shard; what is not committed is removed."""
        if not self.objects.is_local:
            with TemporaryDirectory(prefix="sentiment-") as temporary:
                yield Staging(Path(temporary))
            return
        folder = Path(self.url, _staged(claim.shard, claim.token))
        folder.mkdir(parents=True, exist_ok=True)
        staging = Staging(folder)
        try:
            yield staging
        finally:
            if not staging.committed:
                rmtree(folder, ignore_errors=True)

    def commit(self, claim: Claim, staging: Staging, counts: dict[str, Any], folder: str) -> Receipt:
        """Make a shard's files part of the table, unless another claim has done so.

        Args:
            claim: the claim under which they were written.
            staging: the files.
            counts: what the receipt shall say of them.
            folder: where readers find them, below the folder of their role.

        Returns:
            the shard's receipt, which may be that of another claim.
        """
        try:
            files = self._upload(claim, staging, folder)
        except FileNotFoundError:  # removed by the worker that overtook this one, when it published
            files = None
        last = self._last_claim(claim.shard)
        if files is not None and last is not None and last.token == claim.token:
            receipt = Receipt(shard=claim.shard, token=claim.token, files=files, counts=counts)
            staging.committed = True  # whatever happens from here on, the files may be needed
            if self.objects.create(self._receipt_path(claim.shard), receipt.model_dump_json().encode()):
                self._publish(receipt)
                return receipt
            staging.committed = False
        self.objects.delete(file.staged for file in files or ())
        with self.claim(claim.shard) as other:
            if isinstance(other, Receipt):
                return other
        raise StoreError(f"shard {claim.shard} was taken over by a worker that failed; run again")

    def _upload(self, claim: Claim, staging: Staging, folder: str) -> list[PublishedFile]:
        files = []
        for number, (path, role) in enumerate(staging.files.items()):
            staged = f"{_staged(claim.shard, claim.token)}/{path.name}"
            self.objects.upload(staged, path)
            files.append(
                PublishedFile(
                    path=f"{role}/{folder}/{claim.shard}-{number:03d}.parquet",
                    staged=staged,
                    role=role,
                    rows=pq.read_metadata(path).num_rows,
                    bytes=path.stat().st_size,
                    sha256=sha256_of(path),
                )
            )
        return files

    def _publish(self, receipt: Receipt) -> None:
        for file in receipt.files:
            if not self.objects.move(file.staged, file.path) and self.objects.size(file.path) != file.bytes:
                raise StoreError(
                    f"{self.url}/{file.path} is missing or damaged; delete {self.url}/"
                    f"{self._receipt_path(receipt.shard)} and run again"
                )
        self._discard(f"_staged/{receipt.shard}-")

    def recover(self) -> None:
        """Finish what workers that died left: publish the files of shards that are done, remove other files of theirs.

        Raises:
            StoreError: a file is neither published nor staged.
        """
        staged = {path.split("/")[1] for path, *_ in self.objects.list("_staged")}
        for shard in {name.rpartition("-")[0] for name in staged}:
            if receipt := self.receipt(shard):
                self._publish(receipt)

    def _discard(self, prefix: str) -> None:
        if self.objects.is_local:
            for folder in Path(self.url).glob(f"{prefix}*"):
                rmtree(folder, ignore_errors=True)
        else:
            staged = [path for path, *_ in self.objects.list(prefix.partition("/")[0])]
            self.objects.delete(path for path in staged if path.startswith(prefix))

    def finish(self, run: str, receipts: Iterable[Receipt]) -> bool:
        """Write the manifest of a run, which names the files of all its shards; return False where it exists."""
        files = [file.model_dump(exclude={"staged"}) for receipt in receipts for file in receipt.files]
        content = json.dumps({"key": self.key, "files": files, "created_at": datetime.now(UTC).isoformat()}, indent=1)
        return self.objects.create(f"{self._log}/runs/{run}.json", content.encode())

    def paths(self, receipts: Iterable[Receipt], role: str = "scores") -> list[str]:
        """Return the paths or URLs of the files with a role."""
        return [f"{self.url}/{file.path}" for receipt in receipts for file in receipt.files if file.role == role]


def _staged(shard: str, token: int) -> str:
    return f"_staged/{shard}-{token:06d}"
