"""Prefect flows: the training and the scoring pipeline."""

import os

from flows._logs import guard_logs

# Unless the user wants it otherwise: nothing that runs here reports to anybody, and a Prefect server keeps on disk who
# holds a concurrency limit. In memory a restart would forget that, and the limit would stay taken for ever. A temporary
# server of Prefect's may take minutes to start on a busy machine, not 20 s.
# The libraries read this when they are imported.
for _name, _value in {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would print the server's password with it
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
}.items():
    os.environ.setdefault(_name, _value)

guard_logs()
