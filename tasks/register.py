"""Registration in MLflow as a Prefect task."""

import math
import re
from collections.abc import Container, Iterator

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from pydantic import BaseModel

from sentiment_model.evaluation.card import model_card
from sentiment_model.evaluation.evaluate import Evaluation, Scores
from sentiment_model.evaluation.gate import GateDecision
from sentiment_model.evaluation.job import read_evaluation
from sentiment_model.evaluation.metrics import metrics_of
from sentiment_model.evaluation.report import headline_metrics
from sentiment_model.markdown import markdown_cell, markdown_link
from sentiment_model.models.bundle import ModelDescription
from sentiment_model.registry.git import git_commit
from sentiment_model.registry.tracking import Tracker
from sentiment_model.registry.versions import DATA_TAG, RegisteredVersion
from sentiment_model.store.datasets import Dataset, DatasetRef, open_dataset
from tasks._stage import RETRIES


class Registration(BaseModel):
    """What became of a trained model in the registry.

    Attributes:
        name: name of the registered model.
        version: its version there, always `challenger`.
        promoted: whether it is `champion` now.
        reason: why, or why not, in a sentence.
        reused: whether an earlier run had registered this very model.
        decision: what the gate found.
        run_id: the MLflow run that trained it.
    """

    name: str
    version: str
    promoted: bool
    reason: str
    reused: bool
    decision: GateDecision
    run_id: str


@task(
    name="register",
    task_run_name="register {model_name}",
    cache_policy=NO_CACHE,  # the registry may have changed since
    **RETRIES,
    timeout_seconds=3600,
)
def register(model: DatasetRef, evaluation: DatasetRef, model_name: str, run_id: str, tracker: Tracker) -> Registration:
    """Register a model with its evaluation; make it champion if the gate passed it.

    Args:
        model: the trained model.
        evaluation: its evaluation and the gate's decision.
        model_name: name in the registry.
        run_id: the MLflow run that trained it; it gets the metrics and the report.
        tracker: the connection to MLflow.

    Raises:
        StoreError: a dataset is missing or damaged.
        TrackingError: MLflow cannot be reached or refuses.
    """
    dataset = open_dataset(evaluation)
    found, decision = read_evaluation(dataset)
    log = tracker.run_log(run_id)
    log.log_metrics(dict(_metrics(found, metrics_of(found.classes))))
    with dataset.local_folder() as folder:
        log.log_folder(folder, "evaluation")
    with open_dataset(model).local_folder() as bundle:
        registered = tracker.registry.register(
            bundle,
            model_name,
            run_id,
            promote=decision.promote,
            tags=_tags(dataset, found, decision),
            compared_with=found.champion.version if found.champion else None,
            is_better=any((rule.value or 0.0) > 0.5 for rule in decision.rules if rule.name == "champion"),
        )
        card = model_card(found, decision, ModelDescription.read(bundle), model_name, registered.version)
        tracker.registry.describe(model_name, registered.version, card)
    reason = decision.summary
    if registered.held_back:
        reason = f"Not promoted: {registered.held_back}."
    elif registered.is_champion and not decision.promote:
        reason = f"It stays champion, which the gate would not make it now. {decision.summary}"
    get_run_logger().info(
        "%s %s version %s. %s",
        "Found the same model as" if registered.reused else "Registered",
        model_name,
        registered.version,
        reason,
    )
    if not registered.is_champion:
        emit_event(  # deploy/apply.py makes a message of it
            "sentiment.model.not-promoted",
            {"prefect.resource.id": f"sentiment.model.{model_name}", "prefect.resource.name": model_name},
            payload={"model": model_name, "version": registered.version, "reason": reason},
        )
    create_markdown_artifact(
        "\n".join(_markdown(registered, decision, reason, run_id, tracker)),
        key="registration",
        description="The registered version, and why it is champion or not",
    )
    return Registration(
        name=model_name,
        version=registered.version,
        promoted=registered.is_champion,
        reason=reason,
        reused=registered.reused,
        decision=decision,
        run_id=run_id,
    )


def _markdown(
    registered: RegisteredVersion, decision: GateDecision, reason: str, run_id: str, tracker: Tracker
) -> Iterator[str]:
    name, version = registered.name, registered.version
    yield f"# {markdown_cell(name)} version {version} is {'champion' if registered.is_champion else 'challenger'}\n"
    if registered.is_champion != decision.promote:
        yield f"{markdown_cell(reason)}\n"
    yield "| rule | | why |\n| --- | --- | --- |"
    for rule in decision.rules:
        yield f"| {rule.name} | {'passed' if rule.passed else 'failed'} | {markdown_cell(rule.reason)} |"
    yield f"\n- Model: {markdown_link(f'{name} version {version}', tracker.registry.version_url(name, version))}"
    yield f"- Metrics, report and figures: {markdown_link(f'MLflow run {run_id}', tracker.run_url(run_id))}"


def _metrics(evaluation: Evaluation, told: Container[str]) -> Iterator[tuple[str, float]]:
    """Yield the names and values of those of the metrics that the data defines, `test_accuracy` and so on."""
    # MLflow takes few characters in a metric's name; a source may be named like a file.
    separate = {re.sub(r"\W+", "_", name): scores for name, scores in evaluation.separate.items()}
    sets: dict[str, Scores] = {
        "validation": evaluation.validation,
        "test": evaluation.test,
        "baseline_test": evaluation.baseline_test,
        **{f"test_{name}": scores for name, scores in separate.items()},
    }
    for part, scores in sets.items():
        for name, interval in scores.metrics.items():
            if name in told and math.isfinite(interval.value):
                yield f"{part}_{name}", interval.value


def _tags(dataset: Dataset, evaluation: Evaluation, decision: GateDecision) -> dict[str, str]:
    """Return what a version says of itself: its data, code, metrics, and each rule of the gate with its reason.

    The metrics of each of more than two classes are those of the run only: they are many, and a tag is a request.
    """
    told = headline_metrics(evaluation.classes)
    made_from = {record.name: record.fingerprint for record in evaluation.lineage} | dataset.manifest.inputs
    return {
        "git_commit": git_commit() or "unknown",
        **{f"{DATA_TAG}{name.replace(' ', '_')}": value for name, value in made_from.items()},
        f"{DATA_TAG}evaluate": dataset.ref.fingerprint,
        **{f"metric.{name}": f"{value:.6g}" for name, value in _metrics(evaluation, told)},
        "gate": "passed" if decision.promote else "failed",
        **{f"gate.{rule.name}": f"{'passed' if rule.passed else 'failed'}: {rule.reason}" for rule in decision.rules},
    }
