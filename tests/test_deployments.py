"""`prefect.yaml` names flows that exist, with parameters that they take, on schedules that parse."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect import Flow
from prefect.flows import load_flow_from_entrypoint
from prefect.server.schemas.schedules import CronSchedule

ROOT = Path(__file__).parent.parent
CONFIG = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = {deployment["name"]: deployment for deployment in CONFIG["deployments"]}


def test_each_flow_is_deployed_by_schedule_and_by_hand() -> None:
    entrypoints = {name: deployment["entrypoint"] for name, deployment in DEPLOYMENTS.items()}
    assert entrypoints == {
        "nightly-training": "flows/train.py:train",
        "ad-hoc-training": "flows/train.py:train",
        "scheduled-scoring": "flows/score.py:score",
        "ad-hoc-scoring": "flows/score.py:score",
    }
    assert {deployment["work_pool"]["name"] for deployment in DEPLOYMENTS.values()} == {"sentiment"}
    for name, deployment in DEPLOYMENTS.items():
        assert deployment["work_pool"]["work_queue_name"] == ("gpu" if "training" in name else "default")
        assert "sentiment" in deployment["tags"]  # what the automations go by
        assert deployment["description"]
        assert deployment["concurrency_limit"]["limit"] == 1
        assert ("schedules" in deployment) == (not name.startswith("ad-hoc"))


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_parameters_validate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    flow: Flow[Any, Any] = load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"])
    parameters = flow.validate_parameters(DEPLOYMENTS[name]["parameters"])
    assert parameters["run"].__class__.__name__ in {"TrainingRun", "ScoringRun"}
    broken = {"run": DEPLOYMENTS[name]["parameters"]["run"] | {"no_such_field": 1}}
    with pytest.raises(Exception, match="no_such_field"):
        flow.validate_parameters(broken)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_form_describes_every_field(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Prefect UI's form is made from this schema."""
    monkeypatch.chdir(ROOT)
    flow: Flow[Any, Any] = load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"])
    definitions = flow.parameters.model_dump()["definitions"]
    assert definitions
    for model, schema in definitions.items():
        for field, described in schema.get("properties", {}).items():
            referenced = definitions.get(described.get("$ref", "").rpartition("/")[2], {})
            description = described.get("description") or referenced.get("description")
            assert description, f"{model}.{field} has no description"


def starts(name: str, first: datetime, last: datetime) -> list[datetime]:
    """Return when Prefect's scheduler would start a deployment."""
    (schedule,) = DEPLOYMENTS[name]["schedules"]
    return asyncio.run(CronSchedule(**schedule).get_dates(n=1000, start=first, end=last))


@pytest.mark.parametrize("change", [(2027, 3, 28), (2027, 10, 31)], ids=["into summer time", "out of summer time"])
def test_daylight_saving_neither_drops_nor_doubles_a_run(change: tuple[int, int, int]) -> None:
    zone = ZoneInfo("Europe/Berlin")
    first = datetime(*change, tzinfo=zone) - timedelta(days=1)
    last = first + timedelta(days=3) - timedelta(minutes=1)
    nights = starts("nightly-training", first, last)
    assert [night.astimezone(zone).day for night in nights] == [(first + timedelta(days=i)).day for i in range(3)]
    hours = starts("scheduled-scoring", first.astimezone(UTC), last.astimezone(UTC))
    assert len(hours) > 70
    assert {(later - earlier).total_seconds() for earlier, later in pairwise(hours)} == {3600}


def test_a_second_nightly_training_is_cancelled_and_what_people_start_waits() -> None:
    strategies = {
        name: deployment["concurrency_limit"]["collision_strategy"] for name, deployment in DEPLOYMENTS.items()
    }
    assert strategies.pop("nightly-training") == "CANCEL_NEW"
    assert set(strategies.values()) == {"ENQUEUE"}
