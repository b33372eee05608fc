"""Reaching MLflow: whether it answers, where its pages are, and its errors as ours."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.exc import SQLAlchemyError

from sentiment_model.errors import TrackingError
from sentiment_model.store.objects import first_line

_CONNECT_SECONDS = 10


def probe(uri: str, is_database: bool) -> None:
    """Ask for any answer once: MLflow's own calls retry for minutes, which helps a run but not a start.

    Raises:
        TrackingError: there is none.
    """
    try:
        if is_database:
            url = sqlalchemy.make_url(uri)
            if url.drivername.startswith("sqlite") and url.database:
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            sqlalchemy.create_engine(url).connect().close()
        elif uri.startswith(("http://", "https://")):
            http_request(
                get_default_host_creds(uri),  # type: ignore[no-untyped-call]
                "/health",
                "GET",
                max_retries=1,
                timeout=_CONNECT_SECONDS,
                raise_on_status=False,
            )
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        raise TrackingError(
            f"MLflow at {uri} cannot be reached ({_cause(error)}); "
            "start it, or set SENTIMENT_MLFLOW_TRACKING_URI to another"
        ) from error


def page_root(uri: str) -> str | None:
    """Return where a server's pages begin, without the credentials that its address may hold."""
    address = urlsplit(uri)
    if address.scheme not in ("http", "https"):
        return None
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path.rstrip('/')}/#"


@contextmanager
def mlflow_errors(*also: type[Exception]) -> Iterator[None]:
    """Turn what MLflow raises, and the types in `also`, into a one-line TrackingError."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, *also) as error:  # type: ignore[misc]  # mypy cannot unpack here
        message = f"MLflow at {mlflow.get_tracking_uri()} failed: {first_line(error)}"
        if "error code 401" in message:
            message = (
                f"MLflow at {mlflow.get_tracking_uri()} refuses the name or the password; set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        raise TrackingError(message) from error


def all_pages(search: Callable[..., Iterable[Any]]) -> list[Any]:
    """Return everything that one of MLflow's searches finds, which come in pages."""
    found: list[Any] = []
    token = None
    while True:
        page = search(page_token=token)
        found += page
        token = getattr(page, "token", None)
        if not token:
            return found


def _cause(error: BaseException) -> str:
    """Return the first line of the innermost error, which names what went wrong instead of who noticed."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return first_line(error)
