"""Clean-up as a Prefect task."""

from datetime import UTC, datetime

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from sentiment_model.config import TidyRun
from sentiment_model.markdown import markdown_cell
from sentiment_model.registry.tracking import Tracker
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import Store
from sentiment_model.upkeep.retention import Verdict, carry_out, judge
from tasks._stage import RETRIES


@task(
    name="tidy",
    cache_policy=NO_CACHE,  # things have grown older since
    **RETRIES,
    timeout_seconds=24 * 3600.0,
)
def tidy(policy: TidyRun, tracker: Tracker) -> list[Verdict]:
    """Delete what the policy lets go, or only say what that would be; the table is an artifact.

    Returns:
        what was, or would be, deleted.

    Raises:
        StoreError: the store cannot be read or written.
        TrackingError: MLflow cannot be reached.
    """
    settings = Settings()
    store = Store(settings.store_url)
    now = datetime.now(UTC)
    verdicts = judge(policy, store, settings.scratch_dir, tracker, now)
    doomed = [verdict for verdict in verdicts if verdict.delete]
    if not policy.dry_run:
        doomed = list(carry_out(doomed, store, settings.scratch_dir, tracker, now))
    verb = "Would delete" if policy.dry_run else "Deleted"
    log = get_run_logger()
    for verdict in doomed:
        log.info("%s the %s %s (%s): %s", verb, verdict.kind, verdict.name, _size(verdict.bytes), verdict.reason)
    needed = sum(verdict.reason.endswith("needs it") for verdict in verdicts)
    summary = (
        f"{verb} {len(doomed)} of {len(verdicts)} things, {_size(sum(each.bytes or 0 for each in doomed))} in all; "
        f"{needed} are needed by a model version or an unfinished run."
    )
    log.info(summary)
    create_table_artifact(
        key="tidy",
        table=[
            {
                "kind": each.kind,
                "name": markdown_cell(each.name),  # Prefect shows each cell as Markdown
                "size": _size(each.bytes),
                "why": markdown_cell(each.reason),
            }
            for each in doomed
        ],
        description=summary,
    )
    return doomed


def _size(count: int | None) -> str:
    return "size unknown" if count is None else f"{count / 1e6:,.1f} MB"
