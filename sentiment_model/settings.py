"""Settings that differ by machine, read from the environment (prefix ``SENTIMENT_``).

What describes a *run* is in :mod:`sentiment_model.config` and travels as the flow's parameter.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

DeviceName = Literal["auto", "cpu", "cuda"]


class Settings(BaseSettings):
    """Where this machine keeps things and what it computes on."""

    model_config = SettingsConfigDict(env_prefix="SENTIMENT_", frozen=True)

    store_url: str = Field(
        default_factory=lambda: str(Path("data/store").absolute()),
        description="Folder or object-store URL (s3://, gs://, az://) that holds the datasets.",
    )
    scratch_dir: Path = Field(
        default_factory=lambda: Path("data/store/scratch").absolute(),
        description="Local folder for the checkpoints of unfinished trainings and the hashes of files to score.",
    )
    mlflow_tracking_uri: str = Field(
        default_factory=lambda: f"sqlite:///{Path('data/store/mlflow.db').absolute()}",
        description="MLflow tracking server or database.",
    )
    mlflow_artifact_root: str = Field(
        default_factory=lambda: str(Path("data/store/mlflow-artifacts").absolute()),
        description="Where a database-backed MLflow store keeps artifacts; a tracking server decides for itself.",
    )
    device: DeviceName = Field(
        default="auto", description="Device to compute on: `auto` is the first CUDA device, else the CPU."
    )
