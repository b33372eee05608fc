"""The model card: what a version says of itself, in as many characters as MLflow keeps."""

from pathlib import Path

import pytest
from test_report import HOSTILE, example
from tiny import tiny_bundle

from sentiment_model.config import GateConfig, TrainingRun
from sentiment_model.evaluation.card import MAX_CHARACTERS, model_card
from sentiment_model.evaluation.evaluate import Evaluation
from sentiment_model.evaluation.gate import decide
from sentiment_model.models.bundle import ModelDescription
from sentiment_model.store.lineage import StageRecord


def record(name: str, counts: dict[str, object], parameters: object = None) -> StageRecord:
    return StageRecord(name=name, fingerprint="f" * 20, parameters=parameters or {}, counts=counts)  # type: ignore[arg-type]


def with_lineage(evaluation: Evaluation, sources: dict[str, int], salt: str = "v1") -> Evaluation:
    run = TrainingRun().model_dump(mode="json")
    labels = {"negative": 1200, "positive": 1300}
    splits = {"train": labels, "validation": labels, "test": labels, "unlabelled": 40}
    lineage = [
        record("ingest", {"sources": sources}, run["ingest"]),
        record("clean", {"splits": splits, "split_by": "group"}, run["clean"] | {"salt": salt}),
        record("tokenize", {"unit": "word"}, run["tokenize"]),
        record("train", {}, {"model": run["model"], "train": run["train"]}),
    ]
    return evaluation.model_copy(update={"lineage": lineage})


@pytest.fixture
def model(tmp_path: Path) -> ModelDescription:
    return tiny_bundle(tmp_path / "bundle")


def card(evaluation: Evaluation, model: ModelDescription) -> str:
    return model_card(evaluation, decide(evaluation, GateConfig()), model, "sentiment", "7")


def test_a_card_says_what_the_model_is_how_good_and_how_to_use_it(model: ModelDescription) -> None:
    evaluation = with_lineage(example(), {"imdb": 25_000, "shop": 12})
    said = card(evaluation, model)
    accuracy = evaluation.test.metrics["accuracy"]
    assert said.startswith(
        "# sentiment version 7\n\nTells apart negative and positive reviews. A recurrent network (mingru"
    )
    assert "n-grams of up to 3 words" in said
    assert f"Accuracy {100 * accuracy.value:.1f} % ({100 * accuracy.low:.1f} to" in said
    assert "| macro-F1 |" in said
    found = evaluation.test.confusion[0][0] / evaluation.test.of_classes[0]
    assert f"- negative: {100 * found:.1f} % of {evaluation.test.of_classes[0]:,} are found" in said
    assert "Reviews of imdb (25,000) and shop (12)." in said
    assert "- train: negative 1,200, positive 1,300" in said
    assert "- without a label: 40" in said
    assert "It knows reviews in Latin script." in said
    assert "--model-uri models:/sentiment/7" in said
    assert "flows.train \\\n        --model-name sentiment" in said
    weakest = min(evaluation.slices, key=lambda part: part.accuracy.value)
    assert said.index(f"| {weakest.kind}: {weakest.name} |") < said.index("## What it learned from")


def test_a_card_fits_into_a_database_and_leaves_out_the_least(model: ModelDescription) -> None:
    long = with_lineage(example(), {f"a file with a long name, number {n}": n for n in range(9)}, salt="s" * 60)
    assert len(card(long, model)) <= MAX_CHARACTERS
    many = long.model_copy(update={"slices": [part.model_copy(update={"name": "x" * 400}) for part in long.slices]})
    said = card(many, model)
    assert len(said) <= MAX_CHARACTERS
    assert "## How to make it again" not in said
    assert "## What it is for" in said


def test_a_card_of_deleted_datasets_says_so(model: ModelDescription) -> None:
    said = card(example().model_copy(update={"lineage": []}), model)
    assert "The reviews have been deleted since." in said
    assert "## How to make it again" not in said


def test_names_in_a_card_do_nothing(model: ModelDescription) -> None:
    said = card(with_lineage(example(hostile=True), {HOSTILE: 3}), model)
    assert "<script>" not in said
    assert "![](" not in said
