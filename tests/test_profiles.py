"""Profiles give defaults, and what a run names itself goes before them."""

import os
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.flows import load_flow_from_entrypoint

from flows._cli import run_cli
from sentiment_model.config import ModelConfig, TokenizeConfig, TrainConfig, TrainingRun
from sentiment_model.profiles import PROFILES

SECTIONS = {"tokenize": TokenizeConfig, "model": ModelConfig, "train": TrainConfig}


def from_cli(*arguments: str) -> TrainingRun:
    runs: list[TrainingRun] = []
    assert run_cli(TrainingRun, runs.append, arguments) == 0
    return runs[0]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_sets_what_is_left_open(profile: Any) -> None:
    run = TrainingRun(profile=profile)
    assert from_cli("--profile", profile) == run
    for section, defaults in SECTIONS.items():
        expected = defaults().model_dump() | PROFILES[profile].get(section, {})
        assert getattr(run, section).model_dump() == expected
    assert TrainingRun.model_validate(run.model_dump()) == run
    assert TrainingRun.model_validate_json(run.model_dump_json()) == run


def test_what_is_named_goes_before_the_profile() -> None:
    default, nightly = ModelConfig().hidden_size, TrainingRun(profile="nightly").model
    assert nightly.hidden_size != default
    expected = nightly.model_copy(update={"hidden_size": default})
    assert from_cli("--profile", "nightly", f"--model.hidden-size={default}").model == expected
    assert TrainingRun(profile="nightly", model=ModelConfig(hidden_size=default)).model == expected
    assert TrainingRun.model_validate({"profile": "nightly", "model": {"hidden_size": default}}).model == expected


@pytest.mark.parametrize("broken", [{"profile": "fast"}, {"profile": "quick", "model": 3}, {"model": {"layers": 0}}])
def test_what_is_wrong_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"profile|model"):
        TrainingRun.model_validate(broken)


def test_a_form_that_sends_its_defaults_back_leaves_the_profile_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    flow: Flow[Any, Any] = load_flow_from_entrypoint(f"flows{os.sep}train.py:train")
    definitions = flow.parameters.model_dump()["definitions"]

    def defaults(name: str) -> dict[str, Any]:
        fields = definitions[name]["properties"]
        return {key: field["default"] for key, field in fields.items() if "default" in field}

    form = {section: defaults(model.__name__) for section, model in SECTIONS.items()}
    sent = {"run": {"profile": "quick", "clean": defaults("CleanConfig"), **form}}
    assert defaults("CleanConfig"), "the schema names no defaults at all"
    assert flow.validate_parameters(sent)["run"] == TrainingRun(profile="quick")
