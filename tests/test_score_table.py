"""The table of scores: a shard is done once, whoever dies, sleeps or comes at the same time."""

import errno
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import polars as pl
import psutil
import pytest
from bulk import prepare, published_rows, score_into
from obstore.exceptions import GenericError
from servers import object_store
from tiny import tiny_bundle

from sentiment_model.config import ReviewFiles, ScoringRun
from sentiment_model.errors import SourceError, StoreError
from sentiment_model.models.bundle import Predictor
from sentiment_model.scoring import claims as claims_module
from sentiment_model.scoring import table as score_table
from sentiment_model.scoring.claims import Claim
from sentiment_model.scoring.label import score_shard
from sentiment_model.scoring.shards import Piece, Shard
from sentiment_model.scoring.table import Plan, Receipt, ScoreTable
from sentiment_model.store.objects import Objects


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket on a real S3 server."""
    with object_store("scores") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield "s3://scores"


@pytest.fixture(params=["local", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A table's place: a folder, and a prefix of an object store."""
    if request.param == "local":
        return str(tmp_path / "table")
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}"


def write_rows(table: ScoreTable, claim: Claim, rows: int = 3) -> Receipt:
    with table.staging("s", claim) as staging:
        pl.DataFrame({"row_id": range(rows)}).write_parquet(staging.file("a.parquet"))
        return table.commit("s", claim, staging, {"rows_in": rows}, "version=1/date=2026-01-01")


def give_up(table: ScoreTable, shard: str = "s") -> None:
    """Let everybody take the newest claim for one that was given up."""
    claim = table._claims(shard).last()
    assert claim
    path = f"{table.log}/claims/{shard}/{claim.token:06d}.json"
    table.objects.replace(path, claim.model_copy(update={"given_up": True}).model_dump_json().encode())


def shard_of(*names: str) -> Shard:
    return Shard(name=names[0], pieces=tuple(Piece(file=name, name=f"{name}.csv") for name in names))


def test_a_shard_is_claimed_committed_and_read(url: str) -> None:
    table = ScoreTable(url, "k")
    assert table.receipt("s") is None
    with table.claim("s") as claim:
        assert isinstance(claim, Claim)
        assert claim.token == 1
        receipt = write_rows(table, claim)
    assert table.done() == {"s"}
    assert table.receipt("s") == receipt
    (path,) = table.paths([receipt])
    assert pl.read_parquet(path)["row_id"].to_list() == [0, 1, 2]
    with table.claim("s") as again:
        assert again == receipt


def test_a_plan_has_one_author(url: str) -> None:
    table = ScoreTable(url, "k")
    plans = [Plan(shards=[shard_of(str(i))]) for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        first = list(threads.map(lambda plan: ScoreTable(url, "k").append(plan, 0), plans))
    assert sum(first) == 1
    assert not table.append(Plan(shards=[]), 0)
    assert table.append(plans[1], 1)
    assert [table.plan(0), table.plan(1), table.plan(2)] == [plans[first.index(True)], plans[1], None]


def test_a_shard_has_one_owner_at_a_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_table, "_POLL_SECONDS", 0.01)
    owners: list[int] = []
    most = []

    def work(_: int) -> Receipt | None:
        table = ScoreTable(url, "k")
        with table.claim("s") as held:
            if isinstance(held, Receipt):
                return held
            owners.append(held.token)
            most.append(len(owners))
            time.sleep(0.05)
            owners.remove(held.token)
            if held.token < 3:  # the first two fail
                return None
            return write_rows(table, held)

    with ThreadPoolExecutor(5) as threads:
        receipts = list(threads.map(work, range(5)))
    assert max(most) == 1
    assert receipts.count(None) == 2
    assert len({receipt.writer for receipt in receipts if receipt}) == 1


@pytest.mark.parametrize("first", ["sleeper", "other"])
def test_of_two_workers_on_a_shard_the_first_to_commit_publishes(url: str, first: str) -> None:
    table = ScoreTable(url, "k")
    with table.claim("s") as sleeper, table.staging("s", sleeper) as staging:  # type: ignore[arg-type]
        assert isinstance(sleeper, Claim)
        pl.DataFrame({"row_id": [7, 7, 7, 7]}).write_parquet(staging.file("a.parquet"))

        def commit() -> Receipt:
            return table.commit("s", sleeper, staging, {"rows_in": 4}, "version=1/date=x")

        give_up(table)
        with table.claim("s") as other:
            assert isinstance(other, Claim)
            assert other.token == 2
            receipts = [commit()] if first == "sleeper" else []
            receipts.append(write_rows(table, other))
            if first == "other":
                # Locally, who publishes a shard removes what other workers have staged for it.
                with pytest.raises(FileNotFoundError) if table.objects.is_local else nullcontext():
                    receipts.append(commit())
    assert len({receipt.writer for receipt in receipts}) == 1
    assert receipts[0].counts == {"rows_in": 4 if first == "sleeper" else 3}
    assert [path for path, *_ in table.objects.list("scores")] == [receipts[0].files[0].path]
    assert list(table.objects.list("_staged")) == []


def test_who_was_overtaken_may_find_that_its_files_are_gone_while_it_writes(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bundle(tmp_path / "bundle")
    predictor, original = Predictor.load(tmp_path / "bundle"), Predictor.predict
    run = ScoringRun(files=ReviewFiles(path=str(inbox)), shard_rows=SHARD_ROWS, batch_rows=64)
    job, shards = prepare(tmp_path / "table", predictor, run)
    table = ScoreTable(job.table, job.key)
    receipts: list[Receipt] = []

    def predict(self: Predictor, texts: pl.Series) -> pl.DataFrame:
        patch.undo()  # another worker takes the shard and does it while this one sleeps
        give_up(table, shards[0].id)
        receipts.append(score_shard(job, shards[0], self, None))
        return original(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict", predict)
        assert score_shard(job, shards[0], predictor, None).files == receipts[0].files
    for shard in shards[1:]:
        score_shard(job, shard, predictor, None)
    check_complete(inbox, tmp_path / "table", tmp_path / "bundle")


class DiedError(Exception):
    pass


def die(*_: object) -> None:
    raise DiedError


def die_unpublished(table: ScoreTable, monkeypatch: pytest.MonkeyPatch) -> Receipt:
    """Let a worker die when its shard is done and its files are not where readers look."""
    with monkeypatch.context() as patch, table.claim("s") as claim:
        patch.setattr(ScoreTable, "_publish", die)
        assert isinstance(claim, Claim)
        with pytest.raises(DiedError):
            write_rows(table, claim)
    receipt = table.receipt("s")
    assert receipt
    return receipt


def test_a_worker_that_died_between_commit_and_publication_is_completed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ScoreTable(url, "k")
    receipt = die_unpublished(table, monkeypatch)
    assert list(table.objects.list("scores")) == []
    table.recover()
    assert [path for path, *_ in table.objects.list("scores")] == [receipt.files[0].path]
    assert list(table.objects.list("_staged")) == []
    table.recover()

    table.objects.delete([receipt.files[0].path])
    with pytest.raises(StoreError, match="missing or damaged"):
        table._publish(receipt)
    table.objects.create(f"_staged/k/s-{9:06d}/a.parquet", b"what a worker that was overtaken left")
    table.recover()  # what was removed on purpose is in nobody's way
    assert list(table.objects.list("_staged")) == []


def test_nothing_of_one_key_touches_what_is_of_another(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same shard on the same day, with another threshold."""
    one, other = ScoreTable(url, "one"), ScoreTable(url, "other")
    with one.claim("s") as claim:
        assert isinstance(claim, Claim)
        first = write_rows(one, claim, rows=3)
    with other.claim("s") as claim, other.staging("s", claim) as staging:  # type: ignore[arg-type]
        pl.DataFrame({"row_id": range(5)}).write_parquet(staging.file("a.parquet"))
        if not other.objects.is_local:
            other.objects.upload(f"_staged/other/s-{1:06d}/a.parquet", next(iter(staging.files)))
        one.recover()  # as an hourly run does while a re-scoring works
        assert isinstance(claim, Claim)
        second = other.commit("s", claim, staging, {}, "version=1/date=2026-01-01")
    rows = [pl.read_parquet(path).height for path in one.paths([first, second])]
    assert rows == [3, 5]


@contextmanager
def child(program: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a Python program that prints `ready` and then waits for the end of its input."""
    command = [sys.executable, "-c", f"{program}\nimport sys; print('ready', flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def taking(table: ScoreTable) -> str:
    return f"""
from sentiment_model.scoring.table import ScoreTable
claim = ScoreTable({table.url!r}, "k")._claims("s").take()
assert claim
"""


def test_the_claim_of_a_process_is_void_when_it_is_gone(tmp_path: Path) -> None:
    table = ScoreTable(str(tmp_path), "k")
    with child(taking(table)) as process:
        claim = table._claims("s").last()
        assert claim
        assert not claim.is_void()
        assert table._claims("s").take() is None
        process.kill()
        process.wait()  # until then it is a zombie, which works no more than one that is gone
        assert claim.is_void()
    with table.claim("s") as held:
        assert isinstance(held, Claim)
        assert held.token == 2
    assert not claim.model_copy(update={"machine": "another"}).is_void()
    assert claim.model_copy(update={"machine": "another", "given_up": True}).is_void()


def test_a_claim_does_not_depend_on_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the machine is set an hour ahead, and back, while a process works."""
    table = ScoreTable(str(tmp_path), "k")
    now = time.time()
    with child(taking(table)):
        for hour in (-3600, 1, 3600):
            with monkeypatch.context() as patch:
                patch.setattr(time, "time", lambda hour=hour: now + hour)
                patch.setattr(psutil, "boot_time", lambda hour=hour: now + hour)
                patch.setattr(psutil._pslinux, "boot_time", lambda hour=hour: now + hour)
                assert table._claims("s").take() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PID namespaces")
def test_containers_with_one_host_name_do_not_void_each_other(tmp_path: Path) -> None:
    table = ScoreTable(str(tmp_path), "k")
    apart = ["unshare", "--fork", "--pid", "--mount-proc"]
    if subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to make a PID namespace")
    look = f"""
from sentiment_model.scoring.table import ScoreTable
claims = ScoreTable({table.url!r}, "k")._claims("s")
print(claims.last().is_void(), claims.take())
"""
    with child(taking(table)):
        there = subprocess.run([*apart, sys.executable, "-c", look], check=True, capture_output=True, text=True)
    assert there.stdout == "False None\n"


def test_a_claim_that_is_not_renewed_while_one_watches_is_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine that nobody can ask; its worker renews three times, and is gone."""
    table = ScoreTable(str(tmp_path), "k")
    moments = iter(range(0, 10_000, 20))
    claims = table._claims("s")
    theirs = Claim(token=1, machine="another")
    path = f"{table.log}/claims/s/000001.json"
    table.objects.create(path, theirs.model_dump_json().encode())
    monkeypatch.setattr(claims_module, "LEASE_SECONDS", 60)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(moments)))
    for renewals in range(4):
        for _ in range(2):
            assert claims.take() is None
        table.objects.replace(path, theirs.model_copy(update={"renewals": renewals + 1}).model_dump_json().encode())
    assert [claims.take() is None for _ in range(4)] == [True, True, True, False]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_claim_is_renewed_though_the_store_fails_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = ScoreTable(str(tmp_path), "k")
    monkeypatch.setattr(claims_module, "LEASE_SECONDS", 0.04)
    replace, failures = Objects.replace, [OSError(5, "input/output error"), GenericError("503")]

    def fail_first(self: Objects, path: str, content: bytes) -> None:
        if failures:
            raise failures.pop()
        replace(self, path, content)

    monkeypatch.setattr(Objects, "replace", fail_first)
    with table.claim("s") as claim:
        assert isinstance(claim, Claim)
        wait_until(lambda: (last := table._claims("s").last()) is not None and last.renewals >= 4)
    assert failures == []
    last = table._claims("s").last()
    assert last
    assert last.given_up


def test_a_claim_that_cannot_be_given_up_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = ScoreTable(str(tmp_path), "k")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, table.claim("s") as claim:
        assert isinstance(claim, Claim)
        receipt = write_rows(table, claim)
        patch.setattr(Objects, "replace", full)
    assert table.receipt("s") == receipt  # and the worker did not fail
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "replace", full)
        for token in (1, 2):  # the second try of a task, in the process that holds the claim of the first
            with table.claim("t") as claim:
                assert isinstance(claim, Claim)
                assert claim.token == token


def test_a_shard_in_work_is_not_cancelled(url: str) -> None:
    table = ScoreTable(url, "k")
    with table.claim("s") as claim:
        assert isinstance(claim, Claim)
        assert table.cancel("s") is None
        receipt = write_rows(table, claim)
        assert table.cancel("s") == receipt
    assert table.cancel("s") == receipt
    cancelled = table.cancel("t")
    assert cancelled
    assert cancelled.outcome == "cancelled"
    with table.claim("t") as held:
        assert held == cancelled


def test_who_works_on_a_cancelled_shard_publishes_nothing(url: str) -> None:
    table = ScoreTable(url, "k")
    with table.claim("s") as claim:
        assert isinstance(claim, Claim)
        give_up(table)  # as it looks to who watches a machine that has stopped
        assert table.cancel("s")
        assert write_rows(table, claim).outcome == "cancelled"
    assert [path for path, *_ in table.objects.list("scores")] == []
    assert list(table.objects.list("_staged")) == []


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """Files that make shards of each kind: small ones together, a large text file, a large Parquet file."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        pl.DataFrame({"text": [f"good film {i}" for i in range(30)]}).write_csv(folder / f"small{number}.csv")
    rows = pl.DataFrame({"id": range(1500), "text": [f"not a bad film {i} " + "awful " * (i % 9) for i in range(1500)]})
    rows.with_columns(pad=pl.lit("x" * 400)).write_ndjson(folder / "large.jsonl")
    with (folder / "large.jsonl").open("a") as file:
        file.write('{"text": "cut o')
    rows.with_columns(text=pl.when(pl.col("id") % 100 == 0).then(pl.lit("")).otherwise("text")).write_parquet(
        folder / "large.parquet", row_group_size=100
    )
    return folder


ROWS = 4 * 30 + 1500 + 1 + 1500
QUARANTINED = 1 + 15
SHARD_ROWS = 200

WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from bulk import prepare
from sentiment_model.models.bundle import Predictor
from sentiment_model.config import ReviewFiles, ScoringRun
from sentiment_model.scoring.label import score_shard
from sentiment_model.scoring.table import ScoreTable
predictor = Predictor.load(Path({bundle!r}))
run = ScoringRun(files=ReviewFiles(path={inbox!r}), shard_rows={shard_rows}, batch_rows=64)
job, shards = prepare({table!r}, predictor, run)
ScoreTable(job.table, job.key).recover()
print("ready", flush=True)
for shard in shards:
    score_shard(job, shard, predictor, None)
"""


def start_worker(inbox: Path, table: Path, bundle: Path) -> "subprocess.Popen[str]":
    script = WORKER.format(
        tests=str(Path(__file__).parent), bundle=str(bundle), inbox=str(inbox), table=str(table), shard_rows=SHARD_ROWS
    )
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def check_complete(inbox: Path, table: Path, bundle: Path) -> None:
    """Each row of the inbox is in the table once, for readers of files and for readers of receipts."""
    run = ScoringRun(files=ReviewFiles(path=str(inbox)), shard_rows=SHARD_ROWS)
    scored = score_into(table, Predictor.load(bundle), run)
    scored.table.recover()
    assert scored.counts.rows_in == ROWS
    assert scored.counts.quarantined == QUARANTINED
    published = published_rows(table)
    assert len(published) == len(set(published)) == ROWS - QUARANTINED
    assert sorted(scored.rows()["row_id"]) == published
    quarantine = pl.read_parquet(f"{table}/quarantine/**/*.parquet")
    assert quarantine.select("file", "row").n_unique() == len(quarantine) == QUARANTINED
    assert [path for path in (table / "_staged").rglob("*") if path.is_file()] == []


def test_workers_killed_at_any_moment_lose_and_repeat_nothing(inbox: Path, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundle")
    chance = random.Random(1)
    for _ in range(6):
        worker = start_worker(inbox, tmp_path / "table", tmp_path / "bundle")
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.6))
        worker.send_signal(signal.SIGKILL)
        worker.wait(timeout=30)
    check_complete(inbox, tmp_path / "table", tmp_path / "bundle")


def test_two_workers_at_once_share_the_work(inbox: Path, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundle")
    workers = [start_worker(inbox, tmp_path / "table", tmp_path / "bundle") for _ in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    check_complete(inbox, tmp_path / "table", tmp_path / "bundle")


def test_a_shard_that_fails_fails_alone(inbox: Path, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundle")
    predictor = Predictor.load(tmp_path / "bundle")
    run = ScoringRun(files=ReviewFiles(path=str(inbox)), shard_rows=SHARD_ROWS)
    job, shards = prepare(tmp_path / "table", predictor, run)
    (inbox / "large.parquet").rename(tmp_path / "away")
    failures = []
    for shard in shards:
        try:
            score_shard(job, shard, predictor, None)
        except SourceError as error:
            failures.append(str(error))
    assert len(failures) == 8
    assert all("cannot read" in failure for failure in failures)
    (tmp_path / "away").rename(inbox / "large.parquet")
    check_complete(inbox, tmp_path / "table", tmp_path / "bundle")
