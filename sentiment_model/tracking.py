"""MLflow: training runs, the model registry, and models fetched from it.

This is the only module that talks to MLflow; :mod:`sentiment_model.pyfunc_model` is the script that it logs
with a model. Versions are named by aliases: `challenger` is the newest one registered, `champion` the one
that scores by default, `previous` the one that was champion before it.
"""

import json
import logging
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from shutil import copyfile
from typing import Any
from urllib.parse import urlsplit

import mlflow
import sqlalchemy
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunStatus, RunTag
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.types import ColSpec, DataType, Schema
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from mlflow.utils.rest_utils import http_request
from sqlalchemy.exc import SQLAlchemyError

from sentiment_model.bundle import DESCRIPTION, VOCABULARY, WEIGHTS, ModelDescription, Predictor
from sentiment_model.errors import ModelError, TrackingError
from sentiment_model.objects import first_line
from sentiment_model.redaction import redacted
from sentiment_model.settings import Settings
from sentiment_model.store import Dataset
from sentiment_model.training import Phase, PretrainingMetrics

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
FINGERPRINT_TAG = "sentiment.fingerprint"
FLOW_RUN_TAG = "prefect.flow_run"
DATA_TAG = "data."  # the start of the tags that name what a version was made from
DIGEST_TAG = "bundle_digest"
PROMOTED_TAG = "promoted_at"
ROLLED_BACK_TAG = "rolled_back_at"

# What the model needs to answer; the rest of the project's dependencies stay at home.
_INFERENCE_PACKAGES = (
    "mlflow",
    "numpy",
    "obstore",
    "pandas",
    "polars",
    "pyarrow",
    "pydantic",
    "safetensors",
    "torch",
)
_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "text")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "label", required=False),
            ColSpec(DataType.double, "probability", required=False),
            ColSpec(DataType.string, "model_version"),
        ]
    ),
)
_EXAMPLE = {"text": ["A quiet film that stays with you.", "Two hours that I want back."]}
_CONNECT_SECONDS = 10
_PARAMS_PER_REQUEST = 100  # MLflow's limit
_REGISTERED = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")  # name, and alias or version


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the model registry.

    Attributes:
        name: name of the registered model.
        version: the version.
        is_champion: whether it is champion now.
        reused: whether the same model was registered before.
        held_back: why it was not made champion although the gate passed it.
    """

    name: str
    version: str
    is_champion: bool
    reused: bool
    held_back: str | None


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
        with _mlflow_errors():
            history = self._client.get_metric_history(self.run_id, f"{prefix}validation_loss")
            if not any(metric.step == epoch for metric in history):
                self._log({f"{prefix}{name}": value for name, value in figures.items()}, step=epoch)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log figures of the whole run."""
        with _mlflow_errors():
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
        with _mlflow_errors():
            self._client.log_inputs(self.run_id, [DatasetInput(entity, tags)])

    def log_folder(self, folder: Path, artifact_path: str) -> None:
        """Upload a folder (report, figures) to the run's artifacts."""
        with _mlflow_errors(OSError):
            self._client.log_artifacts(self.run_id, str(folder), artifact_path)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        with _mlflow_errors():
            self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])


class Tracker:
    """A connection to MLflow."""

    def __init__(self, settings: Settings) -> None:
        """Connect.

        Raises:
            TrackingError: the server or database does not answer; known within seconds.
        """
        uri = settings.mlflow_tracking_uri
        self._artifact_root = settings.mlflow_artifact_root
        self._pages = _pages(uri)
        self._is_database = uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES
        _probe(uri, self._is_database)
        if "MLFLOW_LOGGING_LEVEL" not in os.environ:
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            logging.getLogger("alembic").setLevel(logging.WARNING)
        with _mlflow_errors():
            # Logging and loading a model go by the global address, whatever client is at hand.
            mlflow.set_tracking_uri(uri)
            self._client = MlflowClient(uri)
            self._client.search_experiments(max_results=1)

    def run_log(self, run_id: str) -> TrainingRunLog:
        """Return the log of a run that was started before."""
        return TrainingRunLog(self._client, run_id)

    def find_run(self, experiment: str, fingerprint: str) -> str | None:
        """Return the id of the newest run of the training with this fingerprint, or None."""
        with _mlflow_errors():
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
        with _mlflow_errors():
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
        with _mlflow_errors():
            experiment = self._client.get_run(run_id).info.experiment_id
        return f"{self._pages}/experiments/{experiment}/runs/{run_id}"

    def version_url(self, name: str, version: str) -> str | None:
        """Return the page of a registered version, or None where MLflow is a database and so has no pages."""
        return self._pages and f"{self._pages}/models/{name}/versions/{version}"

    def model_url(self, model_uri: str, version: str) -> str | None:
        """Return the page of the version that a URI was found to name, or None where it names no registered one."""
        registered = _REGISTERED.fullmatch(model_uri)
        return self.version_url(registered[1], version) if registered else None

    @contextmanager
    def active(self, run_id: str) -> Iterator[None]:
        """Mark a run as running, and sample the machine's load into it, while the block lasts.

        The run ends as finished, or as failed where the block raises.
        """
        with _mlflow_errors(), mlflow.start_run(run_id=run_id, log_system_metrics=True):
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

    def register(
        self,
        bundle: Path,
        name: str,
        run_id: str,
        *,
        promote: bool,
        tags: Mapping[str, str],
        compared_with: str | None = None,
        is_better: bool = False,
    ) -> RegisteredVersion:
        """Register a model folder and move the aliases.

        The version becomes `challenger`. If it is to be promoted, the champion becomes `previous` first and
        the version `champion` then, so that a crash in between leaves a champion. A folder that was
        registered before keeps its version; if a person has rolled that back, it is not promoted again. Nor is one that
        was champion before and is not better than the champion of today, or any while the champion is another than the
        one that the gate has seen.

        Args:
            bundle: the model folder.
            name: name of the registered model.
            run_id: the run that trained it.
            promote: whether the gate passed.
            tags: tags of the version.
            compared_with: version of the champion that the gate has compared it with, if there was one.
            is_better: whether it was better than that one.

        Raises:
            ModelError: the folder holds no model.
            TrackingError: MLflow cannot be reached or refuses.
        """
        digest = ModelDescription.read(bundle).digest
        with _mlflow_errors(OSError):
            version = self._registered(name, digest)
            reused = version is not None
            if version is None:
                version = self._log_model(bundle, name, run_id, {**tags, DIGEST_TAG: digest})
            self._mark_champion(name)  # a person may have moved the alias
            held_back = self._held_back(version, compared_with, is_better=is_better) if promote else None
            promote = promote and held_back is None
            for key, value in tags.items():
                self._client.set_model_version_tag(name, version.version, key, value)
            self._client.set_registered_model_alias(name, CHALLENGER, version.version)
            if promote:
                self._promote(name, str(version.version))
            is_champion = self._champion(name) == str(version.version)
        return RegisteredVersion(name, str(version.version), is_champion, reused, held_back)

    def _held_back(self, version: ModelVersion, compared_with: str | None, *, is_better: bool) -> str | None:
        """Return why a version that the gate has passed is not made champion all the same, or None where it is."""
        if moment := version.tags.get(ROLLED_BACK_TAG):
            return f"version {version.version} was rolled back on {moment}"
        champion = self._champion(version.name)
        if champion is None or champion == str(version.version):
            return None
        if champion != compared_with:
            return f"version {champion} has become champion since the gate judged; run again to compare with it"
        if PROMOTED_TAG in version.tags and not is_better:
            return f"version {version.version} was champion before, and champion version {champion} is no worse"
        return None

    def _registered(self, name: str, digest: str) -> ModelVersion | None:
        same = f"name = '{name}' and tag.{DIGEST_TAG} = '{digest}'"
        found = self._client.search_model_versions(same, max_results=1)
        return found[0] if found else None

    def _log_model(self, bundle: Path, name: str, run_id: str, tags: Mapping[str, str]) -> ModelVersion:
        package = Path(__file__).parent
        with tempfile.TemporaryDirectory(prefix="sentiment-") as temporary:
            files = Path(temporary, "bundle")  # the name under which MLflow keeps them
            files.mkdir()
            for file in (WEIGHTS, VOCABULARY, DESCRIPTION):
                copyfile(bundle / file, files / file)
            with mlflow.start_run(run_id=run_id, log_system_metrics=False):
                info = mlflow.pyfunc.log_model(
                    name=name,
                    python_model=str(package / "pyfunc_model.py"),
                    artifacts={"bundle": str(files)},
                    code_paths=[str(package)],
                    signature=_SIGNATURE,
                    input_example=_EXAMPLE,
                    pip_requirements=inference_requirements(),
                )
        self._create_registered_model(name)
        return self._client.create_model_version(
            name, source=info.model_uri, run_id=run_id, tags=dict(tags), model_id=info.model_id
        )

    def _create_registered_model(self, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _promote(self, name: str, version: str) -> None:
        champion = self._champion(name)
        if champion != version:
            if champion is not None:
                self._client.set_registered_model_alias(name, PREVIOUS, champion)
            self._client.set_registered_model_alias(name, CHAMPION, version)
            self._mark_champion(name)

    def _mark_champion(self, name: str) -> None:
        """Write on the champion since when it is known to have been one."""
        champion = self._champion(name)
        if champion is not None and PROMOTED_TAG not in self._client.get_model_version(name, champion).tags:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._client.set_model_version_tag(name, champion, PROMOTED_TAG, now)

    def _champion(self, name: str) -> str | None:
        version = self._client.get_registered_model(name).aliases.get(CHAMPION)
        return None if version is None else str(version)

    def rollback(self, name: str) -> tuple[str, str]:
        """Swap `champion` and `previous`; return the versions that are now champion and previous.

        The version that is taken out of service is tagged, so that a training which makes it again does not
        promote it.

        Raises:
            ModelError: there is no other version to go back to.
        """
        model = self._model(name)
        champion, previous = model.aliases.get(CHAMPION), model.aliases.get(PREVIOUS)
        if champion is None or previous is None or champion == previous:
            raise ModelError(f"model {name} has no previous champion to roll back to ({_inventory(model)})")
        with _mlflow_errors():
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._client.set_model_version_tag(name, champion, ROLLED_BACK_TAG, now)
            if ROLLED_BACK_TAG in self._client.get_model_version(name, previous).tags:
                self._client.delete_model_version_tag(name, previous, ROLLED_BACK_TAG)
            self._client.set_registered_model_alias(name, CHAMPION, previous)
            self._client.set_registered_model_alias(name, PREVIOUS, champion)
        return str(previous), str(champion)

    def fetch_bundle(self, model_uri: str, destination: Path) -> tuple[Path, str]:
        """Download the model folder that a URI names.

        Args:
            model_uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or any other URI that MLflow resolves.
            destination: existing local folder to download to.

        Returns:
            the local model folder, and the model's version: the registry's, or the bundle's digest for a URI
            that names no registered version.

        Raises:
            ModelError: there is no such model, or it is not one of this pipeline.
            TrackingError: MLflow cannot be reached.
        """
        version = None
        if registered := _REGISTERED.fullmatch(model_uri):
            name, alias, number = registered.groups()
            version = self._version(name, alias, number)
            model_uri = f"models:/{name}/{version}"
        try:
            folder = Path(download_artifacts(f"{model_uri}/artifacts/bundle", dst_path=str(destination)))
        except Exception as error:  # each kind of artifact store raises its own client's errors
            raise ModelError(
                f"cannot fetch {model_uri} as a model of this pipeline ({first_line(error)}); "
                "give models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID/NAME"
            ) from error
        return folder, version or Predictor.load(folder).digest

    def _version(self, name: str, alias: str | None, number: str | None) -> str:
        model = self._model(name)
        if alias is not None:
            if alias not in model.aliases:
                raise ModelError(
                    f"model {name} has no version with the alias {alias} ({_inventory(model)}); "
                    "train one that passes the gate, or name a version"
                )
            return str(model.aliases[alias])
        with _mlflow_errors():
            versions = [found.version for found in self._client.search_model_versions(f"name = '{name}'")]
        if int(number or 0) not in map(int, versions):
            raise ModelError(f"model {name} has no version {number} ({_inventory(model)}); name another")
        return str(number)

    def _model(self, name: str) -> RegisteredModel:
        with _mlflow_errors():
            found = self._client.search_registered_models(f"name = '{name}'", max_results=1)
        if not found:
            raise ModelError(
                f"no model is registered as {name} at {mlflow.get_tracking_uri()}; train one with "
                f"`python -m flows.train --model-name {name}`"
            )
        return found[0]

    def claims(self) -> dict[str, str]:
        """Return what must not be deleted: fingerprints of datasets and trainings, each with who needs it.

        Those are what registered versions name, of whatever model, and what the runs name that trained these versions
        or have not ended.
        """
        with _mlflow_errors():
            versions = _all_pages(self._client.search_model_versions)
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
        with _mlflow_errors():
            registered = {version.run_id for version in _all_pages(self._client.search_model_versions)}
            ended = (run.info for run in self._training_runs() if _has_ended(run))
            return [
                EndedRun(run.run_id, datetime.fromtimestamp((run.end_time or run.start_time) / 1000, UTC))
                for run in ended
                if run.run_id not in registered
            ]

    def unfinished_runs(self) -> dict[str, str]:
        """Return the runs that have not ended, by id, each with the id of the flow run that started it last."""
        with _mlflow_errors():
            return {
                run.info.run_id: run.data.tags[FLOW_RUN_TAG]
                for run in self._training_runs("attributes.status = 'RUNNING'")
                if run.data.tags.get(FLOW_RUN_TAG)
            }

    def end_run(self, run_id: str) -> None:
        """Mark a run as killed; a training that is started again goes on with it all the same."""
        with _mlflow_errors():
            self._client.set_terminated(run_id, RunStatus.to_string(RunStatus.KILLED))

    def delete_run(self, run_id: str) -> None:
        """Delete a run as MLflow does: it can be restored until `mlflow gc` removes its files."""
        with _mlflow_errors():
            self._client.delete_run(run_id)

    def _training_runs(self, only: str = "") -> list[Run]:
        """Return the runs of this pipeline, in whatever experiment, that one of MLflow's filters lets through."""
        experiments = [found.experiment_id for found in _all_pages(self._client.search_experiments)]
        runs = _all_pages(lambda **page: self._client.search_runs(experiments, only, **page)) if experiments else []
        return [run for run in runs if FINGERPRINT_TAG in run.data.tags]

    def rival(self, name: str, digest: str, destination: Path) -> tuple[Path, str] | None:
        """Download the model that another one has to beat to become champion.

        That is the champion, or the previous one where the model is champion itself; nobody where there is no champion.

        Args:
            name: name of the registered model.
            digest: digest of the model that is to be judged.
            destination: existing local folder to download to.

        Returns:
            the local model folder and its version, or None where there is no other model.

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        with _mlflow_errors():
            found = self._client.search_registered_models(f"name = '{name}'", max_results=1)
            aliases = found[0].aliases if found and CHAMPION in found[0].aliases else {}
            for version in (aliases[alias] for alias in (CHAMPION, PREVIOUS) if alias in aliases):
                if self._client.get_model_version(name, version).tags.get(DIGEST_TAG) != digest:
                    return self.fetch_bundle(f"models:/{name}/{version}", destination)
        return None


def inference_requirements() -> list[str]:
    """Return what the model needs to answer, pinned to the versions installed here."""
    # A local label (torch 2.13.0+cpu) names a build, which is the other machine's choice.
    return [f"{name}=={installed_version(name).partition('+')[0]}" for name in _INFERENCE_PACKAGES]


def _has_ended(run: Run) -> bool:
    return bool(RunStatus.is_terminated(RunStatus.from_string(run.info.status)))


def _all_pages(search: Callable[..., Iterable[Any]]) -> list[Any]:
    """Return everything that one of MLflow's searches finds, which come in pages."""
    found: list[Any] = []
    token = None
    while True:
        page = search(page_token=token)
        found += page
        token = getattr(page, "token", None)
        if not token:
            return found


def _inventory(model: RegisteredModel) -> str:
    aliases = ", ".join(f"{alias} = {version}" for alias, version in sorted(model.aliases.items()))
    return f"its aliases: {aliases}" if aliases else "it has no alias"


def _source_tags() -> dict[str, str]:
    """Return the commit of this code, if it is a git checkout, under the name that MLflow's pages show."""
    commit = git_commit()
    return {"mlflow.source.git.commit": commit} if commit else {}


def git_commit() -> str | None:
    """Return the commit of this code, `-dirty` added where files differ from it; None outside a checkout."""
    here = Path(__file__)
    is_ours = ["ls-files", "--error-unmatch", here.name]
    name = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        for command in (is_ours, name):
            answer = subprocess.run(  # noqa: S603 - fixed arguments
                ["git", *command],  # noqa: S607 - whichever git the user has
                cwd=here.parent,
                capture_output=True,
                text=True,
                check=True,
            )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _probe(uri: str, is_database: bool) -> None:
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


def _pages(uri: str) -> str | None:
    """Return where a server's pages begin, without the credentials that its address may hold."""
    address = urlsplit(uri)
    if address.scheme not in ("http", "https"):
        return None
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path.rstrip('/')}/#"


def _cause(error: BaseException) -> str:
    """Return the first line of the innermost error, which names what went wrong instead of who noticed."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return first_line(error)


@contextmanager
def _mlflow_errors(*also: type[Exception]) -> Iterator[None]:
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
