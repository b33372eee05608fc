"""`prefect.yaml` names flows that exist, with parameters that they take, on schedules that parse."""

from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import load_flow_from_entrypoint

ROOT = Path(__file__).parent.parent
CONFIG = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = {deployment["name"]: deployment for deployment in CONFIG["deployments"]}


def test_both_flows_are_deployed_to_one_process_pool() -> None:
    assert set(DEPLOYMENTS) == {"nightly-training", "scheduled-scoring"}
    assert {deployment["work_pool"]["name"] for deployment in DEPLOYMENTS.values()} == {"sentiment"}


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


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_schedules_parse(name: str) -> None:
    (schedule,) = DEPLOYMENTS[name]["schedules"]
    cron = DeploymentScheduleCreate(schedule=CronSchedule(**schedule)).schedule
    assert isinstance(cron, CronSchedule)
    assert datetime.now(ZoneInfo(str(cron.timezone))).tzinfo is not None


def test_a_second_training_does_not_start_beside_the_first() -> None:
    assert DEPLOYMENTS["nightly-training"]["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
