"""The scoring flow: a registered model over review files.

Run it with ``python -m flows.score --files.path PATH``; ``--help`` lists what can be chosen.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel

from flows._cli import run_cli
from sentiment_model.config import ScoringRun
from sentiment_model.scoring import files_to_score
from sentiment_model.settings import Settings
from sentiment_model.store import DatasetRef, open_dataset
from sentiment_model.tracking import Tracker
from tasks.score import fetch_model
from tasks.score import score as label_files


class ScoringSummary(BaseModel):
    """What a scoring run made; shares are in 0..1.

    Attributes:
        scores: the labelled rows (role `part`) and the quarantine (role `quarantine`).
        folder: where they lie.
        reused: whether an earlier run had labelled the same files with the same model; the figures are its own.
        model_version: version of the model in the registry.
        files: files read.
        rows_in: rows read.
        scored: rows labelled.
        quarantined: rows that could not be labelled.
        reasons: those rows by reason.
        positive_share: share of the labelled rows that are positive.
        unknown_share: share of the tokens that the model's vocabulary does not have.
        mean_tokens: tokens a review.
        seconds: time that reading, labelling and writing took.
        reviews_per_second: labelled rows by that time.
    """

    scores: DatasetRef
    folder: str
    reused: bool
    model_version: str
    files: int
    rows_in: int
    scored: int
    quarantined: int
    reasons: dict[str, int]
    positive_share: float
    unknown_share: float
    mean_tokens: float
    seconds: float
    reviews_per_second: float


@flow(name="score", flow_run_name="score {run.files.path} with {run.model_uri}")
def score(run: ScoringRun) -> ScoringSummary:
    """Label review files with a registered model.

    Files that were labelled before, with the same model and options, are not labelled again.

    Args:
        run: which files, with which model.

    Raises:
        SentimentError: the files, the configuration or a server is at fault; the message says what to do.
    """
    started = datetime.now(UTC)
    files_to_score(run)  # first, so that a wrong path is known before a model is fetched
    tracker = Tracker(Settings())
    with TemporaryDirectory(prefix="sentiment-model-") as folder:
        bundle, version = fetch_model(tracker, run.model_uri, Path(folder))
        scores = open_dataset(label_files(run, bundle, version))
    summary = ScoringSummary(
        scores=scores.ref,
        folder=scores.url,
        reused=scores.manifest.created_at < started,
        model_version=version,
        **scores.counts,
    )
    create_markdown_artifact(_markdown(run, summary), key="scores", description="What was scored")
    get_run_logger().info(
        "%s %d of %d rows with version %s, %.1f %% positive; %d quarantined; in %s",
        "Nothing new: an earlier run labelled" if summary.reused else "Labelled",
        summary.scored,
        summary.rows_in,
        version,
        100 * summary.positive_share,
        summary.quarantined,
        summary.folder,
    )
    return summary


def _markdown(run: ScoringRun, summary: ScoringSummary) -> str:
    rows = {
        "Files": f"{summary.files:,}",
        "Rows read": f"{summary.rows_in:,}",
        "Rows labelled": f"{summary.scored:,}",
        "Rows in quarantine": f"{summary.quarantined:,}",
        **{f"  for {reason}": f"{count:,}" for reason, count in summary.reasons.items()},
        "Positive": f"{summary.positive_share:.1%}",
        "Tokens unknown to the model": f"{summary.unknown_share:.1%}",
        "Tokens a review": f"{summary.mean_tokens:,.0f}",
        "Time": f"{summary.seconds:,.1f} s",
        "Reviews a second": f"{summary.reviews_per_second:,.0f}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    heading = "Nothing new; an earlier run labelled these files" if summary.reused else "Labelled"
    return (
        f"# {heading}\n\n`{run.files.path}` with `{run.model_uri}`, version {summary.model_version}\n\n"
        f"| | |\n| --- | ---: |\n{table}\n\nIn `{summary.folder}`\n"
    )


def main() -> int:
    """Run the flow from the command line."""
    return run_cli(ScoringRun, score)


if __name__ == "__main__":
    sys.exit(main())
