"""Which script a text is in, and that a model is not asked about scripts that it does not know without a word."""

from pathlib import Path

import polars as pl
import pytest
from bulk import run_on
from languages import reviews_in
from tiny import tiny_bundle

from flows.score import score
from sentiment_model.config import TokenizeConfig
from sentiment_model.evaluation.slices import slice_names
from sentiment_model.models.bundle import ModelDescription
from sentiment_model.registry.tracking import Tracker
from sentiment_model.scoring.counts import Counts
from sentiment_model.scoring.report import scoring_markdown
from sentiment_model.scoring.summary import ScoringSummary
from sentiment_model.settings import Settings
from sentiment_model.text.scripts import main_scripts
from sentiment_model.text.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("a good film", "Latin"),
        ("Über den Film", "Latin"),
        ("Ｇｏｏｄ", "Latin"),
        ("정말 재밌다ㅋㅋ CGI", "Hangul"),
        ("film 한", "Latin"),
        ("この映画は面白い", "Kana"),
        ("ｽｰﾊﾟｰ", "Kana"),
        ("这部电影", "Han"),
        ("𠮷", "Han"),
        ("หนังดี", "Thai"),
        ("Привет", "Cyrillic"),
        ("हिन्दी", "Devanagari"),
        ("ᠮᠣᠩᠭᠣᠯ", "other"),
        ("10/10 👍", None),
        ("", None),
        ("좋" * 200 + "a" * 1000, "Hangul"),
    ],
)
def test_the_script_of_most_letters(text: str, script: str | None) -> None:
    assert main_scripts(pl.Series(["good", text, "좋다"])).to_list() == ["Latin", script, "Hangul"]
    assert main_scripts(pl.Series([text])).to_list() == [script]


def test_no_texts_have_no_scripts() -> None:
    assert main_scripts(pl.Series([], dtype=pl.String)).to_list() == []


def test_a_vocabulary_knows_the_scripts_of_its_reviews_but_not_of_a_few_names_in_them() -> None:
    def scripts(texts: list[str]) -> list[str]:
        return Vocabulary.fit(pl.LazyFrame({"text": texts}), TokenizeConfig(min_count=1)).scripts

    english = ["a good film of 1954 !"] * 60
    assert scripts([*english, "七人の侍 七人の侍"]) == ["Latin"]
    assert scripts([*english, *["очень хороший фильм"] * 30]) == ["Latin", "Cyrillic"]
    assert scripts(["10/10"]) == []


def test_reviews_are_sliced_by_script_where_several_have_enough() -> None:
    def sliced(**reviews: int) -> list[str | None]:
        texts = {"latin": "good", "hangul": "좋다", "thai": "ดี", "none": "10/10"}
        frame = pl.DataFrame({"text": [texts[name] for name, count in reviews.items() for _ in range(count)]})
        frame = frame.with_columns(source=pl.lit("a"), n_tokens=1, n_unknown=0)
        named = frame.select(slice_names(pl.col("n_tokens"), pl.col("n_unknown"), pl.col("text"))["script"])
        return named.to_series().cast(pl.String).unique(maintain_order=True).to_list()

    assert sliced(latin=100, hangul=100) == ["Latin", "Hangul"]
    assert sliced(thai=2, latin=100, hangul=100, none=100) == ["other", "Latin", "Hangul"]
    assert sliced(latin=300, hangul=99, none=200) == [None]


def test_scripts_of_a_model_are_no_part_of_its_name(tmp_path: Path) -> None:
    description = tiny_bundle(tmp_path)
    assert description.scripts == ("Latin",)
    assert ModelDescription.read(tmp_path) == description
    assert description.model_copy(update={"scripts": ()}).digest == description.digest


def test_counts_of_scripts_add_up_with_those_that_have_none() -> None:
    counts = Counts(scripts={"Latin": 2, "Thai": 1}) + Counts(scripts={"Thai": 4}) + Counts()
    assert counts.scripts == {"Latin": 2, "Thai": 5}


def test_most_reviews_are_in_scripts_that_are_not_learned() -> None:
    counts = Counts(scripts={"Latin": 4, "Thai": 1, "Hangul": 5})
    assert list(counts.unlearned(("Latin",)).items()) == [("Hangul", 0.5), ("Thai", 0.1)]
    assert counts.unlearned(("Thai", "Hangul")) == {}
    assert counts.unlearned(("Latin", "Thai")) == {}  # half is not most
    assert counts.unlearned(()) == Counts().unlearned(("Latin",)) == {}


def test_the_flow_warns_of_scripts_that_the_model_has_not_learned(
    settings_in: Path, prefect_server: None, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_bundle(settings_in / "model")
    tracker = Tracker(Settings())
    run_id = tracker.start_run("sentiment", "fp", name="test", params={}, tags={}).run_id
    tracker.registry.register(settings_in / "model", "sentiment", run_id, promote=True, tags={})
    texts = [*["a good film"] * 30, *reviews_in("Korean")["text"].head(40), "10/10"]
    pl.DataFrame({"text": texts}).write_csv(settings_in / "reviews.csv")
    run = run_on(settings_in / "reviews.csv", workers=1)
    summary: ScoringSummary = score(run)
    said = "57.1% of the reviews are in scripts that the model has not learned (Hangul)"
    assert said in scoring_markdown(run, summary, "", None)
    assert any(message.startswith(f"Scripts: {said}") for message in caplog.messages)
