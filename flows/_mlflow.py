"""The MLflow run of a flow run, each of which leads to the other."""

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from sentiment_model.config import Config
from sentiment_model.nested import flatten
from sentiment_model.redaction import redacted
from sentiment_model.registry.tracking import FLOW_RUN_TAG, Tracker, TrainingRunLog


def start_mlflow_run(tracker: Tracker, experiment: str, fingerprint: str, run: Config) -> TrainingRunLog:
    """Return the MLflow run with this fingerprint, creating it where there is none.

    Args:
        tracker: the connection to MLflow.
        experiment: experiment to log to.
        fingerprint: names what the run does; one that does it again finds the run by it.
        run: the flow's parameters.
    """
    _end_what_has_died(tracker)
    return tracker.start_run(
        experiment,
        fingerprint,
        name=str(flow_run.name),
        params={name: redacted(str(value)) for name, value in flatten(run.model_dump(mode="json")).items()},
        tags={FLOW_RUN_TAG: str(flow_run.id or "")},
        origin=url_for("flow-run", flow_run.id) if flow_run.id else None,
    )


def _end_what_has_died(tracker: Tracker) -> None:
    """End the MLflow runs whose Prefect run has ended and could not say so; the clean-up keeps what they hold."""
    with get_client(sync_client=True) as prefect:
        for run_id, started_by in tracker.unfinished_runs().items():
            try:
                state = prefect.read_flow_run(UUID(started_by)).state
            except ObjectNotFound:  # of another Prefect server, which alone knows
                continue
            if state and state.is_final():
                tracker.end_run(run_id)
