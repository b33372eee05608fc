"""What the log of a table of scores says: which files are planned, which shards are left, and what the others counted.

The log grows by an object for each plan, receipt and manifest. Every :data:`PLANS_PER_CHECKPOINT` plans, what all of
them say so far is written to one Parquet file, a checkpoint, so that a run reads that and the few objects after it.
A checkpoint holds a row for each shard; nothing in it may change, but that a shard which was open when it was written
may be done since.
"""

import io
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import TypeVar

import polars as pl
import pyarrow.parquet as pq

from sentiment_model.scoring.shards import Shard, halves
from sentiment_model.scoring.table import Manifest, Receipt, ScoreTable

PLANS_PER_CHECKPOINT = 32
_SCHEMA = pl.Schema(
    {
        "shard": pl.String(),  # id
        "files": pl.List(pl.String()),  # keys of the files whose rows it holds
        "content": pl.String(),  # the shard as JSON; null of one of which nothing but its receipt is wanted any more
        "receipt": pl.String(),  # as JSON; null of one that is open
        "in_manifest": pl.Boolean(),  # also of one that is done and has no files for one
    }
)
_READERS = 64  # an object store answers many requests in the time in which it answers one
_PAGE = 1000  # objects that it lists in one answer
_BATCH = 5_000

Record = TypeVar("Record")


class Ledger:
    """The log of a table as it was when :meth:`update` was called last."""

    def __init__(self, table: ScoreTable) -> None:
        """Read a table's log.

        Raises:
            StoreError: it is damaged, or was written by another version of this program.
        """
        self.table = table
        self._plans = self._manifests = self._plans_in_checkpoint = 0
        self._checkpoint = _write(_SCHEMA.to_frame())
        self._read_checkpoint()
        files = self._columns("files")["files"]
        self._in_checkpoint = len(files)
        self._planned = files.explode().drop_nulls().unique()
        self._planned_since: set[str] = set()
        self._in_manifest_since: set[str] = set()
        # What is still to be looked at one by one: shards that are open or unusable, or came after the checkpoint.
        self._shards: dict[str, Shard] = {}
        self._receipts: dict[str, Receipt] = {}
        rows = self._columns("content", "receipt").filter(pl.col("content").is_not_null())
        for content, receipt in rows.iter_rows():
            shard = Shard.model_validate_json(content)
            self._shards[shard.id] = shard
            if receipt:
                self._receipts[shard.id] = Receipt.model_validate_json(receipt)
        self.update()

    def _read_checkpoint(self) -> None:
        while paths := self._checkpoints():
            content = self.table.objects.read(paths[-1])
            if content is not None:  # or a newer one has replaced it meanwhile
                plans, _, manifests = Path(paths[-1]).stem.partition("-")
                self._plans = self._plans_in_checkpoint = int(plans)
                self._manifests = int(manifests)
                self._checkpoint = content
                return

    def _checkpoints(self) -> list[str]:
        listed = self.table.objects.list(f"{self.table.log}/checkpoints")
        return sorted(path for path, *_ in listed if path.endswith(".parquet"))

    def _columns(self, *names: str) -> pl.DataFrame:
        return pl.read_parquet(io.BytesIO(self._checkpoint), columns=list(names))

    @property
    def plans(self) -> int:
        """How many plans there are: the number of the next."""
        return self._plans

    def update(self, receipts: Iterable[Receipt] = ()) -> None:
        """Read what came to the log since; `receipts` are known to the caller and need not be read.

        Raises:
            StoreError: it is damaged, or was written by another version of this program.
        """
        # Manifests first: what they name is in the plans that there are by then.
        for manifest in _from(self._manifests, self.table.manifest):
            self._manifests += 1
            self._in_manifest_since |= set(manifest.shards)
        for plan in _from(self._plans, self.table.plan):
            self._plans += 1
            self._shards |= {shard.id: shard for shard in plan.shards}
            self._planned_since |= {piece.file for shard in plan.shards for piece in shard.pieces}
        self._receipts |= {receipt.shard: receipt for receipt in receipts}
        unknown = [shard for shard in self._shards if shard not in self._receipts]
        # One asks for each, or first lists which there are: what makes fewer answers to wait for, one after another.
        if ceil(len(unknown) / _READERS) > ceil((self._in_checkpoint + len(self._shards)) / _PAGE):
            done = self.table.done()
            unknown = [shard for shard in unknown if shard in done]
        with ThreadPoolExecutor(_READERS) as threads:
            found = threads.map(self.table.receipt, unknown)
            self._receipts |= {receipt.shard: receipt for receipt in found if receipt}

    def unplanned(self, files: Collection[str]) -> list[str]:
        """Return which of some files, given by key, are in no plan."""
        keys = pl.Series(list(files), dtype=pl.String())
        return [key for key in keys.filter(~keys.is_in(self._planned.implode())) if key not in self._planned_since]

    def to_plan_anew(self) -> list[Shard]:
        """Return the halves of the shards that were cancelled, as far as nobody has planned them yet."""
        cancelled = (self._shards[shard] for shard, _ in self._with("cancelled"))
        return [half for shard in cancelled for half in halves(shard) if half.id not in self._shards]

    def pending(self, files: Collection[str]) -> list[Shard]:
        """Return the shards with rows of some files, given by key, that nobody has done."""
        return [shard for shard in self._shards.values() if shard.id not in self._receipts and shard.has_any(files)]

    def unusable(self, files: Collection[str]) -> dict[str, str]:
        """Return why files, given by key, were found to be unusable, by the name of the shard."""
        found = ((self._shards[shard], receipt) for shard, receipt in self._with("unusable"))
        return {shard.name: receipt.reason or "" for shard, receipt in found if shard.has_any(files)}

    def _with(self, outcome: str) -> Iterator[tuple[str, Receipt]]:
        return ((shard, receipt) for shard, receipt in self._receipts.items() if receipt.outcome == outcome)

    def scored(self, files: Collection[str]) -> Iterator[Receipt]:
        """Yield the receipts of the shards that were scored and have rows of some files, given by key."""
        known = set(files)
        wanted = pl.Series(list(known), dtype=pl.String())
        has_any = pl.col("files").list.eval(pl.element().is_in(wanted.implode())).list.any()
        yield from self._folded(self._columns("files").select(has_any).to_series())
        yield from (receipt for shard, receipt in self._with("scored") if self._shards[shard].has_any(known))

    def _folded(self, rows: pl.Series) -> Iterator[Receipt]:
        """Yield the receipts of some rows of the checkpoint, given by a mask, in bounded memory."""
        stored = pq.ParquetFile(io.BytesIO(self._checkpoint))
        first = 0
        for group in range(stored.num_row_groups):
            chosen = rows.slice(first, stored.metadata.row_group(group).num_rows)
            first += len(chosen)
            if chosen.any():  # or its receipts, which are most of the checkpoint, need not be unpacked
                frame = pl.DataFrame(pl.from_arrow(stored.read_row_group(group, columns=["content", "receipt"])))
                settled = frame.filter(chosen & frame["content"].is_null())["receipt"]
                receipts = (Receipt.model_validate_json(receipt) for receipt in settled)
                yield from (receipt for receipt in receipts if receipt.outcome == "scored")

    def write_manifest(self, run: str) -> None:
        """Name the files that were published and are in no manifest yet, of whatever run, in a new one.

        Args:
            run: the run that writes it.
        """
        unnamed = ~self._columns("in_manifest").to_series()
        known = (*self._folded(unnamed), *(receipt for _, receipt in self._with("scored")))
        files = {receipt.shard: receipt.files for receipt in known if receipt.files}
        while new := {shard: named for shard, named in files.items() if shard not in self._in_manifest_since}:
            manifest = Manifest(
                key=self.table.key, run=run, shards=list(new), files=[f for named in new.values() for f in named]
            )
            self.table.append_manifest(manifest, self._manifests)
            self.update()

    def write_checkpoint(self) -> None:
        """Write a checkpoint where the log has grown enough, and delete all but the one before."""
        if self._plans - self._plans_in_checkpoint < PLANS_PER_CHECKPOINT:
            return
        settled = pl.read_parquet(io.BytesIO(self._checkpoint)).filter(pl.col("content").is_null())
        settled = settled.with_columns(pl.col("in_manifest") | pl.col("shard").is_in(list(self._in_manifest_since)))
        rows = [self._row(shard) for shard in self._shards.values()]
        content = _write(pl.concat([settled, pl.DataFrame(rows, _SCHEMA, orient="row")]))
        folder = f"{self.table.log}/checkpoints"
        self.table.objects.replace(f"{folder}/{self._plans:06d}-{self._manifests:06d}.parquet", content)
        self.table.objects.delete(self._checkpoints()[:-2])

    def _row(self, shard: Shard) -> tuple[str, list[str], str | None, str | None, bool]:
        receipt = self._receipts.get(shard.id)
        is_settled = receipt is not None and (
            receipt.outcome == "scored"
            or (receipt.outcome == "cancelled" and all(half.id in self._shards for half in halves(shard)))
        )
        return (
            shard.id,
            [piece.file for piece in shard.pieces],
            None if is_settled else shard.model_dump_json(),
            receipt.model_dump_json() if receipt else None,
            shard.id in self._in_manifest_since or bool(receipt and not receipt.files),
        )


def _from(number: int, read: Callable[[int], Record | None]) -> Iterator[Record]:
    """Yield the records of a log from a number on, up to the first that is not there.

    Twice as many are asked for each time: where none is new, one is asked for, and where many are, many at once.
    """
    ahead = 1
    with ThreadPoolExecutor(_READERS) as threads:
        while True:
            for record in threads.map(read, range(number, number + ahead)):
                if record is None:
                    return
                yield record
            number, ahead = number + ahead, min(2 * ahead, _READERS)


def _write(frame: pl.DataFrame) -> bytes:
    content = io.BytesIO()
    frame.write_parquet(content, row_group_size=_BATCH)
    return content.getvalue()
