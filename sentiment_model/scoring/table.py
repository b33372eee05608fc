"""The table of scores: every shard's rows appear in it whole and once, whoever dies or comes twice.

Layout of a table (a local folder or an object-store prefix)::

    scores/version=3/date=2026-11-24/<key>-<shard>-000.parquet       published rows
    quarantine/version=3/date=2026-11-24/<key>-<shard>-001.parquet   rows without a usable text
    _staged/<key>/<shard>-<token>/...            being written, or about to be published
    _log/<key>/plans/000000.json, ...            which shards there are
    _log/<key>/claims/<shard>/000001.json, ...   who works on a shard
    _log/<key>/receipts/<shard>.json             what became of a shard
    _log/<key>/manifests/000000.json, ...        which files were published, each in one manifest
    _log/<key>/checkpoints/000064-000060.parquet what so many plans, receipts and manifests say, see `ledger`

The key names model, options and how files are read. The protocol needs nothing of the store but creating an object
that must not exist yet, which local file systems (a hard link) and object stores (put if absent) both have:

- *Plan.* New files are cut into shards and appended to the log of plans as the next number. Of two schedulers that
  do so at once, one creates that number; the other reads it, and plans what is left. So a file is planned once.
- *Claim.* A worker claims the shard that it works on, see :mod:`sentiment_model.scoring.claims`. Claims save double
  work; nothing below depends on them.
- *Commit.* The shard's files are written under a name of the claim's own, then its receipt is created, which names
  them and their checksums: this is the moment at which the shard is done, and only one worker can reach it.
- *Publish.* The files are renamed to where readers look for them. If the worker dies before that, whoever reads the
  receipt next does it: the receipt says from where to where.
- *Cancel.* A shard that will not be done gets a receipt that says so, and its pieces are planned anew.
"""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from sentiment_model.errors import StoreError
from sentiment_model.scoring.claims import Claim, Claims
from sentiment_model.scoring.shards import Shard
from sentiment_model.store.datasets import sha256_of
from sentiment_model.store.objects import Objects, new_writer

_POLL_SECONDS = 0.5
_LISTINGS = 64  # at once


class Plan(BaseModel):
    """The shards that new files, or the pieces of cancelled shards, are cut into.

    Attributes:
        format: version of this description.
        shards: the shards.
        created_at: when.
        writer: names the plan's maker, and nobody else.
    """

    format: Literal[1] = 1
    shards: list[Shard]
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    writer: str = Field(default_factory=new_writer)


class PublishedFile(BaseModel):
    """A file of a shard, by its path below the table."""

    path: str
    staged: str
    role: str
    rows: int
    bytes: int
    sha256: str


class Receipt(BaseModel):
    """What became of a shard.

    Attributes:
        format: version of this description.
        shard: id of the shard.
        outcome: `scored`; `unusable` where its file is broken, so that nobody needs to try again; or `cancelled`
            where its pieces are planned anew.
        reason: why it is unusable.
        files: what was written.
        counts: what was counted.
        created_at: when.
        writer: names the receipt's maker, and nobody else.
    """

    format: Literal[1] = 1
    shard: str
    outcome: Literal["scored", "unusable", "cancelled"] = "scored"
    reason: str | None = None
    files: list[PublishedFile] = []
    counts: dict[str, Any] = {}
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    writer: str = Field(default_factory=new_writer)


class Manifest(BaseModel):
    """Files that were published since the manifest before, whose rows are whole.

    Attributes:
        format: version of this description.
        key: names model, options and how files are read.
        run: the run that wrote it.
        shards: ids of the shards whose files these are.
        files: the files.
        created_at: when.
        writer: names the manifest's maker, and nobody else.
    """

    format: Literal[1] = 1
    key: str
    run: str
    shards: list[str]
    files: list[PublishedFile]
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    writer: str = Field(default_factory=new_writer)


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
        self.log = f"_log/{key}"
        self._staged = f"_staged/{key}"

    @property
    def url(self) -> str:
        """The table's folder or prefix."""
        return self.objects.url

    def plan(self, number: int) -> Plan | None:
        """Return the plan with this number, or None where there is none yet."""
        return self.objects.load(Plan, self._plan_path(number))

    def append(self, plan: Plan, number: int) -> bool:
        """Append a plan as the one with this number; return False where there is such a plan already."""
        return self.objects.create(self._plan_path(number), plan.model_dump_json(indent=1).encode())

    def _plan_path(self, number: int) -> str:
        return f"{self.log}/plans/{number:06d}.json"

    def manifest(self, number: int) -> Manifest | None:
        """Return the manifest with this number, or None where there is none yet."""
        return self.objects.load(Manifest, self._manifest_path(number))

    def append_manifest(self, manifest: Manifest, number: int) -> bool:
        """Append a manifest as the one with this number; return False where there is such a manifest already."""
        return self.objects.create(self._manifest_path(number), manifest.model_dump_json(indent=1).encode())

    def _manifest_path(self, number: int) -> str:
        return f"{self.log}/manifests/{number:06d}.json"

    def receipt(self, shard: str) -> Receipt | None:
        """Return a shard's receipt, or None where it is not done."""
        return self.objects.load(Receipt, self._receipt_path(shard))

    def done(self) -> set[str]:
        """Return the ids of the shards that have a receipt."""
        return {Path(path).stem for path, *_ in self.objects.list(f"{self.log}/receipts") if path.endswith(".json")}

    def _decide(self, receipt: Receipt) -> Receipt:
        """Create a shard's receipt, unless it has one; return the one that it has then."""
        path = self._receipt_path(receipt.shard)
        while not self.objects.create(path, receipt.model_dump_json().encode()):
            if other := self.receipt(receipt.shard):
                return other
        return receipt

    def _receipt_path(self, shard: str) -> str:
        return f"{self.log}/receipts/{shard}.json"

    def cancel(self, shard: str, *, in_work: bool = False) -> Receipt | None:
        """Decide that a shard will never be done, unless it is done or in work; return its receipt, if it has one.

        With `in_work`, whoever works on it loses that work: for who knows that its worker is lost.
        """
        last = self._claims(shard).last()
        if not in_work and last is not None and not last.is_void():
            return self.receipt(shard)
        # The receipt decides: a worker that claims the shard now cannot commit it, or has committed it already.
        return self._decide(Receipt(shard=shard, outcome="cancelled"))

    def reject(self, shard: str, reason: str) -> Receipt:
        """Decide that a shard cannot be done, now or later; return its receipt."""
        return self._decide(Receipt(shard=shard, outcome="unusable", reason=reason))

    @contextmanager
    def claim(self, shard: str) -> Iterator[Claim | Receipt]:
        """Hold a shard while the block lasts, or learn that it is done.

        Waits while another worker holds the shard. The claim is given up where the block ends.
        """
        claims = self._claims(shard)
        while not (held := self.receipt(shard) or claims.take()):
            time.sleep(_POLL_SECONDS)
        if isinstance(held, Receipt):
            yield held
            return
        with claims.kept(held):
            yield held

    def _claims(self, shard: str) -> Claims:
        return Claims(self.objects, f"{self.log}/claims/{shard}")

    @contextmanager
    def staging(self, shard: str, claim: Claim) -> Iterator[Staging]:
        """Yield where to write the files of a claimed shard; what is not committed is removed."""
        if not self.objects.is_local:
            with TemporaryDirectory(prefix="sentiment-") as temporary:
                yield Staging(Path(temporary))
            return
        folder = Path(self.url, self._staging_folder(shard, claim))
        folder.mkdir(parents=True, exist_ok=True)
        staging = Staging(folder)
        try:
            yield staging
        finally:
            if not staging.committed:
                rmtree(folder, ignore_errors=True)

    def _staging_folder(self, shard: str, claim: Claim) -> str:
        return f"{self._staged}/{shard}-{claim.token:06d}"

    def commit(self, shard: str, claim: Claim, staging: Staging, counts: dict[str, Any], folder: str) -> Receipt:
        """Make a shard's files part of the table, unless another worker has done so.

        Args:
            shard: id of the shard.
            claim: the claim under which they were written.
            staging: the files.
            counts: what the receipt shall say of them.
            folder: where readers find them, below the folder of their role.

        Returns:
            the shard's receipt, which may be that of another worker.
        """
        files = self._upload(shard, claim, staging, folder)
        receipt = Receipt(shard=shard, files=files, counts=counts)
        staging.committed = True  # the files may be needed even if the store cannot say whether it has the receipt
        decided = self._decide(receipt)
        if decided.writer == receipt.writer:
            self._publish(receipt)
        else:
            staging.committed = False
            self.objects.delete(file.staged for file in files)
        return decided

    def _upload(self, shard: str, claim: Claim, staging: Staging, folder: str) -> list[PublishedFile]:
        files = []
        for number, (path, role) in enumerate(staging.files.items()):
            staged = f"{self._staging_folder(shard, claim)}/{path.name}"
            self.objects.upload(staged, path)
            files.append(
                PublishedFile(
                    path=f"{role}/{folder}/{self.key}-{shard}-{number:03d}.parquet",
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
                    f"{self.url}/{file.path} is missing or damaged; label its reviews again under "
                    "another name with rescore"
                )
        self._discard(f"{self._staged}/{receipt.shard}-")

    def recover(self) -> None:
        """Finish what workers that died left: publish the files of shards that are done, remove other files of theirs.

        Raises:
            StoreError: a file of a shard is neither published nor staged, while others of it are.
        """
        staged = [path for path, *_ in self.objects.list(self._staged)]
        for shard in {path.split("/")[2].rpartition("-")[0] for path in staged}:
            receipt = self.receipt(shard)
            if receipt and any(file.staged in staged for file in receipt.files):
                self._publish(receipt)
            elif receipt:
                self._discard(f"{self._staged}/{shard}-")

    def _discard(self, prefix: str) -> None:
        if self.objects.is_local:
            for folder in Path(self.url).glob(f"{prefix}*"):
                rmtree(folder, ignore_errors=True)
        else:
            staged = [path for path, *_ in self.objects.list(self._staged)]
            self.objects.delete(path for path in staged if path.startswith(prefix))

    def published(self, receipts: Iterable[Receipt]) -> set[str]:
        """Return what readers find in the folders in which the scores that receipts name should be, as paths."""
        paths = (file.path for receipt in receipts for file in receipt.files if file.role == "scores")
        folders = {path.rpartition("/")[0] for path in paths}
        with ThreadPoolExecutor(_LISTINGS) as threads:
            listed = threads.map(lambda folder: [path for path, *_ in self.objects.list(folder)], folders)
            return {path for paths in listed for path in paths}

    def paths(self, receipts: Iterable[Receipt], role: str = "scores") -> list[str]:
        """Return the paths or URLs of the files with a role."""
        return [f"{self.url}/{file.path}" for receipt in receipts for file in receipt.files if file.role == role]
