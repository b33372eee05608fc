"""Exactly once on an object store that stores without saying so, says so without storing, or is asked twice."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from bulk import prepare, run_on

from benchmarks.proxy import FAULTS, Fault, FaultyStore, faulty_store
from sentiment_model.models.bundle import Predictor
from sentiment_model.scoring import ledger as ledger_module
from sentiment_model.scoring.counts import total
from sentiment_model.scoring.label import score_shard
from sentiment_model.scoring.ledger import Ledger
from sentiment_model.scoring.table import Plan, ScoreTable
from sentiment_model.store.objects import Objects

ROWS, QUARANTINED = 720, 1
_FAST = {("unheard", "parquet"), ("lose", "delta")}
WRITTEN = {"plan", "claim", "receipt", "manifest", "checkpoint", "staged scores", "published scores"}


@pytest.fixture(scope="module")
def store() -> Iterator[FaultyStore]:
    """A real S3 server behind a proxy in which requests go wrong."""
    with faulty_store("faults") as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """Files that make shards of each kind: small ones together, a large text file, a large Parquet file."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(2):
        pl.DataFrame({"text": [f"good film {i}" for i in range(10)]}).write_csv(folder / f"small{number}.csv")
    rows = pl.DataFrame({"id": range(400), "text": ["not a bad film"] * 400})
    with (folder / "large.jsonl").open("w") as file:
        rows[:300].with_columns(pad=pl.lit("x" * 900)).write_ndjson(file)
        file.write('{"text": "cut o')
    rows.write_parquet(folder / "large.parquet", row_group_size=100)
    return folder


@pytest.mark.parametrize(
    ("fault", "output_format"),
    [
        pytest.param(fault, form, marks=() if (fault, form) in _FAST else pytest.mark.slow)
        for fault in FAULTS
        for form in ("parquet", "delta")
        if fault != "time out"  # half a minute a request
    ],
)
def test_each_row_is_there_once(
    fault: Fault,
    output_format: str,
    store: FaultyStore,
    inbox: Path,
    tmp_path: Path,
    predictor: Predictor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if output_format == "delta":
        pytest.importorskip("deltalake")
    monkeypatch.setattr(ledger_module, "PLANS_PER_CHECKPOINT", 1)
    url = f"s3://faults/{tmp_path.name}"
    run = run_on(inbox, shard_rows=100, output_format=output_format)
    with store.faults(fault):
        job, shards = prepare(url, predictor, run)
        table = ScoreTable(job.table, job.key)
        assert table.append(Plan(shards=shards), 0)
        receipts = [score_shard(job, shard, predictor, None) for shard in shards]
        ledger = Ledger(table)
        table.recover()
        ledger.write_manifest("run")
        ledger.write_checkpoint()
    played = {kind for (method, kind, _) in store.happened if method == "PUT"}
    assert played >= (WRITTEN - {"staged scores", "published scores"} if output_format == "delta" else WRITTEN)

    objects = Objects(url)
    if output_format == "delta":
        import deltalake

        rows = pl.DataFrame(pl.from_arrow(deltalake.DeltaTable(f"{url}/delta").to_pyarrow_table()))
    else:
        paths = [f"{url}/{path}" for path, *_ in objects.list("scores")]
        rows = pl.concat([pl.read_parquet(path) for path in paths], how="diagonal_relaxed")
    assert (len(rows), rows["row_id"].n_unique()) == (ROWS, ROWS)
    (quarantine,) = [path for path, *_ in objects.list("quarantine")]
    assert pl.read_parquet(f"{url}/{quarantine}").height == QUARANTINED
    assert list(objects.list("_staged")) == []
    assert (total(receipts).scored, total(receipts).quarantined) == (ROWS, QUARANTINED)

    again = Ledger(table)  # from the checkpoint
    assert again.unplanned(job.sources) == again.pending(job.sources) == []
    assert total(again.scored(job.sources)) == total(receipts)
    manifest = table.manifest(0)
    assert manifest
    assert table.manifest(1) is None
    assert sorted(file.path for file in manifest.files) == sorted(
        path for role in ("scores", "quarantine") for path, *_ in objects.list(role)
    )


@pytest.mark.parametrize("fault", ["unheard", "lose"])
def test_who_creates_an_object_knows_its_own(fault: Fault, store: FaultyStore, tmp_path: Path) -> None:
    objects = Objects(f"s3://faults/{tmp_path.name}")
    with store.faults(fault):
        assert objects.create("_log/k/receipts/s.json", b"mine")
    assert not objects.create("_log/k/receipts/s.json", b"another's")
    assert objects.read("_log/k/receipts/s.json") == b"mine"
