"""The clean-up flow: deletes old datasets, scores, checkpoints and MLflow runs that nothing needs.

Run it with ``python -m flows.tidy``, which only says what it would delete; ``--no-dry-run`` deletes it.
"""

import sys

from prefect import flow

from flows._cli import run_cli
from sentiment_model.config import TidyRun
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


def main() -> int:
    """Run the flow from the command line."""
    return run_cli(TidyRun, tidy)


if __name__ == "__main__":
    sys.exit(main())
