"""Registration as a Prefect task: the version, its aliases, and why it was promoted or not."""

from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from sentiment_model.evaluation_job import read_evaluation
from sentiment_model.gate import GateDecision
from sentiment_model.store import DatasetRef, open_dataset
from sentiment_model.tracking import Tracker, git_commit
from tasks._stage import retry_can_help


class Registration(BaseModel):
    """What became of a model in the registry."""

    model_name: str
    version: str
    promoted: bool
    reused: bool
    reason: str
    decision: GateDecision
    mlflow_run_id: str


@task(
    name="register",
    task_run_name="register {model_name} {model}",
    cache_policy=NO_CACHE,  # aliases move
    retries=2,
    retry_delay_seconds=exponential_backoff(5),
    retry_jitter_factor=0.5,
    retry_condition_fn=retry_can_help,
    timeout_seconds=3600,
)
def register(
    model: DatasetRef, evaluation: DatasetRef, model_name: str, mlflow_run_id: str, tracker: Tracker
) -> Registration:
    """Register a model as challenger, and as champion if the gate passed it; log its evaluation to its MLflow run.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    found, decision = read_evaluation(open_dataset(evaluation))
    log = tracker.run_log(mlflow_run_id)
    log.log_metrics({f"test_{name}": metric.value for name, metric in found.test.metrics.items()})
    with (
        TemporaryDirectory(prefix="sentiment-evaluation-") as folder,
        open_dataset(evaluation).local_folder() as files,
    ):
        for entry in open_dataset(evaluation).manifest.files:
            name = Path(entry.path).name
            copyfile(files / name, Path(folder, name))
        log.log_folder(Path(folder), "evaluation")
    tags = {
        **{f"fingerprint.{stage}": fingerprint for stage, fingerprint in found.trained_on.items()},
        "fingerprint.train": model.fingerprint,
        "fingerprint.evaluate": evaluation.fingerprint,
        "git_commit": git_commit() or "unknown",
        "gate": decision.summary,
        **{f"test_{name}": f"{metric.value:.6f}" for name, metric in found.test.metrics.items()},
    }
    with open_dataset(model).local_folder() as bundle:
        registered = tracker.register(bundle, model_name, mlflow_run_id, promote=decision.promote, tags=tags)
    reason = f"Not promoted: {registered.held_back}." if registered.held_back else decision.summary
    get_run_logger().info("%s version %s. %s", model_name, registered.version, reason)
    create_markdown_artifact(
        f"# {model_name} version {registered.version}\n\n{reason}\n\nMLflow run `{mlflow_run_id}`\n",
        key="registration",
        description="The registered version and the gate's decision",
    )
    return Registration(
        model_name=model_name,
        version=registered.version,
        promoted=registered.promoted,
        reused=registered.reused,
        reason=reason,
        decision=decision,
        mlflow_run_id=mlflow_run_id,
    )
