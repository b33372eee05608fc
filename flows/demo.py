"""What `make run` does: the training flow with its defaults, then the scoring flow over the samples.

It ends with a summary of what was made and where it lies.
"""

import os
import sys
from pathlib import Path
from time import perf_counter

from flows._cli import run_flow
from sentiment_model.config import TrainingRun

if __name__ == "__main__":  # before the flow's imports, see run_flow
    sys.exit(run_flow(TrainingRun, "demo"))

from flows.score import score
from flows.train import TrainingSummary, train
from sentiment_model.config import ReviewFiles, ScoringRun
from sentiment_model.evaluation.job import read_evaluation
from sentiment_model.evaluation.report import headline_metrics, interval
from sentiment_model.redaction import redacted
from sentiment_model.scoring.summary import ScoringSummary
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import open_dataset

_SAMPLES = Path(__file__).parent.parent / "data" / "samples"


def demo(run: TrainingRun) -> None:
    """Train, score the samples with the model, promoted or not, and print what came of it.

    Some samples are nasty on purpose, so more of them may go to quarantine than by default.
    """
    started = perf_counter()
    trained = train(run)
    alias = "champion" if trained.registration.promoted else "challenger"
    files = ReviewFiles(path=str(_SAMPLES), max_bad_share=0.1)
    scored = score(ScoringRun(files=files, model_uri=f"models:/{run.model_name}@{alias}"))
    sys.stdout.write(_summary(trained, scored, perf_counter() - started))


def _summary(trained: TrainingSummary, scored: ScoringSummary, seconds: float) -> str:
    evaluation, _ = read_evaluation(open_dataset(trained.evaluation))
    tests = {"held-out reviews": evaluation.test, **evaluation.separate}
    tests |= {"its recurrent part": evaluation.recurrent_test, "linear baseline": evaluation.baseline_test}
    metrics = headline_metrics(evaluation.classes)
    width = max(len(metric.title) for metric in metrics.values())
    registration = trained.registration
    lines = [""]
    for title, scores in tests.items():
        lines += [f"{title} ({scores.rows:,}), with {100 * evaluation.confidence:g} % intervals"]
        lines += [
            f"  {metric.title:<{width}} {interval(scores.metrics[key], metric.is_share)}"
            for key, metric in metrics.items()
        ]
    validation = (evaluation.validation, evaluation.baseline_validation)
    model, baseline = (interval(scores.metrics["accuracy"]) for scores in validation)
    lines += [
        "",
        f"Validation    accuracy {model}; linear baseline {baseline}",
        f"Gate          {registration.reason}",
        f"Model         {registration.name} version {registration.version}"
        + (" (registered before)" if registration.reused else ""),
        f"Scored        {scored.scored} of {scored.rows_in} sample reviews, {scored.quarantined} quarantined",
        f"Scores        {scored.table}",
        f"Report        {open_dataset(trained.evaluation).files('report')[0]}",
        f"Reused        {', '.join([*trained.reused, *(['score'] if scored.reused else [])]) or 'nothing'}",
        f"Time          {seconds:.0f} s",
        "",
        "Prefect UI    " + _prefect_command(),
        f"MLflow UI     {sys.prefix}/bin/mlflow ui --backend-store-uri {redacted(Settings().mlflow_tracking_uri)}",
        "",
    ]
    return "\n".join(lines)


def _prefect_command() -> str:
    home = os.environ.get("PREFECT_HOME")
    return (f"PREFECT_HOME={home} " if home else "") + f"{sys.prefix}/bin/prefect server start"
