"""The clean-up flow: deletes old datasets, scores, checkpoints and MLflow runs that nothing needs.

Run it with ``python -m flows.tidy``, which only says what it would delete; ``--no-dry-run`` deletes it.
"""

import sys

from flows._cli import run_flow
from sentiment_model.config import TidyRun

if __name__ == "__main__":  # before the flow's imports, see run_flow
    sys.exit(run_flow(TidyRun, "tidy"))

from prefect import flow

from sentiment_model.registry.tracking import Tracker
from sentiment_model.settings import Settings
from sentiment_model.upkeep.retention import Verdict
from tasks.tidy import tidy as delete_old


@flow(name="tidy", flow_run_name="tidy, dry run: {run.dry_run}")
def tidy(run: TidyRun) -> list[Verdict]:
    """Delete what is old and not needed by a registered model version or an unfinished run.

    Args:
        run: how long what is kept, and whether to delete or only to report.

    Raises:
        SentimentError: the store or MLflow is at fault; the message says what to do.
    """
    return delete_old(run, Tracker(Settings()))
