"""Both flows with everything in an object store: reviews, datasets, MLflow's artifacts and scores."""

from pathlib import Path

import obstore
import polars as pl
import pytest
from obstore.store import from_url
from servers import object_store
from tiny import REVIEWS, tiny_reviews, tiny_training

from flows.score import score
from flows.train import train
from sentiment_model.config import ReviewFiles, ScoringRun, TrainingRun


@pytest.mark.slow
def test_nothing_but_checkpoints_is_kept_on_disk(
    settings_in: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with object_store() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SENTIMENT_STORE_URL", "s3://sentiment/store")
        monkeypatch.setenv("SENTIMENT_MLFLOW_ARTIFACT_ROOT", "s3://sentiment/mlflow")
        bucket = from_url("s3://sentiment")
        obstore.put(bucket, "reviews.csv", tiny_reviews(settings_in / "reviews.csv"))

        trained = train(TrainingRun.model_validate(tiny_training("s3://sentiment/reviews.csv")))
        assert trained.registration.promoted
        assert train(TrainingRun.model_validate(tiny_training("s3://sentiment/reviews.csv"))).model == trained.model
        scored = score(ScoringRun(files=ReviewFiles(path="s3://sentiment/reviews.csv")))
        assert scored.scored == REVIEWS
        assert pl.read_parquet(scored.scores).height == REVIEWS

        kept = [entry["path"] for page in obstore.list(bucket) for entry in page]
        for stage in ("ingest", "clean", "tokenize", "train", "baseline", "evaluate"):
            assert any(path.startswith(f"store/{stage}/") and path.endswith("_manifest.json") for path in kept)
        assert any(path.startswith("store/scores/scores/version=1/") for path in kept)
        assert any(path.startswith("mlflow/") and path.endswith("weights.safetensors") for path in kept)
        assert any(path.startswith("mlflow/") and path.endswith("report.html") for path in kept)
    left = {path.name for path in settings_in.rglob("*") if path.is_file()}
    assert left == {"reviews.csv", "mlflow.db"}
