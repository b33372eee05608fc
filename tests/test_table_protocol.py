"""The table's protocol against a model: whoever stops between any two requests, readers see each row once.

Workers, schedulers and readers share a table on this machine. Each of them may stop for good before or after any of
its requests to the store, as if it had been killed there, and a worker may sleep until others have overtaken it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sentiment_model.scoring import ledger as ledger_module
from sentiment_model.scoring import table as score_table
from sentiment_model.scoring.claims import Claim
from sentiment_model.scoring.ledger import Ledger
from sentiment_model.scoring.shards import Piece, Shard
from sentiment_model.scoring.table import Plan, Receipt, ScoreTable
from sentiment_model.store.datasets import sha256_of
from sentiment_model.store.objects import Objects, StoredObject

KEYS = ("one", "other")
ROWS = 3  # of each file
FOLDER = "version=1/date=2026-01-01"


class StoppedError(BaseException):
    """Whoever gets this does nothing more, not even tidy up."""


class Mortal(Objects):
    """A store that stops its user before or after one of its requests."""

    def __init__(self, url: str, requests: int | None, *, after: bool) -> None:
        super().__init__(url)
        self._left = requests
        self._after = after
        self.stopped = False

    def _request(self, answer: Callable[[], Any]) -> Any:
        if self.stopped:
            raise StoppedError
        last = self._left == 0
        if self._left is not None:
            self._left -= 1
        self.stopped = last
        if last and not self._after:
            raise StoppedError
        result = answer()
        if last:
            raise StoppedError
        return result

    def read(self, path: str) -> bytes | None:
        return self._request(lambda: super(Mortal, self).read(path))  # type: ignore[no-any-return]

    def size(self, path: str) -> int | None:
        return self._request(lambda: super(Mortal, self).size(path))  # type: ignore[no-any-return]

    def list(self, folder: str) -> Iterator[StoredObject]:
        return iter(self._request(lambda: [*super(Mortal, self).list(folder)]))

    def create(self, path: str, content: bytes) -> bool:
        return self._request(lambda: super(Mortal, self).create(path, content))  # type: ignore[no-any-return]

    def replace(self, path: str, content: bytes) -> None:
        self._request(lambda: super(Mortal, self).replace(path, content))

    def upload(self, path: str, file: Path) -> None:
        self._request(lambda: super(Mortal, self).upload(path, file))

    def move(self, source: str, target: str) -> bool:
        return self._request(lambda: super(Mortal, self).move(source, target))  # type: ignore[no-any-return]

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._request(lambda path=path: super(Mortal, self).delete([path]))


STOPS = st.tuples(st.none() | st.integers(0, 14), st.booleans())
Stop = tuple[int | None, bool]


class Protocol(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory()
        self.url = self._folder.name
        self.files = 0
        self.decided: dict[tuple[str, str], Receipt] = {}
        self.manifests: Counter[str] = Counter()
        self.sleepers: list[tuple[str, Shard, ScoreTable, Claim]] = []

    def teardown(self) -> None:
        self._folder.cleanup()

    def table(self, key: str, stop: Stop = (None, False)) -> ScoreTable:
        table = ScoreTable(self.url, key)
        table.objects = Mortal(self.url, stop[0], after=stop[1])
        return table

    def shards(self, key: str) -> list[Shard]:
        return list(Ledger(self.table(key))._shards.values())

    def keys_of(self, key: str) -> list[str]:
        return [f"{key}{number}" for number in range(self.files)]

    @rule(key=st.sampled_from(KEYS), together=st.integers(1, 4), stop=STOPS)
    def plan(self, key: str, together: int, stop: Stop) -> None:
        """A scheduler finds new files, which make a shard, and plans what it and others have cancelled."""
        self.files += together
        with suppress(StoppedError):
            table = self.table(key, stop)
            ledger = Ledger(table)
            new = tuple(Piece(file=file, name=file) for file in ledger.unplanned(self.keys_of(key)))
            shards = [*ledger.to_plan_anew(), *([Shard(name="new", pieces=new)] if new else [])]
            if shards:
                table.append(Plan(shards=shards), ledger.plans)

    def write(self, table: ScoreTable, shard: Shard, claim: Claim) -> Receipt:
        with table.staging(shard.id, claim) as staging:
            rows = [f"{piece.file}-{row}" for piece in shard.pieces for row in range(ROWS)]
            for number, some in enumerate((rows[::2], rows[1::2])):
                pl.DataFrame({"row_id": some}).write_parquet(staging.file(f"{number}.parquet"))
            return table.commit(shard.id, claim, staging, {"scored": len(rows)}, FOLDER)

    @rule(key=st.sampled_from(KEYS), which=st.integers(0, 99), stop=STOPS)
    def work(self, key: str, which: int, stop: Stop) -> None:
        """A worker scores a shard."""
        if shards := self.shards(key):
            shard = shards[which % len(shards)]
            table = self.table(key, stop)
            with suppress(StoppedError), table.claim(shard.id) as held:
                if isinstance(held, Claim):
                    self.write(table, shard, held)

    @rule(key=st.sampled_from(KEYS), which=st.integers(0, 99))
    def fall_asleep(self, key: str, which: int) -> None:
        """A worker takes a shard and sleeps for so long that nobody takes its claim seriously any more."""
        if shards := self.shards(key):
            shard = shards[which % len(shards)]
            table = self.table(key)
            if claim := table._claims(shard.id).take():
                with table._claims(shard.id).kept(claim):
                    pass
                self.sleepers.append((key, shard, table, claim))

    @precondition(lambda self: self.sleepers)
    @rule(which=st.integers(0, 99), stop=STOPS)
    def wake_up(self, which: int, stop: Stop) -> None:
        """It goes on as if it still held the shard."""
        _, shard, table, claim = self.sleepers.pop(which % len(self.sleepers))
        table.objects = Mortal(self.url, stop[0], after=stop[1])
        with suppress(StoppedError, FileNotFoundError):  # its files are removed by who publishes the shard
            self.write(table, shard, claim)

    @rule(key=st.sampled_from(KEYS), which=st.integers(0, 99), stop=STOPS)
    def cancel(self, key: str, which: int, stop: Stop) -> None:
        groups = [shard for shard in self.shards(key) if len(shard.pieces) > 1]
        if groups:
            with suppress(StoppedError):
                self.table(key, stop).cancel(groups[which % len(groups)].id)

    @rule(key=st.sampled_from(KEYS), stop=STOPS)
    def end_of_a_run(self, key: str, stop: Stop) -> None:
        with suppress(StoppedError):
            table = self.table(key, stop)
            ledger = Ledger(table)
            table.recover()
            ledger.write_manifest("run")
            ledger.write_checkpoint()

    @rule(key=st.sampled_from(KEYS))
    def a_run_does_all_that_is_left(self, key: str) -> None:
        """Nobody stops it; then each row of the key is there once."""
        while True:
            self.plan(key, 0, (None, False))
            ledger = Ledger(self.table(key))
            pending = ledger.pending(self.keys_of(key))
            if not pending and not ledger.unplanned(self.keys_of(key)) and not ledger.to_plan_anew():
                break
            for shard in pending:
                table = self.table(key)
                with table.claim(shard.id) as held:
                    if isinstance(held, Claim):
                        self.write(table, shard, held)
        self.end_of_a_run(key, (None, False))
        expected = {f"{file}-{row}" for file in self.keys_of(key) for row in range(ROWS)}
        rows = self.visible_rows()[key]
        assert rows == Counter(expected)
        receipts = list(Ledger(self.table(key)).scored(self.keys_of(key)))
        assert sum(receipt.counts["scored"] for receipt in receipts) == len(expected)
        named = self.named_files(key)
        assert set(named) == {file.path for receipt in receipts for file in receipt.files}

    def visible_rows(self) -> dict[str, Counter[str]]:
        rows: dict[str, Counter[str]] = {key: Counter() for key in KEYS}
        for path in Path(self.url).glob("scores/**/*.parquet"):
            rows[path.name.partition("-")[0]].update(pl.read_parquet(path)["row_id"])
        return rows

    def named_files(self, key: str) -> Counter[str]:
        named: Counter[str] = Counter()
        number = 0
        while manifest := self.table(key).manifest(number):
            number += 1
            named.update(file.path for file in manifest.files)
        return named

    @invariant()
    def readers_see_whole_rows_once(self) -> None:
        for rows in self.visible_rows().values():
            assert set(rows.values()) <= {1}

    @invariant()
    def what_readers_see_is_what_the_receipts_say(self) -> None:
        visible = {str(path.relative_to(self.url)): path for path in Path(self.url).glob("scores/**/*.parquet")}
        for key in KEYS:
            table = self.table(key)
            for shard in table.done():
                receipt = table.receipt(shard)
                assert receipt
                assert self.decided.setdefault((key, shard), receipt) == receipt  # what is decided stays so
                for file in receipt.files:
                    if path := visible.pop(file.path, None):
                        assert sha256_of(path) == file.sha256
                    else:
                        assert Path(self.url, file.staged).is_file()  # and whoever comes next publishes it
        assert visible == {}

    @invariant()
    def a_manifest_names_what_is_there_once(self) -> None:
        for key in KEYS:
            for path, times in self.named_files(key).items():
                assert times == 1
                assert Path(self.url, path).is_file()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    remove = score_table.rmtree

    def unless_stopped(folder: Path, **options: Any) -> None:
        if not isinstance(sys_error(), StoppedError):  # who is killed does not remove its files
            remove(folder, **options)

    def sys_error() -> BaseException | None:
        import sys

        return sys.exc_info()[1]

    monkeypatch.setattr(score_table, "rmtree", unless_stopped)
    monkeypatch.setattr(ledger_module, "PLANS_PER_CHECKPOINT", 2)
    monkeypatch.setattr(ledger_module, "_READERS", 1)


@pytest.mark.usefixtures("_quick")
class TestProtocol(Protocol.TestCase):  # type: ignore[misc]
    settings = settings(
        max_examples=25,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
