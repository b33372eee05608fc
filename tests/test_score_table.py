"""The table of scores: a shard is done once, whoever dies, sleeps or comes at the same time."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from bulk import prepare, published_rows, score_into
from servers import object_store
from tiny import tiny_bundle

from sentiment_model import score_table
from sentiment_model.bundle import Predictor
from sentiment_model.config import ReviewFiles, ScoringRun
from sentiment_model.errors import SourceError, StoreError
from sentiment_model.score_table import Claim, Plan, Receipt, ScoreTable
from sentiment_model.scoring import score_shard
from sentiment_model.shards import Piece, Shard


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
    with table.staging(claim) as staging:
        pl.DataFrame({"row_id": range(rows)}).write_parquet(staging.file("a.parquet"))
        return table.commit(claim, staging, {"rows_in": rows}, "version=1/date=2026-01-01")


def expire(table: ScoreTable, claim: Claim) -> None:
    """Let the lease of a claim run out."""
    content = claim.model_copy(update={"expires_at": 0.0}).model_dump_json()
    table.objects.replace(table._claim_path(claim.shard, claim.token), content.encode())


def shard_of(name: str) -> Shard:
    return Shard(name=name, pieces=(Piece(file=name),))


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
    plans = [Plan(files={str(i): "f"}, shards=[shard_of(str(i))]) for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        first = list(threads.map(lambda plan: ScoreTable(url, "k").append(plan, 0), plans))
    assert sum(first) == 1
    assert not table.append(plans[0], 0)
    assert table.append(plans[0], 1)
    assert [list(plan.files) for plan in table.plans()] == [[str(first.index(True))], ["0"]]


def test_a_shard_has_one_owner_at_a_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_table, "_POLL_SECONDS", 0.01)
    owners: list[int] = []
    most = []

    def work(_: int) -> Receipt:
        table = ScoreTable(url, "k")
        with table.claim("s") as held:
            if isinstance(held, Receipt):
                return held
            owners.append(held.token)
            most.append(len(owners))
            time.sleep(0.05)
            owners.remove(held.token)
            if held.token < 3:  # the first two fail
                return Receipt(shard="s", token=0, files=[], counts={})
            return write_rows(table, held)

    with ThreadPoolExecutor(5) as threads:
        receipts = list(threads.map(work, range(5)))
    assert max(most) == 1
    assert sorted(receipt.token for receipt in receipts) == [0, 0, 3, 3, 3]


def test_who_was_overtaken_does_not_publish(url: str) -> None:
    table = ScoreTable(url, "k")
    with table.claim("s") as sleeper:
        assert isinstance(sleeper, Claim)
        expire(table, sleeper)
        with table.claim("s") as other:  # the lease ran out while the first slept
            assert isinstance(other, Claim)
            assert other.token == 2
            with table.staging(sleeper) as staging:
                pl.DataFrame({"row_id": [7, 7, 7, 7]}).write_parquet(staging.file("a.parquet"))
                waiting: list[Receipt] = []
                late = threading.Thread(
                    target=lambda: waiting.append(table.commit(sleeper, staging, {"rows_in": 4}, "version=1/date=x"))
                )
                late.start()
                deadline = time.monotonic() + 30
                while list(table.objects.list("_staged")) and time.monotonic() < deadline:
                    time.sleep(0.01)  # until it has seen that it was overtaken
                receipt = write_rows(table, other)
                late.join(timeout=30)
    assert waiting == [receipt]
    assert receipt.token == 2
    files = [path for path, *_ in table.objects.list("scores")]
    assert files == [receipt.files[0].path]
    assert list(table.objects.list("_staged")) == []


@pytest.mark.parametrize("files", [0, 1])
def test_who_was_overtaken_may_commit_after_its_files_are_gone(tmp_path: Path, files: int) -> None:
    table = ScoreTable(str(tmp_path / "table"), "k")
    with table.claim("s") as sleeper, table.staging(sleeper) as staging:
        assert isinstance(sleeper, Claim)
        for number in range(files):
            pl.DataFrame({"row_id": [7]}).write_parquet(staging.file(f"{number}.parquet"))
        expire(table, sleeper)
        with table.claim("s") as other:
            assert isinstance(other, Claim)
            receipt = write_rows(table, other)
        assert table.commit(sleeper, staging, {"rows_in": 1}, "version=1/date=x") == receipt
    assert [path for path, *_ in table.objects.list("scores")] == [receipt.files[0].path]


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
        expire(table, Claim.model_validate_json(table.objects.read(table._claim_path(shards[0].id, 1)) or b""))
        receipts.append(score_shard(job, shards[0], self, None))
        return original(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict", predict)
        assert score_shard(job, shards[0], predictor, None).files == receipts[0].files
    for shard in shards[1:]:
        score_shard(job, shard, predictor, None)
    check_complete(inbox, tmp_path / "table", tmp_path / "bundle")


def test_a_worker_that_died_between_commit_and_publication_is_completed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ScoreTable(url, "k")

    class DiedError(Exception):
        pass

    def die(self: ScoreTable, receipt: Receipt) -> None:
        raise DiedError

    with monkeypatch.context() as patch, table.claim("s") as claim:
        patch.setattr(ScoreTable, "_publish", die)
        assert isinstance(claim, Claim)
        with pytest.raises(DiedError):
            write_rows(table, claim)
    assert list(table.objects.list("scores")) == []
    table.recover()
    receipt = table.receipt("s")
    assert receipt
    assert [path for path, *_ in table.objects.list("scores")] == [receipt.files[0].path]
    assert list(table.objects.list("_staged")) == []
    table.recover()

    table.objects.delete([receipt.files[0].path])
    with pytest.raises(StoreError, match="missing or damaged"):
        table._publish(receipt)


def test_the_claim_of_a_process_that_is_gone_is_void(tmp_path: Path) -> None:
    table = ScoreTable(str(tmp_path), "k")
    child = subprocess.run(
        [sys.executable, "-c", "import os, psutil; print(os.getpid(), psutil.Process().create_time())"],
        capture_output=True,
        text=True,
        check=True,
    )
    pid, started = child.stdout.split()
    claim = Claim(shard="s", token=1, process=(int(pid), float(started)), expires_at=time.time() + 3600)
    table.objects.create(table._claim_path("s", 1), claim.model_dump_json().encode())
    with table.claim("s") as held:
        assert isinstance(held, Claim)
        assert held.token == 2
    elsewhere = claim.model_copy(update={"host": "another-machine"})
    assert not elsewhere.is_void()
    assert elsewhere.model_copy(update={"expires_at": time.time() - 1}).is_void()


def test_the_manifest_of_a_run_is_written_once(url: str) -> None:
    table = ScoreTable(url, "k")
    with table.claim("s") as claim:
        assert isinstance(claim, Claim)
        receipt = write_rows(table, claim)
    assert table.finish("r", [receipt])
    assert not table.finish("r", [])
    assert receipt.files[0].sha256.encode() in (table.objects.read("_log/k/runs/r.json") or b"")


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
from sentiment_model.bundle import Predictor
from sentiment_model.config import ReviewFiles, ScoringRun
from sentiment_model.scoring import score_shard
from sentiment_model.score_table import ScoreTable
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
