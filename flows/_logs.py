"""What is logged, here and by the libraries: no password, and no traceback of an error that a user can cause."""

import logging
import traceback
from collections.abc import Callable
from contextlib import suppress

from sentiment_model.errors import SentimentError
from sentiment_model.redaction import redacted


def guard_logs() -> None:
    """Hide passwords in whatever this process logs, and leave Prefect's tracebacks of users' errors out."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_traceback)
    logging.setLogRecordFactory(_redacting(logging.getLogRecordFactory()))


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info, tuple) and isinstance(record.exc_info[1], SentimentError):
        record.exc_info = record.exc_text = None
    return True


def _redacting(factory: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    """Return a factory whose records hold no password, neither in their message nor in their traceback."""

    def make(*args: object, **options: object) -> logging.LogRecord:
        record = factory(*args, **options)
        # A message that does not fit its arguments is left to the handler, which says so and lets the program go on.
        with suppress(TypeError, ValueError, KeyError):
            message = record.getMessage()
            if (shown := redacted(message)) != message:
                record.msg, record.args = shown, None
        if record.exc_info and record.exc_info[1]:
            record.exc_text = redacted("".join(traceback.format_exception(record.exc_info[1])).rstrip("\n"))
        return record

    return make
