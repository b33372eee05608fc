"""The runs of MLflow: what a training or a scoring tells of itself."""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from sentiment_model.redaction import redacted
from sentiment_model.registry.connection import all_pages, mlflow_errors, page_root, probe
from sentiment_model.registry.git import git_commit
from sentiment_model.registry.versions import DATA_TAG, ModelRegistry
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import Dataset
from sentiment_model.training.history import Phase, PretrainingMetrics

FINGERPRINT_TAG = "sentiment.fingerprint"
FLOW_RUN_TAG = "prefect.flow_run"

_PARAMS_PER_REQUEST = 100  # MLflow's limit


@dataclass(frozen=True)
class EndedRun:
    """A training run that has ended and that no registered version came from."""

    run_id: str
    ended_at: datetime


class TrainingRunLog:
    """Writes to one MLflow run, active or finished."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def log_epoch(self, phase: Phase, metrics: PretrainingMetrics) -> None:
        """Log an epoch's figures with the epoch as step, unless the run holds that epoch already.

        Those of phases before the training itself have names of their own: `teacher_validation_loss`.
        """
        figures = asdict(metrics)
        epoch, prefix = figures.pop("epoch"), "" if phase == "training" else f"{phase}_"
        with mlflow_errors():
            history = self._client.get_metric_history(self.run_id, f"{prefix}validation_loss")
            if not any(metric.step == epoch for metric in history):
                self._log({f"{prefix}{name}": value for name, value in figures.items()}, step=epoch)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log figures of the whole run."""
        with mlflow_errors():
            self._log(metrics, step=0)

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        entities = [Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self.run_id, entities)

    def log_dataset(self, dataset: Dataset, context: str) -> None:
        """Log a dataset as an input of the run, with its fingerprint as digest.

        Args:
            dataset: the dataset.
            context: what it is used for: `training`, `test`, ...
        """
        entity = MlflowDataset(
            name=dataset.ref.stage,
            digest=dataset.ref.fingerprint,
            source_type="store",
            source=json.dumps({"uri": redacted(dataset.url)}),
            profile=json.dumps(dataset.counts),
        )
        tags = [InputTag("mlflow.data.context", context)]  # MLflow's own name for it
        with mlflow_errors():
            self._client.log_inputs(self.run_id, [DatasetInput(entity, tags)])

    def log_folder(self, folder: Path, artifact_path: str) -> None:
        """Upload a folder (report, figures) to the run's artifacts."""
        with mlflow_errors(OSError):
            self._client.log_artifacts(self.run_id, str(folder), artifact_path)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        with mlflow_errors():
            self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])


class Tracker:
    """A connection to MLflow.

    Attributes:
        registry: the registered models there.
    """

    def __init__(self, settings: Settings) -> None:
        """Connect.

        Raises:
            TrackingError: the server or database does not answer; known within seconds.
        """
        uri = settings.mlflow_tracking_uri
        self._artifact_root = settings.mlflow_artifact_root
        self._pages = page_root(uri)
        self._is_database = uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES
        probe(uri, self._is_database)
        if "MLFLOW_LOGGING_LEVEL" not in os.environ:
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            logging.getLogger("alembic").setLevel(logging.WARNING)
        with mlflow_errors():
            # Logging and loading a model go by the global address, whatever client is at hand.
            mlflow.set_tracking_uri(uri)
            self._client = MlflowClient(uri)
            self._client.search_experiments(max_results=1)
        self.registry = ModelRegistry(self._client, self._pages)

    def run_log(self, run_id: str) -> TrainingRunLog:
        """Return the log of a run that was started before."""
        return TrainingRunLog(self._client, run_id)

    def find_run(self, experiment: str, fingerprint: str) -> str | None:
        """Return the id of the newest run of the training with this fingerprint, or None."""
        with mlflow_errors():
            found = self._client.get_experiment_by_name(experiment)
            if found is None:
                return None
            runs = self._client.search_runs(
                [found.experiment_id], f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'", max_results=1
            )
            return runs[0].info.run_id if runs else None

    def start_run(
        self,
        experiment: str,
        fingerprint: str,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        origin: str | None = None,
    ) -> TrainingRunLog:
        """Return the run of the training with this fingerprint, creating it where there is none.

        Args:
            experiment: experiment to log to, created where it does not exist.
            fingerprint: names the training; a training that is started again finds its run by it.
            name: name of a new run.
            params: configuration, flat; what the run holds already stays as it is.
            tags: tags to set.
            origin: page of what started the run; its description links to it.
        """
        run_id = self.find_run(experiment, fingerprint)
        with mlflow_errors():
            if run_id is None:
                experiment_id = self._experiment(experiment)
                run_id = self._client.create_run(
                    experiment_id, run_name=name, tags={**_source_tags(), FINGERPRINT_TAG: fingerprint}
                ).info.run_id
            known = self._client.get_run(run_id).data.params
            new = [Param(key, str(value)) for key, value in params.items() if key not in known]
            for start in range(0, len(new), _PARAMS_PER_REQUEST):
                self._client.log_batch(run_id, params=new[start : start + _PARAMS_PER_REQUEST])
        log = self.run_log(run_id)
        log.set_tags({**tags, MLFLOW_RUN_NOTE: f"Started by [{origin}]({origin})"} if origin else tags)
        return log

    def run_url(self, run_id: str) -> str | None:
        """Return the page of a run, or None where MLflow is a database and so has no pages."""
        if self._pages is None:
            return None
        with mlflow_errors():
            experiment = self._client.get_run(run_id).info.experiment_id
        return f"{self._pages}/experiments/{experiment}/runs/{run_id}"

    @contextmanager
    def active(self, run_id: str) -> Iterator[None]:
        """Mark a run as running, and sample the machine's load into it, while the block lasts.

        The run ends as finished, or as failed where the block raises.
        """
        with mlflow_errors(), mlflow.start_run(run_id=run_id, log_system_metrics=True):
            yield

    def _experiment(self, name: str) -> str:
        if found := self._client.get_experiment_by_name(name):
            return str(found.experiment_id)
        location = f"{self._artifact_root}/{name}" if self._is_database else None
        try:
            return str(self._client.create_experiment(name, artifact_location=location))
        except MlflowException:
            if found := self._client.get_experiment_by_name(name):  # another process was first
                return str(found.experiment_id)
            raise

    def claims(self) -> dict[str, str]:
        """Return what must not be deleted: fingerprints of datasets and trainings, each with who needs it.

        Those are what registered versions name, of whatever model, and what the runs name that trained these versions
        or have not ended.
        """
        with mlflow_errors():
            versions = all_pages(self._client.search_model_versions)
            needed = {
                value: f"{version.name} version {version.version}"
                for version in versions
                for name, value in version.tags.items()
                if name.startswith(DATA_TAG)
            }
            trained = {version.run_id: f"{version.name} version {version.version}" for version in versions}
            for run in self._training_runs():
                owner = trained.get(run.info.run_id)
                if owner is None and not _has_ended(run):
                    owner = f"the run {run.info.run_name}, which has not ended,"
                if owner:
                    needed.setdefault(run.data.tags[FINGERPRINT_TAG], owner)
                    for given in run.inputs.dataset_inputs if run.inputs else ():
                        needed.setdefault(given.dataset.digest, owner)
        return needed

    def ended_runs(self) -> list[EndedRun]:
        """Return the training runs that have ended and that no registered version came from."""
        with mlflow_errors():
            registered = {version.run_id for version in all_pages(self._client.search_model_versions)}
            ended = (run.info for run in self._training_runs() if _has_ended(run))
            return [
                EndedRun(run.run_id, datetime.fromtimestamp((run.end_time or run.start_time) / 1000, UTC))
                for run in ended
                if run.run_id not in registered
            ]

    def unfinished_runs(self) -> dict[str, str]:
        """Return the runs that have not ended, by id, each with the id of the flow run that started it last."""
        with mlflow_errors():
            return {
                run.info.run_id: run.data.tags[FLOW_RUN_TAG]
                for run in self._training_runs("attributes.status = 'RUNNING'")
                if run.data.tags.get(FLOW_RUN_TAG)
            }

    def end_run(self, run_id: str) -> None:
        """Mark a run as killed; a training that is started again goes on with it all the same."""
        with mlflow_errors():
            self._client.set_terminated(run_id, RunStatus.to_string(RunStatus.KILLED))

    def delete_run(self, run_id: str) -> None:
        """Delete a run as MLflow does: it can be restored until `mlflow gc` removes its files."""
        with mlflow_errors():
            self._client.delete_run(run_id)

    def _training_runs(self, only: str = "") -> list[Run]:
        """Return the runs of this pipeline, in whatever experiment, that one of MLflow's filters lets through."""
        experiments = [found.experiment_id for found in all_pages(self._client.search_experiments)]
        runs = all_pages(lambda **page: self._client.search_runs(experiments, only, **page)) if experiments else []
        return [run for run in runs if FINGERPRINT_TAG in run.data.tags]


def _has_ended(run: Run) -> bool:
    return bool(RunStatus.is_terminated(RunStatus.from_string(run.info.status)))


def _source_tags() -> dict[str, str]:
    """Return the commit of this code, if it is a git checkout, under the name that MLflow's pages show."""
    commit = git_commit()
    return {"mlflow.source.git.commit": commit} if commit else {}
