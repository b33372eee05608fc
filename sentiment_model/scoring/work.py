"""What a scoring run has to do, from the plan to the last shard."""

from collections.abc import Callable, Iterable, Mapping

from sentiment_model.errors import ConfigurationError, ModelError, SentimentError, StoreError
from sentiment_model.scoring.engines import WorkerLostError
from sentiment_model.scoring.ledger import Ledger
from sentiment_model.scoring.planning import Inbox, Planned
from sentiment_model.scoring.shards import Shard
from sentiment_model.scoring.table import Receipt, ScoreTable


class Work:
    """The shards of a run, and what became of them.

    Attributes:
        inbox: the files that the run names.
        table: where the scores go.
        ledger: what has been planned and done.
        splits: the splits that pending shards need, by the file's key.
        unreadable: why files cannot be read, by name.
        known_unusable: why files are left out that earlier runs found to be broken, by name of the shard.
        new: keys of the files with rows that nobody had scored when the run began.
        receipts: of the shards that this run has done, by id.
        failures: why shards failed.
    """

    def __init__(self, inbox: Inbox, table: ScoreTable, planner: Callable[[Ledger], Planned]) -> None:
        """Plan the files.

        Args:
            inbox: the files that the run names.
            table: where the scores go.
            planner: plans what is not planned yet, see :func:`sentiment_model.scoring.planning.plan`.

        Raises:
            StoreError: the table cannot be read or written.
        """
        table.recover()
        self.inbox = inbox
        self.table = table
        self.ledger = Ledger(table)
        self.unreadable = dict(inbox.unreadable)
        self.receipts: dict[str, Receipt] = {}
        self.failures: dict[Shard, Exception] = {}
        self._planner = planner
        self._tried: set[Shard] = set()
        self._plan()
        self.new = {piece.file for shard in self.pending() for piece in shard.pieces}
        self.known_unusable = self.ledger.unusable(inbox.files)

    def _plan(self) -> None:
        planned = self._planner(self.ledger)
        self.splits = planned.splits
        self.unreadable |= planned.unreadable

    def pending(self) -> list[Shard]:
        """Return the shards that are not done and have not failed."""
        return [shard for shard in self.ledger.pending(self.inbox.files) if shard not in self.failures]

    def settle(self, tried: Iterable[Shard], done: Mapping[str, Receipt], failed: Mapping[Shard, Exception]) -> None:
        """Note what became of shards, and plan anew the pieces of those that were cancelled.

        The shards of several files that failed because of one of them are cancelled, so that they are planned as
        halves.
        """
        self._tried |= set(tried)
        self.receipts |= done
        self.failures |= failed  # all of them first, to be told should the store fail now
        for shard, error in failed.items():
            if len(shard.pieces) > 1 and not isinstance(error, StoreError | ModelError | ConfigurationError):
                del self.failures[shard]
                # The claim of a lost worker on another machine looks as if it were alive.
                if receipt := self.table.cancel(shard.id, in_work=isinstance(error, WorkerLostError)):
                    self.receipts[shard.id] = receipt
        self.ledger.update(self.receipts.values())
        self._plan()

    def finish(self, run_id: str) -> None:
        """Publish what other runs' workers left of these shards, and write what readers of the log need."""
        self.table.recover()
        if self.inbox.files:
            self.ledger.write_manifest(run_id)
        self.ledger.write_checkpoint()

    @property
    def shards(self) -> int:
        """How many shards there were to score; one that was cut into halves counts as these."""
        cancelled = {shard for shard, receipt in self.receipts.items() if receipt.outcome == "cancelled"}
        return sum(shard.id not in cancelled for shard in self._tried)

    def reasons(self) -> dict[str, str]:
        """Return why shards failed, or files cannot be read, by their name."""
        reasons: dict[str, str] = {}
        for shard, error in self.failures.items():
            name = shard.name if shard.name not in reasons else f"{shard.name} ({shard.id})"
            reasons[name] = str(error) if isinstance(error, SentimentError) else repr(error)
        return reasons | self.unreadable

    def failure(self) -> str | None:
        """Return what failed and why, in a sentence, or None where nothing did."""
        if not self.reasons():
            return None
        failed = len(self.failures)
        left = self.shards - failed
        what = [f"{failed} of {self.shards} shards failed"] if failed else []
        what += [f"{len(self.unreadable)} files cannot be read"] if self.unreadable else []
        (name, reason), *others = self.reasons().items()
        more = f" (and {len(others)} more)" if others else ""
        where = "" if reason.startswith((f"{name} ", f"{name}:")) else f"{name}: "
        if not left and not others:
            return f"{where}{reason}"
        published = f"; the other {left:,} shards are published; run again to do only what is left" if left else ""
        return f"{' and '.join(what)}{published}. {where}{reason}{more}"
