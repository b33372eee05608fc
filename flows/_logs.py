"""What Prefect logs of errors that a user can cause: one line, without the traceback of our own code.

A traceback would also show the errors behind them, whose texts are those of libraries and may hold a password.
"""

import logging

from sentiment_model.errors import SentimentError


def quieten_user_errors() -> None:
    """Leave tracebacks out of what Prefect logs of these errors in this process."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info, tuple) and isinstance(record.exc_info[1], SentimentError):
        record.exc_info = None
    return True
