"""The model registry: versions, the aliases that name them, and models fetched from it.

`challenger` is the version registered last, `champion` the one that scores by default, `previous` the one that was
champion before it.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from shutil import copyfile
from typing import NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from sentiment_model.classes import Classes
from sentiment_model.errors import ModelError
from sentiment_model.models.answers import answer_columns
from sentiment_model.models.bundle import DESCRIPTION, VOCABULARY, WEIGHTS, ModelDescription, Predictor
from sentiment_model.registry.connection import mlflow_errors
from sentiment_model.store.objects import first_line

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
DATA_TAG = "data."  # the start of the tags that name what a version was made from
DIGEST_TAG = "bundle_digest"
PROMOTED_TAG = "promoted_at"
ROLLED_BACK_TAG = "rolled_back_at"

# What the model needs to answer; the rest of the project's dependencies stay at home.
_INFERENCE_PACKAGES = (
    "mlflow",
    "numba",
    "numpy",
    "obstore",
    "pandas",
    "polars",
    "pyarrow",
    "pydantic",
    "safetensors",
    "torch",
)
_EXAMPLE = {"text": ["A quiet film that stays with you.", "Two hours that I want back."]}
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


class Rival(NamedTuple):
    """A model that another one has to beat.

    Attributes:
        bundle: the local model folder.
        version: its version.
        is_champion: whether it is champion, or was before the other.
    """

    bundle: Path
    version: str
    is_champion: bool


class ModelRegistry:
    """The registered models and their versions."""

    def __init__(self, client: MlflowClient, pages: str | None) -> None:
        self._client = client
        self._pages = pages

    def version_url(self, name: str, version: str) -> str | None:
        """Return the page of a registered version, or None where MLflow is a database and so has no pages."""
        return self._pages and f"{self._pages}/models/{name}/versions/{version}"

    def model_url(self, model_uri: str, version: str) -> str | None:
        """Return the page of the version that a URI was found to name, or None where it names no registered one."""
        registered = _REGISTERED.fullmatch(model_uri)
        return self.version_url(registered[1], version) if registered else None

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
        description = ModelDescription.read(bundle)
        digest = description.digest
        with mlflow_errors(OSError):
            version = self._registered(name, digest)
            reused = version is not None
            if version is None:
                version = self._log_model(
                    bundle, name, run_id, _signature(description.classes), {**tags, DIGEST_TAG: digest}
                )
            number, champion = str(version.version), self._champion(name)
            if champion is not None:
                self._mark_champion(name, champion)  # a person may have moved the alias
            held_back = self._held_back(version, champion, compared_with, is_better=is_better) if promote else None
            promote = promote and held_back is None
            for key, value in tags.items():
                self._client.set_model_version_tag(name, version.version, key, value)
            self._client.set_registered_model_alias(name, CHALLENGER, version.version)
            if promote and champion != number:
                if champion is not None:
                    self._client.set_registered_model_alias(name, PREVIOUS, champion)
                self._client.set_registered_model_alias(name, CHAMPION, number)
                self._mark_champion(name, number)
        return RegisteredVersion(name, number, promote or champion == number, reused, held_back)

    def describe(self, name: str, version: str, card: str) -> None:
        """Write what a version says of itself, unless a person has written something there.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        with mlflow_errors():
            if not self._client.get_model_version(name, version).description:
                self._client.update_model_version(name, version, card)

    def _held_back(
        self, version: ModelVersion, champion: str | None, compared_with: str | None, *, is_better: bool
    ) -> str | None:
        """Return why a version that the gate has passed is not made champion all the same, or None where it is."""
        if moment := version.tags.get(ROLLED_BACK_TAG):
            return f"version {version.version} was rolled back on {moment}"
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

    def _log_model(
        self, bundle: Path, name: str, run_id: str, signature: ModelSignature, tags: Mapping[str, str]
    ) -> ModelVersion:
        package = Path(__file__).parents[1]
        with tempfile.TemporaryDirectory(prefix="sentiment-") as temporary:
            files = Path(temporary, "bundle")  # the name under which MLflow keeps them
            files.mkdir()
            for file in (WEIGHTS, VOCABULARY, DESCRIPTION):
                copyfile(bundle / file, files / file)
            with mlflow.start_run(run_id=run_id, log_system_metrics=False):
                info = mlflow.pyfunc.log_model(
                    name=name,
                    python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                    artifacts={"bundle": str(files)},
                    code_paths=[str(package)],
                    signature=signature,
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

    def _mark_champion(self, name: str, version: str) -> None:
        """Write on a champion since when it is known to have been one."""
        if PROMOTED_TAG not in self._client.get_model_version(name, version).tags:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._client.set_model_version_tag(name, version, PROMOTED_TAG, now)

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
        with mlflow_errors():
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
        with mlflow_errors():
            versions = [found.version for found in self._client.search_model_versions(f"name = '{name}'")]
        if int(number or 0) not in map(int, versions):
            raise ModelError(f"model {name} has no version {number} ({_inventory(model)}); name another")
        return str(number)

    def _model(self, name: str) -> RegisteredModel:
        with mlflow_errors():
            found = self._client.search_registered_models(f"name = '{name}'", max_results=1)
        if not found:
            raise ModelError(
                f"no model is registered as {name} at {mlflow.get_tracking_uri()}; train one with "
                f"`python -m flows.train --model-name {name}`"
            )
        return found[0]

    def rival(self, name: str, digest: str, destination: Path) -> Rival | None:
        """Download the model that another one has to beat to become champion.

        That is the champion, or the previous one where the model is champion itself; nobody where there is no champion.

        Args:
            name: name of the registered model.
            digest: digest of the model that is to be judged.
            destination: existing local folder to download to.

        Returns:
            the model, or None where there is no other.

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        with mlflow_errors():
            found = self._client.search_registered_models(f"name = '{name}'", max_results=1)
            aliases = found[0].aliases if found and CHAMPION in found[0].aliases else {}
            for alias in (alias for alias in (CHAMPION, PREVIOUS) if alias in aliases):
                if self._client.get_model_version(name, aliases[alias]).tags.get(DIGEST_TAG) != digest:
                    bundle, version = self.fetch_bundle(f"models:/{name}/{aliases[alias]}", destination)
                    return Rival(bundle, version, alias == CHAMPION)
        return None


def _signature(classes: Classes) -> ModelSignature:
    label, *probabilities = answer_columns(classes)
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "text")]),
        outputs=Schema(
            [
                ColSpec(DataType.string, label, required=False),
                *(ColSpec(DataType.double, name, required=False) for name in probabilities),
                ColSpec(DataType.string, "model_version"),
            ]
        ),
    )


def inference_requirements() -> list[str]:
    """Return what the model needs to answer, pinned to the versions installed here."""
    # A local label (torch 2.13.0+cpu) names a build, which is the other machine's choice.
    return [f"{name}=={installed_version(name).partition('+')[0]}" for name in _INFERENCE_PACKAGES]


def _inventory(model: RegisteredModel) -> str:
    aliases = ", ".join(f"{alias} = {version}" for alias, version in sorted(model.aliases.items()))
    return f"its aliases: {aliases}" if aliases else "it has no alias"
