"""Five stars as five classes, from training to scores, by the example of the documents."""

import re
import shlex
from pathlib import Path

import polars as pl
import pytest
from tiny import VERDICTS, write_stars

from flows._cli import run_cli
from flows.score import score
from flows.train import train
from sentiment_model.classes import Classes
from sentiment_model.config import ReviewFiles, ScoringRun, TrainingRun
from sentiment_model.models.bundle import ModelDescription
from sentiment_model.store.datasets import open_dataset

ROOT = Path(__file__).parent.parent


def test_the_example_of_the_documents(
    settings_in: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(settings_in)
    write_stars(settings_in / "stars.jsonl")
    document = (ROOT / "docs" / "training.md").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"python -m flows\.train (.*stars\.jsonl.*)", document)
    small = [
        "--train.processes",
        "1",
        "--train.tokens-per-batch",
        "500",
        "--train.epochs",
        "12",
        "--gate.min-rows",
        "10",
    ]
    small += [
        "--clean.test-share",
        "0.2",
        "--gate.min-groups",
        "2",
        "--gate.baseline-margin",
        "-1",
        "--gate.majority-confidence",
        "0",
    ]
    runs: list[TrainingRun] = []
    assert run_cli(TrainingRun, runs.append, [*shlex.split(command), *small]) == 0
    trained = train(runs[0])
    assert open_dataset(trained.reviews).counts["labels"] == {**dict.fromkeys("12345", 36), "unlabelled": 0}
    with open_dataset(trained.model).local_folder() as folder:
        assert ModelDescription.read(folder).classes == Classes(names=("1", "2", "3", "4", "5"), ordered=True)
    assert trained.registration.promoted
    assert "Read 180 rows: 180 reviews (1 36, 2 36, 3 36, 4 36, 5 36)" in caplog.text
    (report,) = re.findall(r"Accuracy .* held-out reviews; the report is (.*)", caplog.text)
    assert "Mean absolute error" in Path(report).read_text()

    new = pl.DataFrame({"body": [f"My aunt calls it {word}!" for word in VERDICTS.values()]})
    new.write_csv(settings_in / "new.csv")
    files = ReviewFiles.model_validate({"path": str(settings_in / "new.csv"), "columns": {"text": "body"}})
    score(ScoringRun(files=files, model_uri="models:/stars@champion", output=str(settings_in / "scores")))
    scores = pl.read_parquet(settings_in / "scores" / "scores" / "**" / "*.parquet")
    assert scores["label"].to_list() == list("12345")
    chances = scores.select(pl.concat_list(f"probability_{stars}" for stars in VERDICTS).list.sum())
    assert chances.to_series().to_list() == pytest.approx([1.0] * 5)
