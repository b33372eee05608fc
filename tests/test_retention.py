"""Clean-up: what nothing needs goes by age, what a version or an unfinished run needs never does."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from mlflow import MlflowClient
from servers import newest_artifact, object_store

from flows._cli import run_cli
from flows.tidy import tidy
from sentiment_model.config import TidyRun
from sentiment_model.errors import StoreError
from sentiment_model.registry.tracking import FINGERPRINT_TAG, Tracker
from sentiment_model.scoring.table import Receipt, ScoreTable
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import MANIFEST, Dataset, DatasetRef, DatasetWriter, Stage, Store
from sentiment_model.upkeep.retention import Verdict, carry_out, judge

MAKES = {"clean": "ingest", "tokenize": "clean", "train": "tokenize", "evaluate": "train"}
NOW = datetime.now(UTC)
POLICY = TidyRun(dry_run=False)


@pytest.fixture
def store(settings_in: Path) -> Store:
    return Store(Settings().store_url)


@pytest.fixture
def client(settings_in: Path) -> MlflowClient:
    return MlflowClient(Settings().mlflow_tracking_uri)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with object_store("reviews") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield "s3://reviews/store"


def write_rows(writer: DatasetWriter) -> dict[str, Any]:
    for number in range(3):
        pl.DataFrame({"x": [number] * 100}).write_parquet(writer.file(f"part-{number:05d}.parquet"))
    return {}


def dataset(store: Store, stage: str, number: int = 0, **inputs: str) -> Dataset:
    return store.materialise(Stage(stage, 1), inputs, {"number": number}, write_rows)[0]


def age(path: Path, days: float) -> None:
    """Make everything below a folder, or a file, as old as if it had been written so many days ago."""
    moment = (NOW - timedelta(days=days)).timestamp()
    for each in [path, *path.rglob("*")]:
        os.utime(each, (moment, moment))


def version(client: MlflowClient, run_id: str | None = None, **tags: str) -> None:
    if not client.search_registered_models("name = 'sentiment'"):
        client.create_registered_model("sentiment")
    named = {f"data.{name}": value for name, value in tags.items()}
    client.create_model_version("sentiment", source="s3://models/none", run_id=run_id, tags=named)


def training(client: MlflowClient, fingerprint: str, *, ended_days_ago: float | None) -> str:
    experiment = client.get_experiment_by_name("sentiment")
    experiment_id = experiment.experiment_id if experiment else client.create_experiment("sentiment")
    run_id = str(client.create_run(experiment_id, tags={FINGERPRINT_TAG: fingerprint}).info.run_id)
    if ended_days_ago is not None:
        ended = NOW - timedelta(days=ended_days_ago)
        client.set_terminated(run_id, end_time=int(ended.timestamp() * 1000))
    return run_id


def clean_up(store: Store, now: datetime = NOW, policy: TidyRun = POLICY) -> list[Verdict]:
    scratch, tracker = Settings().scratch_dir, Tracker(Settings())
    return list(carry_out(judge(policy, store, scratch, tracker, now), store, scratch, tracker, now))


def behind(store: Store, ref: DatasetRef) -> set[DatasetRef]:
    """Return a dataset and all that it was made from."""
    found = {ref}
    for stage, fingerprint in store.get(ref).manifest.inputs.items():
        found |= behind(store, DatasetRef(store_url=store.url, stage=stage, fingerprint=fingerprint))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_what_is_needed_is_never_deleted_and_everything_else_is(seed: int, store: Store, client: MlflowClient) -> None:
    """Random datasets made from one another, of random ages; some are named by versions or by unfinished runs."""
    chance = random.Random(seed)
    made: dict[str, list[Dataset]] = {"ingest": [dataset(store, "ingest", number) for number in range(3)]}
    for stage, source in MAKES.items():
        made[stage] = [
            dataset(store, stage, number, **{source: chance.choice(made[source]).ref.fingerprint})
            for number in range(4)
        ]
    everything = {each.ref for datasets in made.values() for each in datasets}
    for ref in sorted(everything, key=str):  # the order of a set differs from run to run
        age(Path(store.url, str(ref)), chance.choice([1, 29, 31, 400]))
    named = chance.sample(sorted(everything, key=str), 3)
    version(client, **{named[0].stage: named[0].fingerprint})
    version(client, run_id=training(client, named[1].fingerprint, ended_days_ago=500))
    training(client, named[2].fingerprint, ended_days_ago=None)
    needed = set().union(*(behind(store, ref) for ref in named))
    young = {ref for ref in everything if NOW.timestamp() - Path(store.url, str(ref)).stat().st_mtime < 30 * 86_400}
    clean_up(store)
    left = {ref for ref in everything if store.find(ref.stage, ref.fingerprint)}
    assert left == needed | young
    assert needed - young, "nothing old is needed; the test shows nothing"
    assert everything - left, "nothing was deleted; the test shows nothing"
    assert all(Path(store.url, str(ref)).exists() == (ref in left) for ref in everything)


def test_a_dataset_that_a_run_reuses_is_not_old(store: Store) -> None:
    ref = dataset(store, "ingest").ref
    age(Path(store.url), 100)
    verdicts = judge(POLICY, store, Settings().scratch_dir, Tracker(Settings()), NOW)
    assert [verdict.delete for verdict in verdicts] == [True]
    store.mark_used(ref)
    assert list(carry_out(verdicts, store, Settings().scratch_dir, Tracker(Settings()), NOW)) == []
    assert clean_up(store) == []
    assert store.get(ref)


def test_what_killed_runs_left(store: Store, client: MlflowClient) -> None:
    kept = dataset(store, "ingest")
    folders = {
        "loser": Path(kept.url, "0123456789ab"),
        "killed": Path(store.url, "train", "a" * 20, "0123456789ab"),
        "recent": Path(store.url, "train", "b" * 20, "0123456789ab"),
        "running": Path(store.url, "train", "c" * 20, "0123456789ab"),
        "not ours": Path(store.url, "mlflow-artifacts", "sentiment", "0123456789ab"),
    }
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        (folder / "part-00000.parquet").write_bytes(b"half")
        age(folder, 1 if name == "recent" else 100)
    training(client, "c" * 20, ended_days_ago=None)
    assert {verdict.kind for verdict in clean_up(store)} == {"unfinished files"}
    assert [name for name, folder in folders.items() if folder.exists()] == ["recent", "running", "not ours"]
    assert not (folders["killed"].parent).exists()
    assert store.get(kept.ref)


def test_scores_checkpoints_and_runs_have_their_own_days(store: Store, client: MlflowClient) -> None:
    scores = Path(store.url, "scores/scores/version=1/date=2026-01-01")
    log = Path(store.url, "scores/_log/key/receipts")
    for folder in (scores, log):
        folder.mkdir(parents=True)
        (folder / "a").write_bytes(b"x")
        age(folder, 300)
    scratch = Settings().scratch_dir
    scratch.mkdir()
    live, old = "d" * 20, "e" * 20
    names = [f"train-{live}-first", f"train-{old}-pretraining", f"train-{old}-second"]
    for name in (*(f"{name}.safetensors" for name in names), "notes"):
        (scratch / name).write_bytes(b"x" * 1000)
    age(scratch, 100)
    training(client, live, ended_days_ago=None)
    runs = [training(client, old, ended_days_ago=days) for days in (179, 181)]
    deleted = clean_up(store)
    assert {path.name for path in scratch.iterdir()} == {f"train-{live}-first.safetensors", "notes"}
    assert sum(verdict.bytes or 0 for verdict in deleted) == 2000
    assert [client.get_run(run).info.lifecycle_stage for run in runs] == ["active", "deleted"]
    assert scores.exists()
    clean_up(store, policy=TidyRun(dry_run=False, score_days=299))
    assert not scores.exists()
    assert (log / "a").exists()  # who knows what has been scored


def test_what_scoring_left_goes_and_what_it_needs_stays(
    store: Store, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ScoreTable(f"{store.url}/scores", "k")

    def work(shard: str, *, publish: bool) -> Receipt | None:
        with monkeypatch.context() as patch, table.claim(shard) as claim, table.staging(shard, claim) as staging:
            pl.DataFrame({"x": [1, 2]}).write_parquet(staging.file("a.parquet"))
            if not publish:
                patch.setattr(ScoreTable, "_publish", lambda *_: None)
            return table.commit(shard, claim, staging, {}, "version=1/date=2026-01-01")

    work("done", publish=True)
    work("unpublished", publish=False)
    with table.claim("open"):  # a worker that was killed: nothing says that its shard is done
        folder = Path(table.url, "_staged/k/open-000001")
        folder.mkdir(parents=True)
        (folder / "half.parquet").write_bytes(b"half")
    export = Path(table.url, "_staged/csv-0123456789ab")
    export.mkdir()
    (export / "rows.csv").write_bytes(b"half")
    assert clean_up(store) == []
    age(Path(table.url), 9)
    deleted = {verdict.name: verdict.kind for verdict in clean_up(store)}
    assert deleted == {
        "scores/_staged/k/open-000001": "unfinished files",
        "scores/_staged/k/unpublished-000001": "unfinished files",
        "scores/_staged/csv-0123456789ab/rows.csv": "unfinished files",
        "scores/_log/k/claims/done": "claims",
        "scores/_log/k/claims/unpublished": "claims",
    }
    assert not Path(table.url, "_staged").exists()
    rows = [len(pl.read_parquet(path)) for path in Path(table.url, "scores").rglob("*.parquet")]
    assert rows == [2, 2]  # those that nobody had come to publish among them
    assert table.done() == {"done", "unpublished"}
    assert [path.name for path in Path(table.url, "_log/k/claims").iterdir()] == ["open"]


def test_old_rows_of_a_delta_table_go(store: Store, client: MlflowClient) -> None:
    deltalake = pytest.importorskip("deltalake")
    url = f"{store.url}/scores/delta"
    days = [(NOW - timedelta(days=ago)).date() for ago in (400, 10)]
    for day in days:
        rows = pl.DataFrame({"row_id": ["a"], "version": ["3"], "date": [day]})
        deltalake.write_deltalake(url, rows, mode="append", partition_by=["version", "date"])
    (deleted,) = clean_up(store)
    assert (deleted.kind, deleted.name) == ("Delta rows", f"scores/delta/version=3/date={days[0]}")
    assert [row["date"] for row in deltalake.DeltaTable(url).to_pyarrow_table().to_pylist()] == [days[1]]
    assert clean_up(store) == []
    assert len(list(Path(url).rglob("*.parquet"))) == 2  # who reads an older version of the table may need them
    (vacuumed,) = clean_up(store, policy=POLICY.model_copy(update={"unfinished_days": 0.0}))
    assert (vacuumed.kind, vacuumed.name) == ("unfinished files", "scores/delta")
    assert len(list(Path(url).rglob("*.parquet"))) == 1


def test_an_object_store(bucket: str, settings_in: Path, client: MlflowClient) -> None:
    store = Store(bucket)
    reviews = dataset(store, "ingest")
    needed = dataset(store, "clean", ingest=reviews.ref.fingerprint)
    other = dataset(store, "clean", 1, ingest=reviews.ref.fingerprint)
    version(client, clean=needed.ref.fingerprint)
    assert clean_up(store) == []
    later = NOW + timedelta(days=31)
    assert [verdict.name for verdict in clean_up(store, later)] == [str(other.ref)]
    assert store.listing(str(other.ref)) == []
    assert store.get(reviews.ref)
    assert store.get(needed.ref)


@pytest.mark.parametrize("deletions", [1, 2, 3])
def test_a_killed_clean_up_leaves_nothing_readable_in_part(deletions: int, store: Store) -> None:
    made = dataset(store, "ingest")
    age(Path(store.url), 100)
    program = f"""
import os, signal
from datetime import UTC, datetime
import obstore
from sentiment_model.config import TidyRun
from sentiment_model.upkeep.retention import carry_out, judge
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import Store
from sentiment_model.registry.tracking import Tracker
delete, left = obstore.delete, [{deletions}]
def delete_some(*arguments):
    delete(*arguments)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
obstore.delete = delete_some
settings, now = Settings(), datetime.now(UTC)
store, tracker = Store(settings.store_url), Tracker(settings)
verdicts = judge(TidyRun(), store, settings.scratch_dir, tracker, now)
list(carry_out(verdicts, store, settings.scratch_dir, tracker, now))
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(Path(made.url).rglob("*.parquet"))) == 4 - deletions
    assert not Path(made.url, MANIFEST).exists()
    assert store.find("ingest", made.ref.fingerprint) is None
    assert [verdict.kind for verdict in clean_up(store)] == ["unfinished files"]
    assert not Path(made.url).exists()
    assert dataset(store, "ingest").ref == made.ref


def test_a_damaged_manifest_stops_the_clean_up(store: Store) -> None:
    made = dataset(store, "ingest")
    Path(made.url, MANIFEST).write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        clean_up(store)


def test_the_flow_deletes_nothing_unless_told(store: Store, prefect_server: None) -> None:
    made = dataset(store, "ingest")
    age(Path(store.url), 100)
    (verdict,) = tidy(TidyRun())
    assert (verdict.name, verdict.delete) == (str(made.ref), True)
    assert store.get(made.ref)
    artifact = newest_artifact("tidy")
    assert str(artifact.description).startswith("Would delete 1 of 1 things, 0.0 MB in all")
    assert str(made.ref) in str(artifact.data)
    assert run_cli(TidyRun, tidy, ["--no-dry-run"]) == 0
    assert store.find("ingest", made.ref.fingerprint) is None


def test_a_reused_stage_is_marked_as_used(store: Store, prefect_server: None) -> None:
    from prefect import flow

    from tasks._stage import run_stage

    @flow(name="one stage")
    def run() -> DatasetRef:
        return run_stage(Stage("ingest", 1), store.url, {}, {}, write_rows, timeout_seconds=60)

    ref = run()
    age(Path(store.url), 100)
    assert run() == ref
    assert clean_up(store) == []
    assert store.get(ref)
    assert time.time() - Path(store.url, str(ref), "_used").stat().st_mtime < 60
