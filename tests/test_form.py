"""What the Prefect UI's form makes of the flows' parameters."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.score import score
from flows.train import train
from sentiment_model.config import ReviewFiles, ScoringRun, TrainingRun
from sentiment_model.profiles import PROFILES

SCHEMA = train.parameters.model_dump()
SCORING = score.parameters.model_dump()
DEFINITIONS = SCHEMA["definitions"] | SCORING["definitions"]


def fields() -> Iterator[tuple[str, dict[str, Any]]]:
    for model, schema in DEFINITIONS.items():
        for name, field in schema["properties"].items():
            yield f"{model}.{name}", field


def untouched(schema: dict[str, Any]) -> Any:
    """Return what the form sends for a value that nobody touched, or None where it sends nothing.

    A switch sends `false`; text, numbers and choices send their default, if there is one; a section sends its fields.
    """
    if reference := schema.get("$ref"):
        schema = DEFINITIONS[reference.rpartition("/")[2]]
        sent = {name: untouched(field) for name, field in schema["properties"].items()}
        return {name: value for name, value in sent.items() if value is not None} or None
    return schema.get("default", False if schema.get("type") == "boolean" else None)


def test_a_form_that_nobody_filled_in_runs_the_defaults() -> None:
    sent = {"run": untouched(SCHEMA["properties"]["run"])}
    validate(sent, SCHEMA, raise_on_error=True)
    assert train.validate_parameters(sent)["run"] == TrainingRun()


def test_a_form_with_only_the_path_filled_in_scores_it() -> None:
    sent = {"run": untouched(SCORING["properties"]["run"])}
    sent["run"]["files"]["path"] = "inbox"
    validate(sent, SCORING, raise_on_error=True)
    assert score.validate_parameters(sent)["run"] == ScoringRun(files=ReviewFiles(path="inbox"))


@pytest.mark.parametrize("profile", PROFILES)
def test_a_form_with_only_the_profile_chosen_runs_the_profile(profile: Any) -> None:
    sent = {"run": {**untouched(SCHEMA["properties"]["run"]), "profile": profile}}
    assert train.validate_parameters(sent)["run"] == TrainingRun(profile=profile)


def test_every_field_has_a_title_a_description_and_its_place() -> None:
    for name, field in fields():
        referenced = DEFINITIONS.get(field.get("$ref", "").rpartition("/")[2], {})
        assert field.get("title") or referenced.get("title"), name
        assert field["description"].endswith("."), name
        assert "<" not in field["description"].replace("`<unk>`", ""), f"{name}: the form takes it for HTML"
    for model, schema in DEFINITIONS.items():
        # PostgreSQL sorts the keys of JSON; the form goes by position.
        assert [field["position"] for field in schema["properties"].values()] == list(range(len(schema["properties"])))
        if "source" in schema["properties"]:
            assert next(iter(schema["properties"])) == "source", model


def test_titles_are_words() -> None:
    titles = {name: field.get("title", "") for name, field in fields()}
    assert titles["ModelConfig.hidden_size"] == "Hidden size"
    assert {
        name: title for name, title in titles.items() if re.search(r"\b([Mm]ax|[Mm]in)\b|_| [A-Z][a-z]", title)
    } == {}
    assert titles["DriftConfig.max_psi"] == "Largest PSI"
    assert {name: title for name, title in titles.items() if re.search(r"\b(Csv|Ema|Id|Ks|Psi|Ur[il])\b", title)} == {}


def test_only_a_whole_section_is_a_choice_between_types() -> None:
    unions = {name: field for name, field in fields() if "anyOf" in field}
    assert set(unions) == {"TrainingRun.test", "TrainingRun.unlabelled"}
    for field in unions.values():
        (section,) = (kind for kind in field["anyOf"] if "$ref" in kind)
        assert DEFINITIONS[section["$ref"].rpartition("/")[2]]["title"] == "Labelled reviews"


@pytest.mark.parametrize("profile", PROFILES)
def test_whole_runs_are_accepted_too(profile: Any) -> None:
    """As `run_deployment` and a copied run send them: with a null for everything that is not set."""
    sent = {"run": TrainingRun(profile=profile).model_dump(mode="json")}
    validate(sent, SCHEMA, raise_on_error=True)
    assert train.validate_parameters(sent)["run"] == TrainingRun(profile=profile)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("train", "epochs", 0, "0 is less than the minimum of 1"),
        ("train", "epochs", 1.5, "1.5 is not"),
        ("model", "cell", "transformer", "'transformer' is not one of ['rnn', 'lstm', 'gru', 'mingru', 'qrnn']"),
        ("model", "pooling", [], "[] should be non-empty"),
        ("model", "bidirectional", "yes", "'yes' is not one of [True, False]"),
        ("ingest", "preset", "imbd", "'imbd' is not one of"),
        ("gate", "baseline_margin", 2, "2 is greater than the maximum of 1"),
        ("clean", "salt", "x" * 65, "is too long"),
        ("clean", "no_such_field", 1, "'no_such_field' was unexpected"),
    ],
)
def test_wrong_values_are_refused_by_name(section: str, field: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        validate({"run": {section: {field: value}}}, SCHEMA, raise_on_error=True)
    assert f"run.{section}" in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"threshold": 1}, "1 is greater than or equal to the maximum of 1"),
        ({"output_format": "csv"}, "'csv' is not one of ['parquet', 'delta']"),
        ({"rescore": "in may"}, "'in may' does not match"),
        ({"files": {"max_text_bytes": 0}}, "0 is less than the minimum of 1"),
        ({"drift": {"action": "stop"}}, "'stop' is not one of ['warn', 'fail']"),
        ({"csv": "yes"}, "'yes' is not of type 'boolean'"),
    ],
)
def test_wrong_values_of_a_scoring_are_refused_by_name(run: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        validate({"run": run}, SCORING, raise_on_error=True)
    (section,) = run
    assert f"run.{section}" in str(refused.value)
    assert message in str(refused.value)
