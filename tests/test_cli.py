"""The command line: flags from the model, and a line that says what to do for everything a user gets wrong."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from reading import write

from flows._cli import run_cli
from flows.score import score
from flows.train import train
from sentiment_model.config import ScoringRun, TidyRun, TrainingRun

TINY = ("--train.epochs=1", "--model.hidden-size=4", "--model.embedding-size=4", "--evaluate.bootstrap-samples=100")


def run_training(*arguments: str) -> int:
    return run_cli(TrainingRun, train, arguments)


def run_scoring(*arguments: str) -> int:
    return run_cli(ScoringRun, score, arguments)


def last_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the lines that were printed for the user, without Prefect's log."""
    lines = capsys.readouterr().err.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    assert starts, "no error was printed"
    assert not any(line.startswith("Traceback") for line in lines)
    return "\n".join(lines[starts[0] :])


def test_flags_become_the_run() -> None:
    runs: list[TrainingRun] = []
    arguments = ["--model.cell", "gru", "--model.pooling", "max,last", "--no-model.bidirectional", "--train.epochs=7"]
    assert run_cli(TrainingRun, runs.append, arguments) == 0
    assert runs[0].model.cell == "gru"
    assert runs[0].model.pooling == ("max", "last")
    assert not runs[0].model.bidirectional
    assert runs[0].train.epochs == 7
    assert runs[0].tokenize == TrainingRun().tokenize


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--csv"], True),
        (["--csv", "true"], True),
        (["--csv", "False"], False),
        (["--csv=true"], True),
        (["--csv=false"], False),
        (["--no-csv"], False),
        (["--no-csv", "false"], True),
    ],
)
def test_a_switch_may_have_a_value(arguments: list[str], expected: bool) -> None:
    runs: list[ScoringRun] = []
    assert run_cli(ScoringRun, runs.append, ["--files.path", "a.csv", *arguments, "--to-label", "3"]) == 0
    assert (runs[0].csv, runs[0].to_label) == (expected, 3)


def test_switches_of_any_section_and_command_may_have_a_value() -> None:
    runs: list[TrainingRun] = []
    arguments = ["--train.distillation", "true", "--model.bidirectional=false", "--ingest.ordered", "true"]
    assert run_cli(TrainingRun, runs.append, arguments) == 0
    assert (runs[0].train.distillation, runs[0].model.bidirectional, runs[0].ingest.ordered) == (True, False, True)
    tidy: list[TidyRun] = []
    assert run_cli(TidyRun, tidy.append, ["--dry-run", "false"]) == 0
    assert not tidy[0].dry_run


def test_help_describes_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_training("--help")
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--model.hidden-size" in text
    assert "Hidden units per layer and direction." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle.cell", "gru"], "modle.cell"),
        (["--train.epochs", "0"], "--train.epochs: Input should be greater than or equal to 1"),
        (["--model.cell", "transformer"], "cell"),
        (["--train.distillation", "maybe"], "--train.distillation: 'maybe' is neither true nor false"),
        (["--ingest.source", "files"], "needs a path"),
        (["--clean.validation-share", "0.6", "--clean.test-share", "0.6"], "leave reviews to train on"),
        (["--ingest.labels", "positive=good,negative=Good"], "mean more than one thing"),
    ],
)
def test_wrong_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_training(*arguments) == 2
    error = last_error(capsys)
    assert message in error
    assert len(error.splitlines()) == 1


def csv(path: Path, rows: list[tuple[str, str]]) -> str:
    pl.DataFrame(rows, schema=["text", "label"], orient="row").write_csv(path)
    return str(path)


def test_missing_file(settings_in: Path, prefect_server: None, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(settings_in / "no-such-dump.csv")
    assert run_training("--ingest.source=files", f"--ingest.path={path}", "--ingest.columns.label=label") == 1
    assert path in last_error(capsys)


def test_empty_dump(settings_in: Path, prefect_server: None, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv(settings_in / "empty.csv", [])
    assert run_training("--ingest.source=files", f"--ingest.path={path}", "--ingest.columns.label=label") == 1
    assert "no reviews" in last_error(capsys)
    assert not list((settings_in / "store").rglob("_manifest.json"))


def test_one_class(settings_in: Path, prefect_server: None, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv(settings_in / "happy.csv", [(f"good film number {i}", "1") for i in range(200)])
    assert run_training("--ingest.source=files", f"--ingest.path={path}", "--ingest.columns.label=label") == 1
    assert "train has only positive reviews" in last_error(capsys)
    assert not list((settings_in / "store" / "clean").rglob("_manifest.json"))


def test_mlflow_unreachable(
    settings_in: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SENTIMENT_MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert run_training(*TINY) == 1
    assert "127.0.0.1:9" in last_error(capsys)
    assert not (settings_in / "store").exists(), "the training began although MLflow is down"


def test_unknown_model(settings_in: Path, prefect_server: None, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv(settings_in / "dump.csv", [("a film", "1")])
    assert run_scoring(f"--files.path={path}", "--model-uri=models:/sentiment@champion") == 1
    assert "no model is registered as sentiment" in last_error(capsys)
    assert not list((settings_in / "store").rglob("_manifest.json"))


def test_an_interrupted_run_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def flow(_: TrainingRun) -> None:
        raise KeyboardInterrupt

    assert run_cli(TrainingRun, flow, []) == 130
    assert capsys.readouterr().err == "error: interrupted; run it again, and what was done is not done again\n"


@pytest.mark.parametrize(("flow", "section"), [("score", "files"), ("train", "ingest")])
def test_check_shows_how_files_are_read_and_does_nothing_else(settings_in: Path, flow: str, section: str) -> None:
    folder = write(settings_in / "in" / "a.csv", "text;stars\nGreat_film;5\nAwful;1\n").parent
    source = ["--ingest.source=files"] if flow == "train" else []
    command = [sys.executable, "-m", f"flows.{flow}", *source, f"--{section}.path", str(folder), "--check"]
    before = sorted(settings_in.rglob("*"))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "semicolons between fields" in done.stdout
    assert "| text | **text** | Great_film / Awful |" in done.stdout
    assert done.stderr == ""
    assert sorted(settings_in.rglob("*")) == before
    done = subprocess.run([*command, f"--{section}.path", "nowhere"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no file at nowhere;")
