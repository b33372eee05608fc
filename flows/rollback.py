"""Puts the previous champion back in service.

Run it with ``python -m flows.rollback``; run again, it undoes itself.
"""

import sys

from pydantic import Field

from flows._cli import run_cli
from sentiment_model.config import Config
from sentiment_model.settings import Settings


class Rollback(Config):
    """Swap the aliases `champion` and `previous` of a model."""

    model_name: str = Field("sentiment", description="Name in the MLflow model registry.")


def rollback(run: Rollback) -> None:
    """Swap `champion` and `previous`, and say which versions they are now.

    Raises:
        ModelError: there is no previous champion.
        TrackingError: MLflow cannot be reached.
    """
    from sentiment_model.registry.tracking import Tracker  # MLflow takes seconds to load, which help need not wait for

    champion, previous = Tracker(Settings()).registry.rollback(run.model_name)
    sys.stdout.write(f"{run.model_name}: champion is version {champion} now, previous is version {previous}\n")


def main() -> int:
    """Run from the command line."""
    return run_cli(Rollback, rollback)


if __name__ == "__main__":
    sys.exit(main())
