"""The MLflow run of a flow run, each of which leads to the other."""

from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from sentiment_model.config import Config
from sentiment_model.nested import flatten
from sentiment_model.tracking import Tracker, TrainingRunLog


def start_mlflow_run(tracker: Tracker, experiment: str, fingerprint: str, run: Config) -> TrainingRunLog:
    """Return the MLflow run with this fingerprint, creating it where there is none.

    Args:
        tracker: the connection to MLflow.
        experiment: experiment to log to.
        fingerprint: names what the run does; one that does it again finds the run by it.
        run: the flow's parameters.
    """
    return tracker.start_run(
        experiment,
        fingerprint,
        name=str(flow_run.name),
        params=flatten(run.model_dump(mode="json")),
        tags={"prefect.flow_run": str(flow_run.id or "")},
        origin=url_for("flow-run", flow_run.id) if flow_run.id else None,
    )
