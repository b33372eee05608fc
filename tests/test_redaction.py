"""No URL leaves the program with its password, and no text from outside becomes markup."""

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from prefect import flow
from servers import newest_artifact

from flows._cli import run_cli
from flows.train import train
from sentiment_model.config import ScoringRun, TrainingRun
from sentiment_model.errors import StoreError, TrackingError
from sentiment_model.markdown import markdown_cell, markdown_link
from sentiment_model.redaction import redacted
from sentiment_model.registry.tracking import Tracker
from sentiment_model.scoring.report import scoring_markdown
from sentiment_model.scoring.summary import ScoringSummary
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import DatasetWriter, Stage
from tasks._stage import run_stage

PASSWORD = "s3cr:et/w@rd"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://mlflow:secret@db:5432/mlflow", "postgresql://mlflow:***@db:5432/mlflow"),
        ("postgresql+psycopg2://mlflow:se:cr@e/t@db/mlflow", "postgresql+psycopg2://mlflow:***@db/mlflow"),
        ("at http://a:b@host/x and HTTPS://c:d%40@other:1/y.", "at http://a:***@host/x and HTTPS://c:***@other:1/y."),
        ("s3://key:secret@bucket/in, 's3://bucket/a:b@c'", "s3://key:***@bucket/in, 's3://bucket/a:b@c'"),
        ("https://h/f.csv?X-Amz-Credential=k&X-Amz-Signature=abc&part=1", None),
        ("https://a.blob.core.windows.net/c/f?sv=1&sig=abc%3D", None),
        ("http://127.0.0.1:5000/models/sentiment@champion", "http://127.0.0.1:5000/models/sentiment@champion"),
        (
            "models:/sentiment@champion, mail me@example.org: now",
            "models:/sentiment@champion, mail me@example.org: now",
        ),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_passwords_and_keys_are_hidden_and_the_rest_is_not(text: str, shown: str | None) -> None:
    if shown is None:
        assert "abc" not in redacted(text)
        assert "=k" not in redacted(text)
        assert redacted(text).partition("?")[0] == text.partition("?")[0]
    else:
        assert redacted(text) == shown


@given(
    st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters="'\"<>"), min_size=1).filter(
        lambda word: not word[0].isdigit()
    )
)
def test_any_password_is_hidden(password: str) -> None:
    assert redacted(f"cannot reach http://user:{password}@host:80/x") == "cannot reach http://user:***@host:80/x"


@pytest.mark.parametrize("scheme", ["postgresql", "http"])
def test_an_mlflow_that_cannot_be_reached_does_not_tell_its_password(
    scheme: str, settings_in: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if scheme == "postgresql":
        pytest.importorskip("psycopg2")
    monkeypatch.setenv("SENTIMENT_MLFLOW_TRACKING_URI", f"{scheme}://mlflow:{PASSWORD.replace('/', '%2F')}@127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"mlflow:\*\*\*@127") as raised:
        Tracker(Settings())
    assert "w@rd" not in str(raised.value)


def test_nothing_of_a_failed_run_tells_a_password(
    settings_in: Path,
    prefect_server: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither the command line, nor what Prefect logs of the error and of the errors behind it."""
    monkeypatch.setenv("SENTIMENT_MLFLOW_TRACKING_URI", f"http://mlflow:{PASSWORD.replace('/', '%2F')}@127.0.0.1:9")
    assert run_cli(TrainingRun, train, []) == 1
    told = capfd.readouterr()
    assert "error: MLflow at http://mlflow:***@127.0.0.1:9 cannot be reached" in told.err
    assert "w@rd" not in told.err + told.out + caplog.text

    @flow(name="fails")
    def fails() -> None:
        try:
            raise OSError(f"http://mlflow:{PASSWORD}@host says no")
        except OSError as error:
            raise StoreError("the store says no") from error

    with pytest.raises(StoreError):
        fails()
    assert "the store says no" in caplog.text
    assert "w@rd" not in caplog.text
    assert "Traceback" not in caplog.text
    assert logging.getLogger("prefect.flow_runs").filters


def test_no_library_logs_a_password(
    settings_in: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("urllib3.connectionpool")
    log.warning("retrying %s", f"http://mlflow:{PASSWORD}@host/api")
    try:
        raise OSError(f"http://mlflow:{PASSWORD}@host says no")
    except OSError:
        log.exception("failed %d times", 3)
    assert "retrying http://mlflow:***@host/api" in caplog.text
    assert "failed 3 times" in caplog.text
    assert "OSError: http://mlflow:***@host says no" in caplog.text
    assert "w@rd" not in caplog.text


def test_a_message_that_does_not_fit_its_arguments_ends_no_program(capfd: pytest.CaptureFixture[str]) -> None:
    record = logging.getLogger("urllib3").makeRecord("urllib3", logging.INFO, "x.py", 1, "%d", ("one",), None)
    logging.StreamHandler().handle(record)
    assert "Logging error" in capfd.readouterr().err


def test_counts_named_by_the_data_are_text_in_the_table(settings_in: Path, prefect_server: None) -> None:
    source = "<b>shop</b> [a](http://evil) s3://key:secret@bucket"

    def write(writer: DatasetWriter) -> dict[str, object]:
        writer.file("part.txt").write_text("")
        return {"rows": {source: 3}, "path": source}

    @flow(name="one stage")
    def run() -> None:
        run_stage(Stage("ingest", 1), Settings().store_url, {}, {}, write, timeout_seconds=60)

    run()
    (rows, path) = json.loads(str(newest_artifact("ingest").data))
    for cell in (rows["what"], path["value"]):
        shown = MarkdownIt().render(cell)
        assert "<b>" not in shown
        assert "<a " not in shown
        assert "&lt;b&gt;shop&lt;/b&gt; [a](http://evil) s3://key:***@bucket" in shown


MARKUP = st.text(st.sampled_from("ab1 .-+=)(!<>&;:/`*_[]|~#\\\n\r\"'")) | st.sampled_from(
    ["<img src=x onerror=alert(1)>", "[a](http://x)", "![a](x)", "`code`", "a | b", "# h", "1. a", "- a", "&lt;b&gt;"]
)


@given(MARKUP)
def test_text_in_markdown_is_text(text: str) -> None:
    parser = MarkdownIt("commonmark").enable("table")
    for frame in ("before {} after", "{}", "- {}", "| a |\n| --- |\n| {} |"):
        tokens, expected = (parser.parse(frame.format(shown)) for shown in (markdown_cell(text), "x"))
        if text.strip():
            assert [token.type for token in tokens] == [token.type for token in expected]
        parts = [part for token in tokens for part in token.children or ()]
        assert {part.type for part in parts} <= {"text", "text_special"}
        assert " ".join(text.split()) in "".join(part.content for part in parts)


def test_links_lead_where_they_say(tmp_path: Path) -> None:
    shown = MarkdownIt().render(markdown_link("a](http://evil) <b>", "http://host/models/a b(1)/versions/1"))
    assert 'href="http://host/models/a%20b%281%29/versions/1"' in shown
    assert "<b>" not in shown
    assert shown.count("<a ") == 1


def test_a_path_with_markup_and_a_password_is_shown_as_text() -> None:
    path = "s3://key:secret@bucket/<img src=x onerror=alert(1)>`|[a](http://evil)"
    run = ScoringRun(files={"path": path}, model_uri="models:/<b>sentiment</b>@champion")
    values = dict.fromkeys(ScoringSummary.model_fields, 0)
    summary = ScoringSummary.model_construct(
        **values
        | {
            "table": f"{path}/scores",
            "nothing": None,
            "failures": {},
            "unusable": {},
            "unexported": {},
            "reasons": {"<i>": 1},
            "shares": {"<i>bad": 0.5, "good": 0.25, "|": 0.25},
            "drift": {},
            "drifted": [],
            "drift_unjudged": None,
            "disagreement_share": None,
            "csv": f"{path}.csv",
            "to_label": f"{path}.csv",
            "model_version": "<u>1",
        }
    )
    markdown = scoring_markdown(run, summary, markdown_link("version <u>1", None), None)
    shown = MarkdownIt().enable("table").render(markdown)
    assert "secret" not in markdown
    for tag in ("<img", "<b>", "<i>", "<u>", "<a ", "<code>"):
        assert tag not in shown
    assert "&lt;img src=x onerror=alert(1)&gt;`|[a](http://evil)" in shown
