"""Gives a Prefect server everything that the pipeline needs there: work pool, queue, limit, deployments, automations.

``python -m deploy.apply`` changes the server that ``PREFECT_API_URL`` names; a second call changes nothing.
Notifications go to the webhook that ``SENTIMENT_ALERT_WEBHOOK`` names. It is a secret, so Prefect keeps it in a block,
and a later call without the variable leaves it as it is.
"""

import os
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import httpx
from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture, SendNotification
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from prefect.types import SecretDict
from prefect.workers.process import ProcessWorker

from flows._cli import run_cli
from sentiment_model.config import Config
from sentiment_model.errors import ConfigurationError

ROOT = Path(__file__).parent.parent
POOL = "sentiment"
GPU = "gpu"  # the trainings' queue, and the limit that tasks/train.py holds while it trains
ALERTS = "sentiment-alerts"

SILENCE = timedelta(minutes=10)  # a run says every 3 minutes that it lives
_OURS = {"prefect.resource.id": "prefect.tag.sentiment", "prefect.resource.role": "tag"}  # what prefect.yaml tags
_FLOW_RUNS = {"prefect.resource.id": "prefect.flow-run.*"}


class Apply(Config):
    """Give the Prefect server at PREFECT_API_URL what the pipeline needs there."""


def apply(_run: Apply) -> None:
    """Create or update everything.

    Raises:
        ConfigurationError: the server cannot be reached or refuses, or prefect.yaml is wrong.
    """
    api = os.environ.get("PREFECT_API_URL")
    if not api:
        raise ConfigurationError("name the Prefect server in PREFECT_API_URL, for example http://127.0.0.1:4200/api")
    try:
        with get_client(sync_client=True) as client:
            _create_pool(client)
            _deploy()
            for automation in _automations(client):
                _apply_automation(client, automation)
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        reason = str(error).strip() or type(error).__name__
        raise ConfigurationError(f"Prefect at {api} failed: {reason.splitlines()[0]}") from error


def _create_pool(client: SyncPrefectClient) -> None:
    """Create what is missing, and leave what a person may have changed since, such as a higher limit."""
    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    with suppress(ObjectAlreadyExists):
        client.create_work_queue(name=GPU, work_pool_name=POOL)
    try:
        client.read_global_concurrency_limit_by_name(GPU)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU, limit=1))


def _deploy() -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    # prefect.yaml names the checkout by $PWD, which a shell, not the folder of a process, sets.
    done = subprocess.run(  # noqa: S603 - fixed arguments
        command, cwd=ROOT, env=os.environ | {"PWD": str(ROOT)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigurationError(f"`prefect deploy --all` failed:\n{done.stdout}{done.stderr}")


def _automations(client: SyncPrefectClient) -> list[AutomationCore]:
    # A process that is killed cannot say so, and its run would stay `Running` for ever.
    silent = AutomationCore(
        name="sentiment: close silent runs",
        description="Marks a run as crashed when its process has died without a word.",
        trigger=EventTrigger(
            match=_FLOW_RUNS,
            match_related=_OURS,
            after={"prefect.flow-run.heartbeat"},
            expect={
                "prefect.flow-run.heartbeat",
                *(f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut")),
            },
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, message=f"No sign of life for {SILENCE}: its process has died.")
        ],
    )
    block = _alert_block(client)
    if block is None:
        return [silent]
    failed = AutomationCore(
        name="sentiment: tell of failed runs",
        description="Sends a message when a run of a deployment fails or crashes.",
        trigger=EventTrigger(
            match=_FLOW_RUNS,
            match_related=_OURS,
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="{{ flow_run.name }}: {{ flow_run.state.name }}",
                body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
            )
        ],
    )
    refused = AutomationCore(
        name="sentiment: tell of models not promoted",
        description="Sends a message when the gate keeps a new model from becoming champion.",
        trigger=EventTrigger(
            # What tasks/register.py emits.
            match={"prefect.resource.id": "sentiment.model.*"},
            expect={"sentiment.model.not-promoted"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="{{ event.payload.model }} version {{ event.payload.version }} is not champion",
                body="{{ event.payload.reason }}",
            )
        ],
    )
    return [silent, failed, refused]


def _alert_block(client: SyncPrefectClient) -> UUID | None:
    """Return the id of the block that holds the webhook, or None where none was ever named."""
    if url := os.environ.get("SENTIMENT_ALERT_WEBHOOK"):
        CustomWebhookNotificationBlock(
            name=ALERTS,
            url="{{url}}",  # only what is among the secrets is kept as one
            json_data={"text": "{{subject}}\n{{body}}"},
            secrets=SecretDict({"url": url}),
        ).save(ALERTS, overwrite=True)
    try:
        return client.read_block_document_by_name(ALERTS, "custom-webhook", include_secrets=False).id
    except ObjectNotFound:
        sys.stdout.write("No notifications: SENTIMENT_ALERT_WEBHOOK names no webhook\n")
        return None


def _apply_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    # An update sends only the fields that were set, but needs all but the owner, the types of triggers and actions too.
    automation = AutomationCore.model_validate(automation.model_dump(exclude={"owner_resource"}))
    existing = client.read_automations_by_name(automation.name)
    if not existing:
        client.create_automation(automation)
    # An update makes the server forget what it waits for, such as the next sign of life of a run that has just died.
    elif AutomationCore.model_validate(existing[0].model_dump(exclude={"id", "owner_resource"})) != automation:
        client.update_automation(existing[0].id, automation)


def main() -> int:
    """Run from the command line."""
    return run_cli(Apply, apply)


if __name__ == "__main__":
    sys.exit(main())
