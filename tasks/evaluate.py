"""Evaluation and the gate as a Prefect task."""

from typing import Any

from prefect.artifacts import create_markdown_artifact

from sentiment_model.config import EvaluateConfig, GateConfig
from sentiment_model.evaluation.evaluate import ChampionModel
from sentiment_model.evaluation.job import EVALUATE, read_evaluation, reviews_of, write_evaluation
from sentiment_model.evaluation.report import report_markdown
from sentiment_model.networks.device import choose_device
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import DatasetRef, DatasetWriter, Store, open_dataset
from sentiment_model.store.lineage import lineage
from tasks._stage import run_stage

_TIMEOUT_SECONDS = 24 * 3600.0


def evaluate(
    model: DatasetRef,
    cleaned: DatasetRef,
    baseline: DatasetRef,
    champion: ChampionModel | None,
    config: EvaluateConfig,
    gate: GateConfig,
    run_url: str | None,
) -> DatasetRef:
    """Evaluate a trained model on the held-out reviews and let the gate judge it.

    Args:
        model: the trained model.
        cleaned: the cleaned reviews that it was trained on.
        baseline: the linear baseline's scores of the same reviews.
        champion: the champion that it has to beat, if there is one.
        config: what to report.
        gate: when to promote.
        run_url: page of the MLflow run, which the report in Prefect links to.

    Raises:
        StoreError: a dataset is missing or damaged.
    """
    inputs = {"train": model.fingerprint, "clean": cleaned.fingerprint, "baseline": baseline.fingerprint}
    seen = reviews_of(champion, Store(cleaned.store_url)) if champion else None
    if champion:
        inputs |= {
            "champion": champion.digest,
            "champion version": champion.version,
            # An evaluation without them is not reused once they are back.
            "champion clean": seen.ref.fingerprint if seen else "unknown",
        }

    def write(writer: DatasetWriter) -> dict[str, Any]:
        with open_dataset(model).local_folder() as folder:
            return write_evaluation(
                writer,
                folder,
                lineage(open_dataset(baseline), open_dataset(model)),
                open_dataset(cleaned).scan(),
                open_dataset(baseline).scan(),
                champion,
                seen.scan() if seen else None,
                config,
                gate,
                choose_device(Settings().device),
            )

    parameters = {"evaluate": config.model_dump(mode="json"), "gate": gate.model_dump(mode="json")}
    evaluation = run_stage(EVALUATE, model.store_url, inputs, parameters, write, timeout_seconds=_TIMEOUT_SECONDS)
    link = f"\nThe [MLflow run]({run_url}) has the report with its figures, under Artifacts.\n" if run_url else ""
    create_markdown_artifact(
        report_markdown(*read_evaluation(open_dataset(evaluation))) + link,
        key="evaluation",
        description="Evaluation on held-out reviews and the gate's decision",
    )
    return evaluation
