"""The benchmarks run ours and their peers on real reviews, at a tiny size, and write what they found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from benchmarks import faults, gpu, ledger, peers, plain, quality, speed, start
from benchmarks.data import Split, write_folds
from benchmarks.failpoints import POINTS
from benchmarks.isolated import ProcessFailedError, run_alone
from benchmarks.published import Differences, differences, unpublished
from sentiment_model.config import ModelConfig, TrainConfig, TrainingRun
from sentiment_model.evaluation.metrics import Interval

TINY = TrainingRun(model=ModelConfig(hidden_size=4, embedding_size=8), train=TrainConfig(epochs=1, processes=1))
TINY_NIGHTLY = TrainingRun(model=TINY.model, train=TrainConfig(processes=1, pretraining_tokens=10_000))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("store"))


def read(folder: Path, name: str) -> dict[str, Any]:
    markdown, figure = (folder / f"{name}.md").read_text(), (folder / f"{name}.svg").read_text()
    assert markdown.startswith("# ")
    assert f"({name}.svg)" in markdown
    assert figure.count("<svg") == 1
    assert "prefers-color-scheme:dark" in figure
    assert "#123456" not in figure, "the placeholder of the text colour"
    results: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    assert {"date", "commit", "cpu", "torch", "threads"} <= set(results["environment"])
    return results


@pytest.mark.slow
def test_quality_keeps_the_rows_of_those_that_did_not_fail(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "fasttext.py").write_text("raise ImportError('no fastText | here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    taught = TINY.train.model_copy(update={"pretraining_tokens": 50_000, "distillation": True})
    nightly = TINY.model_copy(update={"train": taught})
    monkeypatch.setattr(quality, "OURS", {"ours": TINY, "ours, nightly": nightly})
    unlabelled = str(Path(__file__).parent.parent / "data" / "samples" / "tidy" / "reviews.csv")
    arguments = ["--sample", "500", "--store", store, "--output", str(tmp_path), "--unlabelled", unlabelled]
    assert quality.main([*arguments, "--only", "fasttext", "ours", "ours, nightly", "tfidf"]) == 1
    found = read(tmp_path, "quality")["results"]
    assert found["fasttext"] == {"failed": "ImportError: no fastText | here"}
    for name in ("ours", "ours, nightly", "tfidf"):
        row = found[name]
        interval = Interval.model_validate(row["accuracy"])
        assert interval.low < interval.value < interval.high
        assert 0.0 < row["log_loss"] < 1.0
        assert row["training_seconds"] > 0.01
        assert 10 < row["scoring_rate"] < 1e6
        assert 50 < row["peak_mib"] < 10_000
        assert 1e3 < row["model_bytes"] < 1e8
    assert found["tfidf"]["accuracy"]["value"] > 0.6, "400 reviews teach it something"
    difference = found["ours"]["accuracy"]["value"] - found["tfidf"]["accuracy"]["value"]
    assert found["ours"]["above tfidf"]["value"] == pytest.approx(difference)
    assert 0.0 < found["ours"]["recurrent_accuracies"][0] < 1.0
    assert found["tfidf"]["peak_mib"] < found["ours"]["peak_mib"], "it does not need PyTorch"
    lines = (tmp_path / "quality.md").read_text().splitlines()
    width = next(line for line in lines if "test accuracy" in line).count("|")
    (failed,) = (line for line in lines if "failed" in line)
    assert "no fastText" in failed
    assert failed.count("|") == width
    (ours,) = (line for line in lines if "**ours**" in line)
    assert f"| {100 * found['ours']['accuracy']['value']:.1f} % |" in ours


def test_what_learns_from_unlabelled_reviews_needs_some(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quality.main(["--only", "ours, nightly"])
    assert "ours, nightly needs --unlabelled" in capsys.readouterr().err


def test_quality_ends_well_where_none_failed(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracy = Interval(value=0.75, low=0.5, high=1.0)

    def measure(_name: str, reviews: quality.Reviews, _seeds: object) -> quality.Result:
        right = np.full(len(reviews.groups), 0.75)
        return quality.Result([0, 1], right, [0.7, 0.8], [], accuracy, 0.9, 12.0, 345.0, 678.0, 9e6)

    monkeypatch.setattr(quality, "measure", measure)
    assert quality.main(["--sample", "500", "--store", store, "--output", str(tmp_path), "--only", "tfidf"]) == 0
    row = "| 75.0 % (70.0 to 80.0) | 50.0 to 100.0 |  |  |  | 0.900 | 12.0 | 345 | 678 | 9.0 |"
    assert row in (tmp_path / "quality.md").read_text()


def contested(*labels: list[float]) -> quality.Reviews:
    tests = [
        Split(
            *[pl.Series([""] * len(of_fold))] * 2, np.array(of_fold), pl.Series([f"{n}" for n in range(len(of_fold))])
        )
        for of_fold in labels
    ]
    return quality.Reviews([Path()] * len(tests), tests, np.arange(sum(map(len, labels))))


def test_seeds_are_for_those_that_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run_alone(_function: str, **arguments: object) -> tuple[dict[str, Any], float]:
        calls.append((arguments.get("peer"), arguments["seed"]))
        answer = {"test": [0.9, 0.1], "recurrent": [True, False]}
        return {**answer, "training_seconds": 1, "scoring_rate": 1, "model_bytes": 1}, 1.0

    monkeypatch.setattr(quality, "run_alone", run_alone)
    for name in ("ours", "tfidf", "tutorial-rnn"):
        quality.measure(name, contested([1.0, 0.0]), [3, 4])
    assert calls == [(None, 3), (None, 4), ("tfidf", 0), ("tutorial-rnn", 3), ("tutorial-rnn", 4)]


def test_the_tests_of_all_folds_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {"training_seconds": 2.0, "scoring_rate": 100.0, "model_bytes": 1000}
    answers = [
        ([0.9, 0.1], [True, False]), ([0.2, 0.8], [True, False]),  # seed 5, fold 0 and 1
        ([0.9, 0.9], [True, True]), ([0.8, 0.4], [True, True]),
    ]  # fmt: skip
    replies = iter([({"test": test, "recurrent": alone, **rest}, 100.0) for test, alone in answers])
    monkeypatch.setattr(quality, "run_alone", lambda *_, **__: next(replies))
    result = quality.measure("ours", contested([1, 0], [1, 0]), [5, 6])
    assert result.seed_accuracies == [0.5, 0.75]
    assert result.right.tolist() == [1.0, 0.5, 0.5, 0.5]
    assert result.recurrent_accuracies == [1.0, 0.5]
    assert result.accuracy.value == 0.625
    assert result.log_loss == pytest.approx(
        -(np.log([0.9, 0.9, 0.2, 0.2]).mean() + np.log([0.9, 0.1, 0.8, 0.6]).mean()) / 2
    )
    assert (result.peak_mib, result.training_seconds) == (100.0, 2.0)


def test_each_review_is_tested_once_and_no_group_is_on_two_sides(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "text": [f"review {n}" for n in range(600)],
            "raw": "",
            "label": pl.Series([n % 2 for n in range(600)], dtype=pl.Int8),
            "group": [f"film {n // 6}" for n in range(600)],
            "split": ["unlabelled" if n % 50 == 0 else "train" for n in range(600)],
        }
    )
    frame.write_parquet(source := tmp_path / "reviews.parquet")
    folds = [pl.read_parquet(path) for path in write_folds(source, 4, tmp_path)]
    tested = [text for fold in folds for text in fold.filter(split="test")["text"]]
    assert sorted(tested) == sorted(frame.filter(pl.col("split") != "unlabelled")["text"])
    for fold in folds:
        labelled = fold.filter(pl.col("split") != "unlabelled")
        assert labelled.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
        assert set(labelled["split"]) == {"train", "validation", "test"}


def test_nb_svm_learns_what_its_training_reviews_say(tmp_path: Path) -> None:
    good, bad = ["a good , warm film", "good fun"] * 20, ["a bad , dull film", "bad noise"] * 20
    texts = pl.Series(good + bad)
    peer = peers.PEERS["nbsvm"]
    peer.fit(Split(texts, texts, np.repeat([1.0, 0.0], 40), texts), tmp_path, 0)
    raw = pl.Series(["GOOD &amp; <br />warm", "what a bad<br />film", "unheard-of"])
    positive, negative, unknown = peer.load(tmp_path)(raw)
    assert positive > 0.55
    assert negative < 0.45
    assert abs(unknown - 0.5) < 0.02


def test_memory_is_that_of_the_process_alone() -> None:
    ballast = np.ones(60_000_000)  # 458 MiB in this process
    _, peak = run_alone("benchmarks.isolated:peak_memory_mib")
    assert 5 < peak < 200
    assert len(ballast) == 60_000_000
    with pytest.raises(ProcessFailedError, match="no_such_function"):
        run_alone("benchmarks.table:no_such_function")


def test_speed_and_growth_at_a_tiny_size(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "WARMUP_STEPS", 1)
    monkeypatch.setattr(speed, "SIZES", (2,))
    monkeypatch.setattr(plain, "HIDDEN", 4)
    monkeypatch.setitem(speed.PEERS, "fasttext", peers.PEERS["tfidf"])  # which needs no library of its own
    monkeypatch.setattr(speed, "TrainingRun", lambda profile="default": TINY if profile == "default" else TINY_NIGHTLY)
    arguments = ["--sample", "500", "--store", store, "--output", str(tmp_path)]
    assert speed.main([*arguments, "--steps", "1", "--rounds", "1", "--base", "100"]) == 0
    found = read(tmp_path, "speed")
    assert set(found["training"]) == {*speed.CELLS, speed.PLAIN, speed.PLAIN_DENORMAL}
    assert set(found["forward"]) == {*speed.CELLS, speed.PLAIN}
    assert all(100 < rate < 1e8 for rate in [*found["training"].values(), *found["profiles"].values()])
    assert all(10 < rate < 1e7 for rate in [*found["forward"].values(), *found["text_path"].values()])
    assert found["text_path"]["raw text to label"] < found["text_path"]["text to ids"]
    for stage in ("score", "prepare"):
        assert [line["reviews"] for line in found[stage]] == [200]
        assert all(line["seconds"] > 0 and 50 < line["peak_mib"] < 10_000 for line in found[stage])
    table = (tmp_path / "speed.md").read_text()
    assert f"| **ours, lstm** | {found['training']['lstm']:,.0f} | " in table
    assert f"| 2x | 200 | {found['score'][0]['seconds']:.1f} | " in table
    assert f"| {speed.PLAIN} | {found['forward'][speed.PLAIN]:,.0f} | 1.00 |" in table


def test_rows_that_are_lost_doubled_or_different_are_counted(tmp_path: Path) -> None:
    def files(name: str, scores: dict[str, list[Any]], quarantine: list[int]) -> dict[str, list[Path]]:
        folder = tmp_path / name
        folder.mkdir()
        pl.DataFrame(scores).write_parquet(folder / "scores.parquet")
        rejects = pl.DataFrame({"file": "a", "row": quarantine, "reason": "empty_text"})
        rejects.write_parquet(folder / "quarantine.parquet")
        return {"scores": [folder / "scores.parquet"], "quarantine": [folder / "quarantine.parquet"]}

    ids, probability = ["a", "b", "c", "d"], [0.1, 0.2, None, 0.4]
    clean = files("clean", {"row_id": ids, "probability": probability, "scored_at": [1] * 4}, [1, 2])
    again = files("again", {"row_id": ids, "probability": [0.1 + 1e-8, 0.2, None, 0.4], "scored_at": [2] * 4}, [2, 1])
    assert differences(clean, again) == Differences()
    bad = {"row_id": ["a", "a", "c", "d", "e"], "probability": [0.1, 0.1, 0.3, 0.41, 0.5], "scored_at": [2] * 5}
    assert differences(clean, files("bad", bad, [1])) == Differences(lost=2, doubled=1, different=3)
    column = files("column", {"row_id": ids, "probability": probability}, [1, 2])
    assert differences(clean, column) == Differences()
    column = files("text", {"row_id": ids, "text": ids, "scored_at": [1] * 4}, [1, 2])
    assert differences(clean, column) == Differences(different=4)
    assert differences(clean, {"scores": [], "quarantine": []}) == Differences(lost=6)


def test_files_without_a_receipt_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "scores" / "version=1").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (tmp_path / "scores" / "version=1" / f"{name}.parquet").write_bytes(b"1234")
    receipts = tmp_path / "_log" / "key" / "receipts"
    receipts.mkdir(parents=True)
    named = [{"path": "scores/version=1/a.parquet", "bytes": 4}, {"path": "scores/version=1/b.parquet", "bytes": 5}]
    (receipts / "s.json").write_text(json.dumps({"files": named}))
    assert [path.name for path in unpublished(tmp_path)] == ["b.parquet", "c.parquet"]


@pytest.mark.slow
def test_faults_kill_as_often_as_told(tmp_path: Path) -> None:
    assert faults.main(["--kills", "10", "--output", str(tmp_path)]) == 0
    rounds = json.loads((tmp_path / "faults.json").read_text())["rounds"]
    kills = [kill for played in rounds for kill in played["kills"]]
    assert len(kills) == 10
    assert kills.count([faults.RANDOM, "all"]) == 1
    assert {point for point, _ in kills} - {faults.RANDOM} <= set(POINTS)
    assert {process for _, process in kills} == {"flow", "worker", "all"}
    assert all(played["rows"] == rounds[0]["rows"] > 2000 for played in rounds)
    assert "| 0 | 0 | 0 | 0 |" in (tmp_path / "faults.md").read_text()


@pytest.mark.slow
def test_a_start_has_each_phase(tmp_path: Path) -> None:
    assert start.main(["--rounds", "1", "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "start.json").read_text())
    assert {"torch", "mlflow", "prefect"} <= set(found["imports"])
    help_shown, *scored = (of_a_round for (of_a_round,) in found["starts"].values())
    assert len(scored) == 3
    assert help_shown["phases"] == {}
    for each in [help_shown, *scored]:
        assert 0.05 < each["seconds"] < 600
        assert 0.05 < each["cpu_seconds"] < 600
    for each in scored:
        assert len(each["phases"]) == 5
        assert all(seconds > 0 for seconds in each["phases"].values())
        assert sum(each["phases"].values()) == pytest.approx(each["seconds"])
    assert "| `--help` | " in (tmp_path / "start.md").read_text()


@pytest.mark.slow
def test_steps_on_a_gpu_at_a_tiny_size(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "_STEPS", 1)
    assert gpu.main(["--device", "cpu", "--tokens", "256", "--rounds", "1"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row[1].strip() for row in rows] == list(gpu.contestants())
    assert all(float(cell.replace(",", "")) > 0 for row in rows for cell in row[3:6])


def test_a_run_after_years_of_runs_makes_fewer_requests_than_there_are_plans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ledger.main(["--plans", "70", "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "ledger.json").read_text())
    requests = [cost["requests"] for cost in found["runs"]]
    since = 31 * (2 + 10)  # a plan, a manifest and ten receipts each
    assert all(since < number < since + 150 for number in requests[:2])
    assert requests[2] > 70 * 12
    assert set(found["inbox"]) == {"the first time", "again"}
    assert "| nothing in the inbox |" in capsys.readouterr().out
