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
from pathlib import Path
from shutil import rmtree
from typing import Any

import duckdb
import numpy as np
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
from servers import ROOT, newest_artifact_of_a_flow, wait_for
from tiny import tiny_bundle

import flows.score
from flows._cli import run_cli
from flows.score import _raising, score
from sentiment_model.config import DriftConfig, IngestConfig, ScoringRun
from sentiment_model.errors import QualityError, ScoringError, SourceError, StoreError
from sentiment_model.models.bundle import Predictor
from sentiment_model.models.drift import add, bins, drift, histograms
from sentiment_model.registry.git import git_commit
from sentiment_model.registry.tracking import FLOW_RUN_TAG, Tracker, TrainingRunLog
from sentiment_model.scoring.delta import append_to_delta
from sentiment_model.scoring.engines import LocalEngine, ShardWorker, WorkerLostError, read_bundle, score_on_ray
from sentiment_model.scoring.label import score_shard
from sentiment_model.scoring.planning import Inbox, Planned
from sentiment_model.scoring.report import _failed
from sentiment_model.scoring.shards import Piece, Shard, halves
from sentiment_model.scoring.summary import ScoringSummary
from sentiment_model.scoring.table import Receipt, ScoreTable, Staging
from sentiment_model.scoring.work import Work
from sentiment_model.settings import Settings
from sentiment_model.sources.ingest import write_reviews
from sentiment_model.store.datasets import DatasetWriter

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


def workers_besides(before: list[psutil.Process]) -> list[psutil.Process]:
    children = psutil.Process().children()
    return [each for each in children if "spawn_main" in " ".join(each.cmdline()) and each not in before]


def test_a_worker_that_is_killed_takes_no_other_with_it(inbox: Path, tmp_path: Path, predictor: Predictor) -> None:
    tiny_bundle(tmp_path / "bundle")
    job, shards = prepare(tmp_path / "table", predictor, run_on(inbox, shard_rows=100))
    before = workers_besides([])
    start = partial(ShardWorker, job, "cpu", read_bundle(tmp_path / "bundle"), None)
    with closing(LocalEngine(start, 2)) as engine, ThreadPoolExecutor(2) as threads:
        engine.score(shards[0])
        (first,) = workers_besides(before)
        first.send_signal(signal.SIGSTOP)
        lost = threads.submit(engine.score, shards[1])
        other = threads.submit(engine.score, shards[2])
        wait_for(lambda: len(workers_besides(before)) == 2, "a second worker", 60)
        first.kill()
        with pytest.raises(WorkerLostError, match=r"died while a\.parquet rows 101 to 200 was in work"):
            lost.result(timeout=60)
        assert other.result(timeout=60).shard == shards[2].id
        receipts = [engine.score(shard) for shard in shards]
    assert [receipt.shard for receipt in receipts] == [shard.id for shard in shards]
    assert len(published_rows(tmp_path / "table")) == 1020
    assert workers_besides(before) == []


def test_a_worker_that_hangs_is_ended(inbox: Path, tmp_path: Path, predictor: Predictor) -> None:
    tiny_bundle(tmp_path / "bundle")
    job, shards = prepare(tmp_path / "table", predictor, run_on(inbox, shard_rows=100))
    before = workers_besides([])
    start = partial(ShardWorker, job, "cpu", read_bundle(tmp_path / "bundle"), None)
    with closing(LocalEngine(start, 1, shard_seconds=20)) as engine:
        engine.score(shards[0])
        (worker,) = workers_besides(before)
        worker.send_signal(signal.SIGSTOP)
        engine._shard_seconds = 0.5
        with pytest.raises(WorkerLostError, match=r"a\.parquet rows 101 to 200 took longer than 0 s"):
            engine.score(shards[1])
        engine._shard_seconds = 60
        assert engine.score(shards[1]).shard == shards[1].id
        assert not worker.is_running()


def test_workers_end_with_their_parent(tmp_path: Path, inbox: Path) -> None:
    tiny_bundle(tmp_path / "bundle")
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from functools import partial
from pathlib import Path
from bulk import prepare
from sentiment_model.models.bundle import Predictor
from sentiment_model.config import ReviewFiles, ScoringRun
from sentiment_model.scoring.engines import LocalEngine, ShardWorker, read_bundle
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


def delta_rows(table: Path) -> pl.DataFrame:
    deltalake = pytest.importorskip("deltalake")
    rows = pl.from_arrow(deltalake.DeltaTable(str(table / "delta")).to_pyarrow_table())
    assert isinstance(rows, pl.DataFrame)
    return rows


@pytest.mark.parametrize("die_at", ["append", "receipt"])
def test_a_delta_table_holds_each_row_once(
    die_at: str, inbox: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers die before, or after, their rows are in the table; then small files are taken apart."""
    deltalake = pytest.importorskip("deltalake")
    reviews(30, 1020).write_csv(inbox / "d.csv")
    run = run_on(inbox, shard_rows=200, output_format="delta")

    class DiedError(Exception):
        pass

    def die(*_: object, **__: object) -> None:
        raise DiedError

    job, shards = prepare(tmp_path / "table", predictor, run)
    with monkeypatch.context() as patch:
        owner, name = (deltalake, "write_deltalake") if die_at == "append" else (ScoreTable, "commit")
        patch.setattr(owner, name, die)
        for shard in shards:
            if not shard.pieces[0].rejects:  # there are none
                with pytest.raises(DiedError):
                    score_shard(job, shard, predictor, None)
    table = ScoreTable(job.table, job.key)
    *single, group = shards
    assert len(group.pieces) == 2
    assert table.cancel(group.id)
    for shard in (*single, *halves(group)):
        assert score_shard(job, shard, predictor, None).outcome == "scored"
    rows = delta_rows(tmp_path / "table")
    assert sorted(rows["id"].cast(pl.Int64)) == list(range(1050))
    assert rows["row_id"].n_unique() == 1050
    assert set(rows["version"]) == {"7"}
    assert published_rows(tmp_path / "table") == []


def test_a_delta_table_holds_the_rows_of_every_version_and_re_scoring(
    inbox: Path, tmp_path: Path, predictor: Predictor
) -> None:
    pytest.importorskip("deltalake")
    for options in ({}, {"rescore": "again"}, {"threshold": 0.4}):
        for _ in range(2):
            score_into(tmp_path / "table", predictor, run_on(inbox, output_format="delta", **options))
    assert delta_rows(tmp_path / "table")["row_id"].value_counts()["count"].unique().to_list() == [3]


def test_two_workers_append_the_same_rows_once(inbox: Path, tmp_path: Path, predictor: Predictor) -> None:
    """Both have read the Delta table's log before one of them commits."""
    pytest.importorskip("deltalake")
    run = run_on(inbox, shard_rows=100_000, output_format="delta")
    score_into(tmp_path / "table", predictor, run)
    _, (shard,) = prepare(tmp_path / "table", predictor, run_on(inbox, shard_rows=100_000, rescore="again"))
    barrier = threading.Barrier(2)

    def append(number: int) -> None:
        (tmp_path / str(number)).mkdir()
        staging = Staging(tmp_path / str(number))
        rows = pl.DataFrame({"row_id": [f"{shard.pieces[0].file}-{row}" for row in range(50)]})
        rows.write_parquet(staging.file("a.parquet"))
        barrier.wait()
        append_to_delta(str(tmp_path / "table" / "delta"), "again", shard, staging, "7")

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(append, range(2)))
    assert len(delta_rows(tmp_path / "table")) == 1020 + 50


class TestDrift:
    def scores(self, probability: list[float], tokens: int = 100, unknown: int = 1) -> pl.DataFrame:
        probabilities = np.column_stack([1 - np.array(probability), probability])
        return pl.DataFrame({"probabilities": probabilities}).with_columns(n_tokens=tokens, n_unknown=unknown)

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
        reference = {name: tuple([50, 50] + [0] * (size - 2)) for name, size in bins(2).items()}
        current = {name: tuple([80, 20] + [0] * (size - 2)) for name, size in bins(2).items()}
        # (0.8 - 0.5) ln(0.8 / 0.5) + (0.2 - 0.5) ln(0.2 / 0.5)
        assert drift(reference, current)["tokens"].psi == pytest.approx(0.41589, abs=1e-4)
        assert drift(reference, current)["tokens"].ks == pytest.approx(0.3)
        assert drift({}, current) == {} == drift(reference, {})


@pytest.fixture
def champion(settings_in: Path, prefect_server: None) -> Tracker:
    """A tiny champion, and a challenger that answers otherwise."""
    tracker = Tracker(Settings())
    for seed, promote in ((0, True), (3, False)):
        validated = pl.DataFrame({"probabilities": np.full((200, 2), 0.5)})
        reference = histograms(validated.with_columns(n_tokens=3000, n_unknown=2000))
        tiny_bundle(settings_in / f"bundle{seed}", seed=seed, reference=reference)
        run_id = tracker.start_run("sentiment", f"fp{seed}", name="test", params={}, tags={}).run_id
        tracker.registry.register(settings_in / f"bundle{seed}", "sentiment", run_id, promote=promote, tags={})
    return tracker


def scorings(tracker: Tracker) -> list[Run]:
    """Return the MLflow runs of scorings."""
    experiment = tracker._client.get_experiment_by_name("sentiment-scoring")
    assert experiment
    return list(tracker._client.search_runs([experiment.experiment_id]))


def test_a_run_whose_scores_are_published_does_not_fail_for_an_export(
    champion: Tracker, settings_in: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (settings_in / "in").mkdir()
    nested = [{"review": {"text": text}} for text in ("=good film", "a bad film")]
    pl.DataFrame(nested).write_ndjson(settings_in / "in" / "a.jsonl")
    pl.DataFrame({"review": [{"text": "fine"}]}).write_parquet(settings_in / "in" / "b.parquet")
    csv = settings_in / "table" / "csv"
    csv.parent.mkdir()
    csv.touch()  # where a folder is to be
    columns = {"text": "review.text"}
    run = run_on(settings_in / "in", output=str(csv.parent), columns=columns, csv=True, to_label=5)
    summary: ScoringSummary = score(run)
    assert (summary.scored, summary.csv, list(summary.unexported)) == (3, None, ["CSV"])
    assert sorted(pl.read_csv(summary.to_label or "")["text"]) == ["'=good film", "a bad film", "fine"]
    assert "Not exported: no CSV: " in " ".join(caplog.messages)
    assert "**Not exported:** no CSV: " in newest_artifact_of_a_flow("scores")
    csv.unlink()
    again: ScoringSummary = score(run)
    assert again.reused
    assert not again.unexported
    assert set(pl.read_csv(again.csv or "")["review"]) == {
        f'{{"text":"{text}"}}' for text in ("=good film", "a bad film", "fine")
    }


def test_the_flow_compares_exports_and_notices_drift(champion: Tracker, inbox: Path, predictor: Predictor) -> None:
    middle = predictor.predict(reviews(1020)["text"])["probabilities"].arr.last().median()
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
def test_a_broken_file_fails_alone_and_once(
    name: str, content: str, reason: str, champion: Tracker, inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        reviews(5, 1020 + 5 * number).write_csv(inbox / f"d{number}.csv")
    (inbox / name).write_text(content)
    run = run_on(inbox, shard_rows=200)
    # The group of six small files was cut into halves until the broken one was alone.
    with pytest.raises(ScoringError, match=rf"1 of 11 shards failed; the other 10 .* published.*{name}.*{reason}"):
        score(run)
    text = newest_artifact_of_a_flow("scores")
    assert text.startswith("# 1 of 11 shards or files failed; what the others labelled is published\n")
    assert "| Rows labelled | 1,040 |" in text
    assert re.search(rf"^- {name}: .*{reason}", text, flags=re.MULTILINE)
    (logged,) = scorings(champion)
    assert logged.info.status == "FAILED"
    assert (logged.data.metrics["scored"], logged.data.metrics["failed_shards"]) == (1040, 1)
    assert len(published_rows(Path(Settings().store_url) / "scores")) == 1040

    summary: ScoringSummary = score(run)  # an hour later, when nothing new has come
    assert (summary.reused, summary.scored, summary.shards, summary.failures) == (True, 1040, 0, {})
    assert list(summary.unusable) == [name]
    assert any(f"broken: {name}: " in message for message in caplog.messages)
    assert f"- {name}: " in newest_artifact_of_a_flow("scores")
    reviews(5, 2000).write_csv(inbox / "f.csv")  # what arrives later does not meet it again
    summary = score(run)
    assert (summary.reused, summary.scored, list(summary.unusable)) == (False, 5, [name])
    (inbox / "empty.csv").write_text("text\n")
    summary = score(run)
    assert (summary.reused, summary.scored, list(summary.unusable)) == (False, 0, [name])
    (inbox / name).unlink()
    summary = score(run)
    assert (summary.reused, summary.scored, summary.unusable) == (True, 1045, {})


def test_rows_that_cannot_be_scored_fail_the_run_that_meets_them(champion: Tracker, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.csv").write_text('text\ngood\n""\n""\n')
    with pytest.raises(QualityError, match="2 of 3 rows"):
        score(run_on(folder))
    assert score(run_on(folder)).quarantined == 2  # an inbox in which nothing new has arrived
    with pytest.raises(QualityError, match="2 of 3 rows"):
        score(run_on(folder / "a.csv"))


def test_a_file_that_cannot_be_read_now_is_left_to_another_run(champion: Tracker, inbox: Path) -> None:
    (inbox / "d.csv").symlink_to("/proc/self/mem")  # which gives an input/output error, even to root
    run = run_on(inbox, shard_rows=200)
    with pytest.raises(ScoringError, match=r"1 files cannot be read; the other 8 shards .* d\.csv: cannot read"):
        score(run)
    (inbox / "d.csv").unlink()
    reviews(10, 1020).write_csv(inbox / "d.csv")
    summary: ScoringSummary = score(run)
    assert (summary.shards, summary.scored) == (1, 10)


def work_of(folder: Path, *failures: tuple[str, Exception]) -> Work:
    work = Work(Inbox({}, {}, None), ScoreTable(str(folder), "key"), lambda _: Planned({}, {}, 0))
    for name, error in failures:
        shard, other = (Shard(name=each, pieces=(Piece(file=each, name=each),)) for each in (name, "other"))
        work.settle([shard, other], {}, {shard: error})
    return work


def test_what_fails_after_shards_failed_does_not_hide_them(tmp_path: Path) -> None:
    with (
        pytest.raises(ScoringError, match=r"1 of 2 shards failed.*a\.csv: no text") as raised,
        _raising(work_of(tmp_path, ("a.csv", SourceError("no text")))),
    ):
        raise StoreError("the disk is gone")
    assert isinstance(raised.value.__cause__, StoreError)
    work = Work(Inbox({}, {}, None), ScoreTable(str(tmp_path), "key"), lambda _: Planned({}, {}, 0))
    alone = Shard(name="a.csv", pieces=(Piece(file="a.csv", name="a.csv"),))
    work.settle([alone], {}, {alone: SourceError("a.csv is a web page")})
    assert work.failure() == "a.csv is a web page"
    with pytest.raises(StoreError, match="gone"), _raising(work_of(tmp_path)):
        raise StoreError("the disk is gone")


def test_a_report_of_failures_is_short_and_keeps_its_form() -> None:
    lines = _failed("What failed", {f"{i}.csv": "two\nlines of *text*" for i in range(102)}).splitlines()
    assert lines[:3] == ["## What failed", "", r"- 0.csv: two lines of \*text\*"]
    assert lines[-3:] == [r"- 99.csv: two lines of \*text\*", "- and 2 more", ""]


def stop_before_scoring(monkeypatch: pytest.MonkeyPatch, run: ScoringRun) -> None:
    """Let a run end, as if it were killed, when everything is planned and nothing scored."""

    class KilledError(Exception):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(flows.score, "score_shards", killed)
        with pytest.raises(KilledError):
            score(run)


def test_small_files_stay_together_when_a_run_was_killed(
    champion: Tracker, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        reviews(1, 1020 + number).write_csv(inbox / f"d{number}.csv")
    run = run_on(inbox, shard_rows=200)
    stop_before_scoring(monkeypatch, run)
    summary: ScoringSummary = score(run)
    assert (summary.shards, summary.scored) == (8, 1050)


def test_a_small_file_that_is_taken_away_does_not_block_the_others(
    champion: Tracker, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews(5, 1020).write_csv(inbox / "e.csv")
    run = run_on(inbox, shard_rows=200)
    stop_before_scoring(monkeypatch, run)
    (inbox / "e.csv").unlink()
    summary: ScoringSummary = score(run)
    assert (summary.failures, summary.scored) == ({}, 1020)


@pytest.mark.timeout(120)
def test_a_run_that_died_between_cancelling_and_planning_anew_is_completed(
    champion: Tracker, inbox: Path, settings_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews(10, 1020).write_csv(inbox / "d.csv")
    run = run_on(inbox, shard_rows=200)
    stop_before_scoring(monkeypatch, run)
    (log,) = (settings_in / "store" / "scores" / "_log").iterdir()
    table = ScoreTable(str(settings_in / "store" / "scores"), log.name)
    first = table.plan(0)
    assert first
    (group,) = (shard for shard in first.shards if len(shard.pieces) > 1)
    assert table.cancel(group.id)
    summary: ScoringSummary = score(run)
    assert (summary.shards, summary.scored) == (9, 1030)
    again = table.plan(1)
    assert again
    assert [shard.name for shard in again.shards] == ["c.csv", "d.csv"]
    assert table.plan(2) is None


def test_scores_that_were_removed_are_not_counted(champion: Tracker, inbox: Path, settings_in: Path) -> None:
    first: ScoringSummary = score(run_on(inbox))
    rmtree(settings_in / "store" / "scores" / "scores" / "version=1")
    again: ScoringSummary = score(run_on(inbox, csv=True, to_label=5))
    assert (first.scored, first.removed) == (1020, 0)
    assert (again.scored, again.removed, again.scores, again.csv, again.to_label) == (0, 1020, [], None, None)
    assert "1,020 rows that an earlier run labelled have been removed" in newest_artifact_of_a_flow("scores")
    reviews(10, 1020).write_csv(inbox / "d.csv")
    more: ScoringSummary = score(run_on(inbox, csv=True))
    assert (more.scored, more.removed) == (10, 1020)
    assert len(pd.read_csv(more.csv or "")) == 10


def test_every_file_is_in_one_manifest(champion: Tracker, inbox: Path, settings_in: Path) -> None:
    for number in range(3):
        reviews(10, 1020 + 10 * number).write_csv(inbox / f"d{number}.csv")
        score(run_on(inbox, shard_rows=200))
        score(run_on(inbox, shard_rows=200))
    scores = settings_in / "store" / "scores"
    manifests = [json.loads(path.read_text()) for path in sorted(scores.glob("_log/*/manifests/*.json"))]
    files = [file["path"] for manifest in manifests for file in manifest["files"]]
    assert [len(manifest["files"]) for manifest in manifests] == [7, 1, 1]
    assert sorted(files) == sorted(str(path.relative_to(scores)) for path in scores.glob("scores/**/*.parquet"))


def test_readers_see_each_review_once_whatever_has_scored_it(champion: Tracker, inbox: Path, settings_in: Path) -> None:
    """By the query of README."""
    (query,) = re.findall(r"```sql\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    query = query.replace("data/store/scores", str(settings_in / "store" / "scores"))
    (inbox / "b.jsonl").unlink()
    (inbox / "c.csv").unlink()
    for options in ({}, {"threshold": 0.4}, {"model_uri": "models:/sentiment@challenger"}):
        summary: ScoringSummary = score(run_on(inbox, **options))
        rows = pl.concat([pl.read_parquet(path, glob=False) for path in summary.scores])
        assert summary.scored == 700
        assert dict(duckdb.sql(query).fetchall()) == dict(rows["label"].value_counts().iter_rows())


@pytest.mark.slow
def test_a_run_has_the_rows_of_a_shard_that_another_run_cancels(
    champion: Tracker, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews(10, 1020).write_csv(inbox / "d.csv")
    run = run_on(inbox, shard_rows=200)
    start = flows.score.start_mlflow_run  # what a run does next when it has planned

    def overtaken(*arguments: Any) -> TrainingRunLog:
        monkeypatch.setattr(flows.score, "start_mlflow_run", start)
        (log,) = (Path(Settings().store_url) / "scores" / "_log").iterdir()
        table = ScoreTable(str(log.parent.parent), log.name)
        first = table.plan(0)
        assert first
        assert table.cancel(first.shards[-1].id)
        other: ScoringSummary = score(run)
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
    from sentiment_model.scoring.exports import write_csv

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


@pytest.mark.parametrize("path", ["_log/*/plans", "_log/*/manifests"])
def test_a_table_that_cannot_be_written_is_told_in_a_line(
    path: str, champion: Tracker, inbox: Path, settings_in: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    summary: ScoringSummary = score(run_on(inbox))
    (folder,) = Path(summary.table).glob(path)
    rmtree(folder)
    folder.touch()  # in the way of the folder
    reviews(10, 1020).write_csv(inbox / "d.csv")
    assert run_cli(ScoringRun, score, [f"--files.path={inbox}"]) == 1
    told = capfd.readouterr().err
    assert re.search(
        r"^error: cannot write to the store .*scores: .*nothing half-written is readable$", told, re.MULTILINE
    )
    assert "Traceback" not in told


def test_a_run_with_other_shards_reads_the_parts_that_were_planned(
    champion: Tracker, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_before_scoring(monkeypatch, run_on(inbox, shard_rows=100))
    summary: ScoringSummary = score(run_on(inbox, shard_rows=60, batch_rows=64))
    rows = pl.concat([pl.read_parquet(path, glob=False) for path in summary.scores], how="diagonal_relaxed")
    assert sorted(rows["id"].cast(pl.Int64)) == list(range(1020))
