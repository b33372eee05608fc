"""Prefect flows: the training and the scoring pipeline."""

import os

# Nothing that runs here reports to anybody, unless the user wants it. The libraries read this when they are imported.
for _name, _value in {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}.items():
    os.environ.setdefault(_name, _value)
