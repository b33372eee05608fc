"""Batch scoring: every row of the input is labelled or in quarantine, and nothing half-done is published."""

import gzip
import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from bulk import run_on, score_into
from prefect.client.orchestration import get_client
from pydantic import ValidationError
from servers import newest_artifact_of_a_flow
from tiny import tiny_bundle

from flows._cli import run_cli
from flows.score import score
from sentiment_model.config import Columns, ScoringRun
from sentiment_model.errors import ModelError, QualityError, SentimentError, SourceError, StoreError
from sentiment_model.markdown import markdown_cell
from sentiment_model.models.bundle import VOCABULARY, Predictor
from sentiment_model.registry.tracking import Tracker
from sentiment_model.scoring.engines import LocalEngine, ShardWorker
from sentiment_model.scoring.label import scoring_key
from sentiment_model.scoring.planning import files_to_score
from sentiment_model.scoring.shards import file_key
from sentiment_model.scoring.summary import ScoringSummary
from sentiment_model.settings import Settings

TEXTS = [
    "A good film, <br />great!",
    "awful , not that good",
    "“bad” film",
    "great great great",
    "not a film",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place for review files."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def published(store: Path) -> list[Path]:
    return [path for path in store.rglob("*") if path.is_file() and "_log" not in path.parts]


def test_all_columns_are_kept_and_four_are_added(folder: Path, tmp_path: Path, predictor: Predictor) -> None:
    table = pl.DataFrame({"id": range(5), "text": TEXTS, "nested": [{"stars": i, "tags": ["x"]} for i in range(5)]})
    table.write_parquet(folder / "reviews.parquet")
    scores = score_into(tmp_path / "scores", predictor, run_on(folder / "reviews.parquet"))

    labelled = scores.rows()
    assert labelled.select(table.columns).equals(table)
    assert labelled.columns[3:6] == ["row_id", "source_file", "source_row"]
    assert labelled["source_row"].to_list() == [1, 2, 3, 4, 5]
    assert labelled.columns[6:] == ["label", "probability", "uncertain", "model_version", "scored_at"]
    assert len(set(labelled["row_id"])) == 5
    expected = predictor.predict(table["text"])["probabilities"].arr.last()
    assert labelled["probability"].to_list() == pytest.approx(expected.to_list(), abs=1e-6)
    assert labelled["label"].to_list() == ["positive" if p >= 0.5 else "negative" for p in expected]
    assert set(labelled["model_version"]) == {"7"}
    assert labelled.schema["scored_at"] == pl.Datetime("us", "UTC")
    assert datetime.now(UTC) - labelled["scored_at"][0] < timedelta(minutes=5)
    assert scores.rows("quarantine").is_empty()


def test_every_format_gives_the_same_answers(folder: Path, tmp_path: Path, predictor: Predictor) -> None:
    table = pl.DataFrame({"id": [str(i) for i in range(5)], "text": TEXTS})
    table.write_csv(folder / "a.csv")
    (folder / "sub").mkdir()
    with gzip.open(folder / "sub" / "a.jsonl.gz", "wb") as file:
        table.write_ndjson(file)
    table.write_parquet(folder / "sub" / "a (1).parquet")
    table.write_parquet(folder / "sub" / "a [1].parquet")  # an odd name that differs in odd characters alone

    scores = score_into(tmp_path / "scores", predictor, run_on(folder))
    answers = scores.rows().partition_by("source_file")
    assert len(answers) == 4
    answers = [answer.drop("row_id", "source_file", "scored_at") for answer in answers]
    assert all(answer.equals(answers[0]) for answer in answers)
    assert scores.rows().height == scores.counts.scored == 20


def test_the_threshold_moves_the_label_and_nothing_else(folder: Path, tmp_path: Path, predictor: Predictor) -> None:
    pl.DataFrame({"text": TEXTS}).write_csv(folder / "a.csv")
    probabilities = predictor.predict(pl.Series(TEXTS))["probabilities"].arr.last()
    threshold = float(probabilities.sort()[2])
    scores = score_into(tmp_path / "scores", predictor, run_on(folder, threshold=threshold))
    assert scores.rows()["label"].to_list() == ["positive" if p >= threshold else "negative" for p in probabilities]
    assert scores.counts.labels == {"negative": 2, "positive": 3}


def test_a_column_with_the_name_of_an_output_is_renamed(folder: Path, tmp_path: Path, predictor: Predictor) -> None:
    rows = {"label": "x", "input_label": "y", "probability": 3, "scored_at": "z", "text": "good"}
    pl.DataFrame([rows]).write_ndjson(folder / "a.jsonl")
    (row,) = score_into(tmp_path / "scores", predictor, run_on(folder)).rows().to_dicts()
    assert row["input_input_label"] == "x"
    assert row["input_label"] == "y"
    assert (row["input_probability"], row["input_scored_at"]) == (3, "z")
    assert row["label"] in ("positive", "negative")


def test_rows_without_a_usable_text_go_to_quarantine(folder: Path, tmp_path: Path, predictor: Predictor) -> None:
    lines = [
        '{"text": "good film"}',
        '{"text": null}',
        '{"text": "  "}',
        "{broken",
        '{"text": "<br /> \\u200b"}',
        json.dumps({"text": "good " * 100}),
        '{"text": "bad film"}',
    ]
    (folder / "a.jsonl").write_text("\n".join(lines))
    (folder / "b.csv").write_text("text\nfine film\n")
    run = run_on(folder, max_bad_share=0.8, max_text_bytes=200)
    scores = score_into(tmp_path / "scores", predictor, run)

    assert scores.rows()["text"].to_list() == ["good film", "bad film", "fine film"]
    quarantine = scores.rows("quarantine").sort("row")
    assert quarantine.select("file", "row", "reason").rows() == [
        ("a.jsonl", 2, "missing_text"),
        ("a.jsonl", 3, "empty_text"),
        ("a.jsonl", 4, "broken_json"),
        ("a.jsonl", 5, "empty_text"),
        ("a.jsonl", 6, "text_too_long"),
    ]
    counts = scores.counts
    assert counts.rows_in == counts.scored + counts.quarantined == 8
    assert counts.reasons == {"empty_text": 2, "missing_text": 1, "broken_json": 1, "text_too_long": 1}
    assert (counts.tokens, counts.unknown) == (6, 1)  # `fine`


def test_small_batches_give_the_same_scores_in_the_same_order(
    folder: Path, tmp_path: Path, predictor: Predictor
) -> None:
    texts = [f"{TEXTS[i % 5]} {'film ' * (i % 17)}" for i in range(97)]
    pl.DataFrame({"row": range(97), "text": texts}).write_csv(folder / "a.csv")
    small = score_into(tmp_path / "small", predictor, run_on(folder, batch_rows=8)).rows()
    large = score_into(tmp_path / "large", predictor, run_on(folder)).rows()
    assert small["row"].to_list() == [str(i) for i in range(97)]
    assert small.drop("scored_at", "probability").equals(large.drop("scored_at", "probability"))
    assert small["probability"].to_list() == pytest.approx(large["probability"].to_list(), abs=1e-6)


def test_too_many_bad_rows_are_an_error(folder: Path, tmp_path: Path, predictor: Predictor) -> None:
    (folder / "a.csv").write_text("id,text\n1,good\n2,\n3,bad\n4,\n")
    run = run_on(folder, max_bad_share=0.2)
    scored = score_into(tmp_path / "scores", predictor, run)
    with pytest.raises(QualityError, match=r"2 of 4 rows .* \(50\.0%, .* 20\.0%\).*empty_text 2 .*a\.csv row 2"):
        scored.counts.check_quality(run.files)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_publishes_nothing(folder: Path, small_disk: Path, predictor: Predictor) -> None:
    noise = [f"good film {random.Random(i).randbytes(400).hex()}" for i in range(2000)]
    pl.DataFrame({"text": noise}).write_csv(folder / "a.csv")
    with pytest.raises(StoreError, match=r"no space left .*nothing half-written is readable: free some space"):
        score_into(small_disk / "scores", predictor, run_on(folder))
    assert published(small_disk) == []


@pytest.mark.parametrize(
    ("content", "options", "error", "message"),
    [
        ("text\n", {}, SourceError, "no reviews in .*only a header"),
        ("body\ngood\n", {}, SourceError, "no column 'text', it has 'body'"),
        ("text\n\n<b></b>\n", {"max_bad_share": 1.0}, QualityError, "cannot be scored"),
        ("text\ngood\n", {"columns": Columns(text="body")}, SourceError, "no column 'body'"),
    ],
)
def test_files_that_cannot_be_scored(
    folder: Path,
    tmp_path: Path,
    predictor: Predictor,
    content: str,
    options: dict[str, object],
    error: type[SentimentError],
    message: str,
) -> None:
    (folder / "a.csv").write_text(content)
    run = run_on(folder, **options)
    with pytest.raises(error, match=message):
        score_into(tmp_path / "scores", predictor, run).counts.check_quality(run.files)
    assert published(tmp_path / "scores" / "scores") == []


def test_a_path_is_needed() -> None:
    with pytest.raises(ValidationError, match=r"files\.path"):
        run_on(None)


def test_scores_are_named_by_content_model_and_options(folder: Path) -> None:
    (folder / "a.csv").write_text("text\ngood\n")

    def name(model: str = "m", shadow: str | None = None, **options: object) -> str:
        return scoring_key(run_on(folder, **options), model, "1", shadow)

    first = name()
    assert name(batch_rows=5) == name(max_bad_share=0.5) == name(shard_rows=7) == first
    others = [name("other"), name(shadow="s"), name(threshold=0.7), name(max_text_bytes=5), name(rescore="again")]
    assert len({first, name(missing_values=("?",)), *others}) == 7


def test_a_file_is_known_by_its_place_and_content_however_it_is_reached(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for customer in ("a", "b"):
        (folder / customer).mkdir()
        (folder / customer / "day.csv").write_text("text\ngood\n")

    def keys(path: Path | str) -> set[str]:
        return {file_key(file) for file in files_to_score(run_on(path)).files}

    both = keys(folder)
    assert len(both) == 2  # equal files of two customers
    one = keys(folder / "a")
    assert len(one) == 1
    assert one < both
    (folder.parent / "link").symlink_to(folder)
    monkeypatch.chdir(folder.parent)
    for path in ("in/a/day.csv", "in/*/day.csv", "link/a", "in/b/../a", f"file://{folder}/a"):
        assert one <= keys(path) <= both
    (folder / "a" / "day.csv").write_text("text\ngood!\n")
    assert keys(folder / "a").isdisjoint(both)


@pytest.fixture
def champion(settings_in: Path, prefect_server: None) -> Path:
    """Register a tiny champion; return the folder with its files as MLflow keeps them."""
    tiny_bundle(settings_in / "bundle")
    tracker = Tracker(Settings())
    run_id = tracker.start_run("sentiment", "fp", name="test", params={}, tags={}).run_id
    tracker.registry.register(settings_in / "bundle", "sentiment", run_id, promote=True, tags={})
    (weights,) = (settings_in / "artifacts").rglob("weights.safetensors")
    return weights.parent


def test_the_flow_scores_with_the_champion_and_reuses_what_it_did(champion: Path, folder: Path) -> None:
    pl.DataFrame({"id": range(5), "text": TEXTS}).write_csv(folder / "a.csv")
    first: ScoringSummary = score(run_on(folder))
    assert (first.scored, first.quarantined, first.model_version, first.reused) == (5, 0, "1", False)
    assert set(pl.read_parquet(first.scores)["model_version"]) == {"1"}

    again: ScoringSummary = score(run_on(folder))
    assert (again.reused, again.shards, again.new_files) == (True, 0, 0)
    assert again.scores == first.scores

    pl.DataFrame({"text": ["good"]}).write_csv(folder / "b.csv")
    more: ScoringSummary = score(run_on(folder, model_uri="models:/sentiment/1"))
    assert (more.scored, more.reused, more.new_files, more.files) == (1, False, 1, 2)
    every = pl.scan_parquet(f"{more.table}/scores/**/*.parquet", missing_columns="insert", extra_columns="ignore")
    assert every.collect()["row_id"].n_unique() == 6

    named: ScoringSummary = score(run_on(folder, rescore="again"))
    assert named.scored == 6


@pytest.mark.usefixtures("champion")
def test_the_next_run_reads_no_file_that_is_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pl.DataFrame({"text": TEXTS}).write_csv(folder / "a.csv")
    os.utime(folder / "a.csv", (1, 1))
    assert score(run_on(folder)).scored == len(TEXTS)
    monkeypatch.setattr("sentiment_model.sources.locations.sha256_of", lambda path: pytest.fail(f"{path} is read"))
    assert score(run_on(folder)).reused


@pytest.mark.usefixtures("champion")
def test_little_work_starts_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for workers gets them."""
    pl.DataFrame({"text": TEXTS}).write_csv(folder / "a.csv")
    started: list[int] = []

    class Watched(LocalEngine):
        def __init__(self, start: Callable[[], ShardWorker], workers: int) -> None:
            super().__init__(start, workers)
            started.append(workers)

    monkeypatch.setattr("tasks.score.LocalEngine", Watched)
    assert score(run_on(folder)).scored == len(TEXTS)
    assert not started
    assert score(run_on(folder, rescore="again", workers=1)).scored == len(TEXTS)
    assert started == [1]
    monkeypatch.setattr("tasks.score._SMALL_BYTES", 10)
    assert score(run_on(folder, rescore="large")).scored == len(TEXTS)
    assert len(started) == 2


def test_the_flow_completes_where_there_is_nothing_to_score(
    champion: Path, folder: Path, settings_in: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late = datetime.now(UTC) + timedelta(days=1)
    cases = [
        (run_on(folder), f"there are no files in {folder}"),
        (run_on(folder / "*.csv", csv=True, to_label=5), f"no file matches {folder}/*.csv"),
        (run_on(folder), f"no review files in {folder}: 1 file passed over: 1 without an ending"),
        (run_on(folder, modified_from=late), f"none of the 1 files in {folder} was changed in the time named"),
    ]
    for number, (run, reason) in enumerate(cases):
        if number == 2:
            (folder / "README").touch()
        if number == 3:
            (folder / "a.csv").write_text("text\ngood\n")
        summary: ScoringSummary = score(run)
        assert (summary.nothing or "").startswith(reason)
        assert (summary.files, summary.rows_in, summary.scored, summary.shards, summary.scores) == (0, 0, 0, 0, [])
        assert (summary.reused, summary.csv, summary.to_label, summary.model_version) == (False, None, None, "1")
        assert caplog.messages[-2] == f"Nothing to score: {summary.nothing}"
        text = newest_artifact_of_a_flow("scores")
        assert text.startswith("# Nothing to score\n")
        assert markdown_cell(reason) in text
    assert [path for path in (settings_in / "store").rglob("*") if path.is_file()] == []

    (folder / "a.csv").unlink()
    (folder / "README").unlink()
    folder.rmdir()
    for run in (run_on(folder), run_on(folder / "*.csv")):
        with pytest.raises(SourceError, match="there is no file at"):
            score(run)


def test_the_flow_completes_where_the_files_of_an_inbox_have_no_rows(
    champion: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a.csv").write_text("text\n")
    (folder / "b.jsonl").touch()
    for path, which, shards in ((folder, "new file", 1), (folder, "file", 0), (folder / "*.csv", "file", 0)):
        nothing: ScoringSummary = score(run_on(path))
        assert nothing.nothing == f"every {which} in {path} is empty or has only a header"
        assert (nothing.rows_in, nothing.scored, nothing.shards, nothing.scores) == (0, 0, shards, [])
        assert caplog.messages[-2] == f"Nothing to score: {nothing.nothing}"
        assert newest_artifact_of_a_flow("scores").startswith("# Nothing to score\n")
    (folder / "c.csv").write_text("text\ngood\n")
    more: ScoringSummary = score(run_on(folder))
    assert (more.nothing, more.scored, more.shards, more.new_files) == (None, 1, 1, 1)
    with pytest.raises(SourceError, match=r"no reviews in .*a\.csv"):
        score(run_on(folder / "a.csv"))


@pytest.mark.slow
def test_runs_are_named_by_files_and_model(champion: Path, folder: Path) -> None:
    def name(**options: object) -> str:
        flow_run = score(run_on(folder, **options), return_state=True).state_details.flow_run_id
        with get_client(sync_client=True) as prefect:
            return prefect.read_flow_run(flow_run).name

    assert name() == "score 0 files champion v1"
    (folder / "a.csv").write_text("text\ngood\n")
    assert name() == "score 1 file champion v1"
    tracker = Tracker(Settings())
    (scoring,) = tracker._client.search_runs(
        [tracker._client.get_experiment_by_name("sentiment-scoring").experiment_id]  # type: ignore[union-attr]
    )
    assert scoring.info.run_name == "score 1 file champion v1"
    (folder / "b.csv").write_text("text\nbad\n")
    assert name(model_uri="models:/sentiment/1") == "score 2 files sentiment v1"
    assert name(model_uri="models:/sentiment@best").startswith(f"score {folder} with sentiment@best")  # there is none


def test_a_time_that_ends_before_it_begins_is_refused(folder: Path) -> None:
    now = datetime.now(UTC)
    with pytest.raises(ValidationError, match="modified_from must be before modified_before"):
        run_on(folder, modified_from=now, modified_before=now)


@pytest.fixture
def fails(capfd: pytest.CaptureFixture[str], settings_in: Path) -> Callable[..., str]:
    """Run the command line, and return the one line that it prints for the user."""

    def run(*arguments: str) -> str:
        assert run_cli(ScoringRun, score, arguments) == 1
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert published(settings_in / "store" / "scores" / "scores") == []
        return line

    return run


def test_the_command_line_says_what_is_wrong(
    champion: Path, folder: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.csv").write_text("text\ngood\n")
    files = f"--files.path={folder}"
    assert "there is no file at /nowhere" in fails("--files.path=/nowhere")
    assert "no version with the alias best" in fails(files, "--model-uri=models:/sentiment@best")
    assert "no model is registered as other" in fails(files, "--model-uri=models:/other/1")
    (champion / VOCABULARY).write_bytes(b"PAR1")
    assert "cannot read the vocabulary" in fails(files)
    (champion / VOCABULARY).unlink()
    assert "it has no vocabulary.parquet" in fails(files)
    monkeypatch.setenv("SENTIMENT_MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "MLflow at http://127.0.0.1:9 cannot be reached" in fails(files)


def test_a_vocabulary_of_another_model_is_refused(champion: Path, folder: Path) -> None:
    (folder / "a.csv").write_text("text\ngood\n")
    tiny_bundle(folder.parent / "other", words="quite other words")
    (champion / VOCABULARY).write_bytes((folder.parent / "other" / VOCABULARY).read_bytes())
    with pytest.raises(ModelError, match=r"vocabulary .* does not fit the model"):
        score(run_on(folder))


def test_what_a_run_reads_and_passes_over_is_shown_first(champion: Path, folder: Path) -> None:
    (folder / "a.csv").write_text("text;n\ngood;1\nbad;2\n")
    (folder / "b.xlsx").touch()
    summary: ScoringSummary = score(run_on(folder))
    assert summary.scored == 2
    assert summary.passed_over == "1 file passed over: 1 ending in .xlsx (b.xlsx)"
    assert "semicolons between fields" in newest_artifact_of_a_flow("files")
    assert markdown_cell(summary.passed_over) in newest_artifact_of_a_flow("scores")
