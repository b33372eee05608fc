"""Bulk scoring beyond one shard: cutting, engines, exports, drift, and what the flow makes of them."""

import json
import os
import platform
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import psutil
import pytest
from bulk import ArenaCounter, prepare, published_rows, run_on, score_into
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import Run
from polars.testing import assert_frame_equal
from pydantic import ValidationError
from servers import newest_artifact_of_a_flow
from tiny import tiny_bundle

import flows.score
from flows.score import _raising, score
from sentiment_model.bundle import Predictor
from sentiment_model.config import DriftConfig, IngestConfig
from sentiment_model.drift import EDGES, add, drift, histograms
from sentiment_model.engines import LocalEngine, ShardWorker, WorkerLostError, read_bundle, score_on_ray
from sentiment_model.errors import QualityError, ScoringError, StoreError
from sentiment_model.ingest import write_reviews
from sentiment_model.score_table import Receipt, ScoreTable
from sentiment_model.scoring_report import ScoringSummary, _failed
from sentiment_model.settings import Settings
from sentiment_model.shards import Shard
from sentiment_model.store import DatasetWriter
from sentiment_model.tracking import FLOW_RUN_TAG, Tracker, TrainingRunLog, git_commit

WORDS = ["a", "film", "that", "is", "good", "bad", "great", "awful", ",", ".", "not"]


def reviews(rows: int, start: int = 0) -> pl.DataFrame:
    texts = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 3 + i % 11)) for i in range(start, start + rows)]
    return pl.DataFrame({"id": range(start, start + rows), "text": texts})


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    reviews(700).write_parquet(folder / "a.parquet", row_group_size=100)
    reviews(300, 700).with_columns(pad=pl.lit("x" * 3000)).write_ndjson(folder / "b.jsonl")
    reviews(20, 1000).write_csv(folder / "c.csv")
    return folder


class TestCutting:
    @settings(max_examples=12, deadline=None)
    @given(shard_rows=st.integers(1, 900), batch_rows=st.integers(1, 400))
    def test_every_row_is_in_one_shard(
        self, tmp_path_factory: pytest.TempPathFactory, predictor: Predictor, shard_rows: int, batch_rows: int
    ) -> None:
        tmp_path = tmp_path_factory.mktemp("cut")
        shard_rows = max(shard_rows, 60)  # hundreds of shards take long, and are no other case
        folder = tmp_path / "in"
        folder.mkdir()
        reviews(250).write_parquet(folder / "a.parquet", row_group_size=50)
        reviews(150, 250).with_columns(pad=pl.lit("x" * 2000)).write_ndjson(folder / "b.jsonl")
        (folder / "c.csv").write_text("id,text\n400,good\n401,\n")
        run = run_on(folder, shard_rows=shard_rows, batch_rows=batch_rows)
        scored = score_into(tmp_path / "table", predictor, run)
        assert sorted(int(row) for row in scored.rows()["id"]) == list(range(401))
        assert scored.rows("quarantine").select("file", "row").rows() == [("c.csv", 2)]
        _, again = prepare(tmp_path / "table", predictor, run)
        assert [shard.id for shard in again] == [receipt.shard for receipt in scored.receipts]

    def test_shards_are_bounded_and_named(self, inbox: Path, tmp_path: Path, predictor: Predictor) -> None:
        run = run_on(inbox, shard_rows=200)
        scored = score_into(tmp_path / "table", predictor, run)
        assert max(receipt.counts["rows_in"] for receipt in scored.receipts) == 200
        _, shards = prepare(tmp_path / "table", predictor, run)
        assert [shard.name for shard in shards] == [
            "a.parquet rows 1 to 200",
            "a.parquet rows 201 to 400",
            "a.parquet rows 401 to 600",
            "a.parquet rows 601 to 700",
            "b.jsonl part 1 of 2",
            "b.jsonl part 2 of 2",
            "b.jsonl unreadable rows",
            "c.csv",
        ]
        rows = scored.rows().filter(source_file="b.jsonl")
        assert rows["source_row"].sort().to_list() == list(range(1, 301))

    def test_a_cut_file_gives_the_same_as_a_whole_one(self, inbox: Path, tmp_path: Path, predictor: Predictor) -> None:
        def rows(shard_rows: int) -> pl.DataFrame:
            scored = score_into(tmp_path / str(shard_rows), predictor, run_on(inbox, shard_rows=shard_rows))
            return scored.rows().drop("scored_at").sort("row_id")

        assert_frame_equal(rows(120), rows(100_000), abs_tol=1e-6, check_column_order=False)


def test_readers_find_the_table_without_tricks(inbox: Path, tmp_path: Path, predictor: Predictor) -> None:
    (inbox / "b.jsonl").unlink()
    (inbox / "c.csv").unlink()
    score_into(tmp_path / "table", predictor, run_on(inbox, shard_rows=200))
    pattern = f"{tmp_path}/table/scores/**/*.parquet"
    count = duckdb.sql(f"SELECT count(*), count(DISTINCT row_id), min(version) FROM '{pattern}'").fetchall()
    assert count == [(700, 700, 7)]
    assert len(pd.read_parquet(tmp_path / "table" / "scores")) == 700
    assert pl.scan_parquet(pattern, hive_partitioning=True).select(pl.len()).collect().item() == 700
    first = next((tmp_path / "table" / "scores").rglob("*.parquet"))
    assert pl.read_parquet_metadata(first)["model_version"] == "7"


@pytest.fixture
def engine(inbox: Path, tmp_path: Path, predictor: Predictor) -> Iterator[LocalEngine]:
    tiny_bundle(tmp_path / "bundle")
    job, _ = prepare(tmp_path / "table", predictor, run_on(inbox, shard_rows=100))
    started = LocalEngine(partial(ShardWorker, job, "cpu", read_bundle(tmp_path / "bundle"), None), 1)
    yield started
    started.close()


def test_a_killed_worker_is_replaced(engine: LocalEngine, inbox: Path, tmp_path: Path, predictor: Predictor) -> None:
    _, shards = prepare(tmp_path / "table", predictor, run_on(inbox, shard_rows=100))
    first = engine.score(shards[0])
    (worker,) = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    worker.send_signal(signal.SIGSTOP)  # in the middle of the shard, for as long as it takes to kill it
    threading.Timer(0.5, worker.kill).start()
    with pytest.raises(WorkerLostError):
        engine.score(shards[1])
    receipts = [engine.score(shard) for shard in shards]
    assert receipts[0].model_dump_json() == first.model_dump_json()
    assert len(published_rows(tmp_path / "table")) == 1020


def test_a_worker_that_starts_while_another_is_killed_does_not_outlive_the_pool(
    inbox: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bundle(tmp_path / "bundle")
    job, shards = prepare(tmp_path / "table", predictor, run_on(inbox, shard_rows=100))
    engine = LocalEngine(partial(ShardWorker, job, "cpu", read_bundle(tmp_path / "bundle"), None), 2)

    def workers() -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]

    before = workers()
    engine.score(shards[0])
    (first,) = (worker for worker in workers() if worker not in before)
    first.send_signal(signal.SIGSTOP)  # busy, so that the next but one shard needs a second worker
    start = SpawnProcess.start

    def start_slowly(process: SpawnProcess) -> None:
        start(process)
        first.kill()
        time.sleep(1)  # for the pool to notice, and to end the workers that it knows

    def score(shard: Shard) -> str:
        try:
            engine.score(shard)
        except WorkerLostError:
            return "lost"
        return "scored"

    with ThreadPoolExecutor(2) as threads:
        busy = threads.submit(score, shards[1])
        time.sleep(1)
        monkeypatch.setattr(SpawnProcess, "start", start_slowly)
        late = threads.submit(score, shards[2])
        assert (busy.result(timeout=60), late.result(timeout=60)) == ("lost", "lost")
    monkeypatch.setattr(SpawnProcess, "start", start)
    receipts = [engine.score(shard) for shard in shards]
    started = [worker for worker in workers() if worker not in before]
    engine.close()
    _, alive = psutil.wait_procs(started, timeout=20)
    for worker in alive:
        worker.kill()
    assert alive == []
    assert len(receipts) == len(shards)
    assert len(published_rows(tmp_path / "table")) == 1020


def test_workers_end_with_their_parent(tmp_path: Path, inbox: Path) -> None:
    tiny_bundle(tmp_path / "bundle")
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from functools import partial
from pathlib import Path
from bulk import prepare
from sentiment_model.bundle import Predictor
from sentiment_model.config import ReviewFiles, ScoringRun
from sentiment_model.engines import LocalEngine, ShardWorker, read_bundle
import os
bundle = Path({str(tmp_path / "bundle")!r})
if __name__ == "__main__":
    run = ScoringRun(files=ReviewFiles(path={str(inbox)!r}))
    job, shards = prepare({str(tmp_path / "table")!r}, Predictor.load(bundle), run)
    engine = LocalEngine(partial(ShardWorker, job, "cpu", read_bundle(bundle), None), 1)
    engine.score(shards[0])
    os.kill(os.getpid(), 9)
"""
    (tmp_path / "parent.py").write_text(script)
    parent = psutil.Popen([os.sys.executable, str(tmp_path / "parent.py")])
    children: list[psutil.Process] = []
    while parent.poll() is None:
        children = parent.children() or children
        time.sleep(0.05)
    assert children
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_threads_of_a_worker_share_the_memory_that_they_free() -> None:
    with closing(LocalEngine(ArenaCounter, 1)) as engine:
        assert engine.score(None) == 1


@pytest.mark.slow
def test_ray_gives_the_same_even_if_a_worker_is_killed(inbox: Path, tmp_path: Path, predictor: Predictor) -> None:
    ray = pytest.importorskip("ray")
    tiny_bundle(tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    run = run_on(inbox, shard_rows=50)
    local = score_into(tmp_path / "local", predictor, run).rows()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        job, shards = prepare(tmp_path / "ray", predictor, run)
        receipts: list[Receipt] = []

        def on_done(receipt: Receipt) -> None:
            receipts.append(receipt)
            if len(receipts) == 3:
                workers = [
                    p
                    for p in psutil.process_iter(["cmdline"])
                    if "ray::ShardWorker" in " ".join(p.info["cmdline"] or [])
                ]
                assert len(workers) == 2
                assert all(worker.environ()["MALLOC_ARENA_MAX"] == "1" for worker in workers)
                workers[0].kill()

        assert score_on_ray(job, "cpu", bundle, None, shards, 2, on_done) == {}
    finally:
        ray.shutdown()
    assert len(receipts) == len(shards)
    frames = [pl.read_parquet(path, glob=False) for path in (tmp_path / "ray" / "scores").rglob("*.parquet")]
    on_ray = pl.concat(frames, how="diagonal_relaxed")
    assert_frame_equal(
        on_ray.drop("scored_at"), local.drop("scored_at"), check_row_order=False, check_column_order=False, abs_tol=1e-6
    )


@pytest.mark.parametrize("export", [{"csv": True}, {"to_label": 5}])
def test_exports_that_a_delta_table_does_not_have_are_refused(inbox: Path, export: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="query the delta table instead"):
        run_on(inbox, output_format="delta", **export)


def test_a_delta_table_holds_each_row_once(inbox: Path, tmp_path: Path, predictor: Predictor) -> None:
    deltalake = pytest.importorskip("deltalake")
    run = run_on(inbox, shard_rows=200, output_format="delta")
    scored = score_into(tmp_path / "table", predictor, run)
    for path in (tmp_path / "table" / "_log").rglob("receipts/*.json"):
        path.unlink()  # as if every worker had died after its rows were in the table, and before it could say so
    score_into(tmp_path / "table", predictor, run)
    table = deltalake.DeltaTable(str(tmp_path / "table" / "delta"))
    rows = pl.from_arrow(table.to_pyarrow_table())
    assert isinstance(rows, pl.DataFrame)
    assert rows["row_id"].n_unique() == len(rows) == scored.counts.scored == 1020
    assert set(rows["version"]) == {"7"}
    assert published_rows(tmp_path / "table") == []


class TestDrift:
    def scores(self, probability: list[float], tokens: int = 100, unknown: int = 1) -> pl.DataFrame:
        return pl.DataFrame({"probability": probability}).with_columns(n_tokens=tokens, n_unknown=unknown)

    def test_the_same_is_no_drift_and_the_opposite_is_the_largest(self) -> None:
        low = histograms(self.scores([0.01 * i for i in range(45)]))
        high = histograms(self.scores([0.55 + 0.01 * i for i in range(45)]))
        same = drift(low, add(low, low))
        assert all(far.psi == pytest.approx(0) and far.ks == pytest.approx(0) for far in same.values())
        far = drift(low, high)
        assert far["probability"].ks == pytest.approx(1.0)
        assert far["probability"].psi > 5
        assert far["tokens"].psi == pytest.approx(0)

    def test_psi_is_that_of_the_formula(self) -> None:
        reference = {name: tuple([50, 50] + [0] * (len(edges) - 1)) for name, edges in EDGES.items()}
        current = {name: tuple([80, 20] + [0] * (len(edges) - 1)) for name, edges in EDGES.items()}
        # (0.8 - 0.5) ln(0.8 / 0.5) + (0.2 - 0.5) ln(0.2 / 0.5)
        assert drift(reference, current)["tokens"].psi == pytest.approx(0.41589, abs=1e-4)
        assert drift(reference, current)["tokens"].ks == pytest.approx(0.3)
        assert drift({}, current) == {} == drift(reference, {})


@pytest.fixture
def champion(settings_in: Path, prefect_server: None) -> Tracker:
    """A tiny champion, and a challenger that answers otherwise."""
    tracker = Tracker(Settings())
    for seed, promote in ((0, True), (3, False)):
        validated = pl.DataFrame({"probability": [0.5] * 200}).with_columns(n_tokens=3000, n_unknown=2000)
        reference = histograms(validated)
        tiny_bundle(settings_in / f"bundle{seed}", seed=seed, reference=reference)
        run_id = tracker.start_run("sentiment", f"fp{seed}", name="test", params={}, tags={}).run_id
        tracker.register(settings_in / f"bundle{seed}", "sentiment", run_id, promote=promote, tags={})
    return tracker


def scorings(tracker: Tracker) -> list[Run]:
    """Return the MLflow runs of scorings."""
    experiment = tracker._client.get_experiment_by_name("sentiment-scoring")
    assert experiment
    return list(tracker._client.search_runs([experiment.experiment_id]))


def test_the_flow_compares_exports_and_notices_drift(champion: Tracker, inbox: Path, predictor: Predictor) -> None:
    middle = predictor.predict(reviews(1020)["text"])["probability"].median()
    run = run_on(
        inbox,
        threshold=middle,
        shard_rows=200,
        shadow_uri="models:/sentiment@challenger",
        csv=True,
        to_label=10,
        uncertain_margin=0.02,
        drift=DriftConfig(min_rows=100),
    )
    summary: ScoringSummary = score(run)
    assert (summary.scored, summary.shards, summary.model_version, summary.shadow_version) == (1020, 8, "1", "2")
    rows = pl.concat([pl.read_parquet(path, glob=False) for path in summary.scores], how="diagonal_relaxed")
    disagree = (rows["label"] != rows["shadow_label"]).mean()
    assert summary.disagreement_share == pytest.approx(disagree)
    assert 0 < disagree <= 1
    assert summary.uncertain_share == pytest.approx((rows["probability"] - middle).abs().lt(0.02).mean())
    assert "tokens" in summary.drifted
    assert summary.csv
    assert len(pd.read_csv(summary.csv)) == 1020
    assert summary.to_label
    chosen = pl.read_csv(summary.to_label)
    nearest = (rows["probability"] - middle).abs().sort()[:10]
    assert (chosen["probability"] - middle).abs().sort().to_list() == pytest.approx(nearest.to_list())

    (logged,) = scorings(champion)
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["scored"] == 1020
    assert logged.data.metrics["psi_tokens"] == pytest.approx(summary.drift["tokens"].psi)
    assert logged.data.params["shard_rows"] == "200"
    assert newest_artifact_of_a_flow("scoring-progress") == 100.0

    metadata = pl.read_parquet_metadata(summary.scores[0])
    assert metadata["model_uri"] == "models:/sentiment@champion"
    assert metadata["prefect_flow_run"] == logged.data.tags[FLOW_RUN_TAG]
    assert metadata["mlflow_run"] == logged.info.run_id
    assert metadata["code_version"] == git_commit()

    with pytest.raises(QualityError, match=r"differ from those .* tokens \(PSI"):
        score(run.model_copy(update={"drift": DriftConfig(min_rows=100, action="fail"), "rescore": "again"}))
    assert sorted(run.info.status for run in scorings(champion)) == ["FAILED", "FINISHED"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("e.csv", "body\nno column named text\n", "body", marks=pytest.mark.slow),
        ("e.parquet", "PAR1 and no more", "is damaged"),
    ],
)
def test_a_broken_file_fails_alone_and_the_next_run_does_the_rest(
    name: str, content: str, reason: str, champion: Tracker, inbox: Path
) -> None:
    (inbox / name).write_text(content)
    run = run_on(inbox, shard_rows=200)
    with pytest.raises(ScoringError, match=r"1 of 8 shards failed; the other 7 are published.*c\.csv and 1 more: "):
        score(run)
    text = newest_artifact_of_a_flow("scores")
    assert text.startswith("# 1 of 8 shards failed; what the others labelled is published\n")
    assert "| Rows labelled | 1,000 |" in text
    assert re.search(rf"^- c\.csv and 1 more: .*{reason}", text, flags=re.MULTILINE)
    (logged,) = scorings(champion)
    assert logged.info.status == "FAILED"
    assert (logged.data.metrics["scored"], logged.data.metrics["failed_shards"]) == (1000, 1)
    with pytest.raises(ScoringError, match=rf"1 of 2 shards failed; the other 1 are published.*{name}: .*{reason}"):
        score(run)  # one bad file does not keep the one from being scored that it was put together with
    assert len(published_rows(Path(Settings().store_url) / "scores")) == 1020
    (inbox / name).unlink()
    summary: ScoringSummary = score(run)
    assert summary.reused
    assert summary.scored == 1020


def test_what_fails_after_shards_failed_does_not_hide_them() -> None:
    with (
        pytest.raises(ScoringError, match=r"1 of 2 shards failed.*a\.csv: no text") as raised,
        _raising({"a.csv": "no text"}, {"1", "2"}),
    ):
        raise StoreError("the disk is gone")
    assert isinstance(raised.value.__cause__, StoreError)
    with pytest.raises(StoreError, match="gone"), _raising({}, {"1", "2"}):
        raise StoreError("the disk is gone")


def test_a_report_of_failures_is_short_and_keeps_its_form() -> None:
    lines = _failed({f"{i}.csv": "two\nlines of *text*" for i in range(102)}).splitlines()
    assert lines[:3] == ["## What failed, and is left to the next run", "", r"- 0.csv: two lines of \*text\*"]
    assert lines[-3:] == [r"- 99.csv: two lines of \*text\*", "- and 2 more", ""]


def test_a_small_file_that_is_taken_away_does_not_block_the_others(champion: Tracker, inbox: Path) -> None:
    (inbox / "e.csv").write_text("body\nno column named text\n")
    run = run_on(inbox, shard_rows=200)
    with pytest.raises(ScoringError, match=r"c\.csv and 1 more"):
        score(run)
    (inbox / "e.csv").unlink()
    summary: ScoringSummary = score(run)
    assert (summary.shards, summary.new_files, summary.scored) == (1, 1, 20)


@pytest.mark.timeout(120)
def test_a_run_that_died_between_cancelling_and_planning_anew_is_completed(
    champion: Tracker, inbox: Path, settings_in: Path
) -> None:
    (inbox / "e.csv").write_text("body\nno column named text\n")
    run = run_on(inbox, shard_rows=200)
    with pytest.raises(ScoringError, match=r"c\.csv and 1 more"):
        score(run)
    (log,) = (settings_in / "store" / "scores" / "_log").iterdir()
    table = ScoreTable(str(settings_in / "store" / "scores"), log.name)
    (group,) = (shard for plan in table.plans() for shard in plan.shards if len(shard.pieces) > 1)
    assert table.cancel(group.id)
    (inbox / "e.csv").unlink()
    summary: ScoringSummary = score(run)
    assert (summary.shards, summary.scored) == (1, 20)
    assert len(table.plans()) == 2


@pytest.mark.slow
def test_a_run_has_the_rows_of_a_shard_that_another_run_cancels(
    champion: Tracker, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews(10, 1020).write_csv(inbox / "d.csv")
    run = run_on(inbox, shard_rows=200)
    start = flows.score.start_mlflow_run  # what a run does next when it has planned

    def overtaken(*arguments: Any) -> TrainingRunLog:
        monkeypatch.setattr(flows.score, "start_mlflow_run", start)
        other: ScoringSummary = score(run)  # finds small files that were put together and are not in work yet
        assert (other.scored, other.shards) == (1030, 9)
        return start(*arguments)

    monkeypatch.setattr(flows.score, "start_mlflow_run", overtaken)
    summary: ScoringSummary = score(run)
    assert summary.scored == 1030
    rows = pl.concat([pl.read_parquet(path, glob=False) for path in summary.scores], how="diagonal_relaxed")
    assert sorted(rows["id"].cast(pl.Int64)) == list(range(1030))


def test_labels_come_back_as_a_source(inbox: Path, tmp_path: Path, champion: Tracker) -> None:
    summary: ScoringSummary = score(run_on(inbox, to_label=5))
    table = pl.read_csv(summary.to_label or "", infer_schema=False)
    labelled = table.with_columns(label=pl.Series(["pos", "neg", "pos", None, None]))
    labelled.write_csv(tmp_path / "labelled.csv")
    columns = {"text": "text", "label": "label", "review_id": "row_id"}
    config = IngestConfig(source="files", path=str(tmp_path / "labelled.csv"), columns=columns)
    (tmp_path / "out").mkdir()
    counts = write_reviews(DatasetWriter(tmp_path / "out"), config)
    assert counts["labels"] == {"positive": 2, "negative": 1, "unlabelled": 2}


def test_csv_is_safe_to_open(tmp_path: Path, predictor: Predictor, settings_in: Path) -> None:
    from sentiment_model.exports import write_csv

    (tmp_path / "in").mkdir()
    texts = [
        "=cmd|' /C calc'!A0 good",
        "+1 good",
        "-1 good",
        "@SUM(A1) good",
        "good",
        "＝1 good",
        "\tgood",
        "\n=1 good",
    ]
    frame = pl.DataFrame({"text": texts, "amount": range(-3, 5), "tags": [["a", "b"]] * 8, "raw": [b"\xff"] * 8})
    frame = frame.with_columns(pl.lit("x").alias("=1+1"), pl.lit(2).alias("@2"))
    frame.write_parquet(tmp_path / "in" / "a.parquet")
    scored = score_into(tmp_path / "table", predictor, run_on(tmp_path / "in"))
    path = write_csv(scored.table.objects, "csv/x.csv", scored.table.paths(scored.receipts))
    rows = pd.read_csv(path)
    assert list(rows["text"]) == [f"'{text}" if text != "good" else text for text in texts]
    assert list(rows["amount"]) == list(range(-3, 5))
    assert {"'=1+1", "'@2"} < set(rows.columns)
    assert json.loads(rows["tags"][0]) == ["a", "b"]
