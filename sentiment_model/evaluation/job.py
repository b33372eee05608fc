"""The evaluate stage: a model folder in; evaluation, gate decision, report, figures and predictions out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from scipy.special import expit

from sentiment_model.config import EvaluateConfig, GateConfig
from sentiment_model.evaluation.evaluate import ChampionModel, Evaluation, evaluate_model
from sentiment_model.evaluation.figures import figures
from sentiment_model.evaluation.gate import GateDecision, decide
from sentiment_model.evaluation.report import report_html
from sentiment_model.models.bundle import ModelDescription, Predictor
from sentiment_model.store.datasets import Dataset, DatasetWriter, Stage, Store
from sentiment_model.store.lineage import StageRecord
from sentiment_model.text.clean import CLEAN
from sentiment_model.training.calibration import fit_temperature
from sentiment_model.training.history import EpochMetrics
from sentiment_model.training.job import HISTORY

EVALUATE = Stage("evaluate", 6)

_SCORING_ROWS = 20_000


def write_evaluation(
    writer: DatasetWriter,
    model: Path,
    lineage: Sequence[StageRecord],
    cleaned: pl.LazyFrame,
    baseline: pl.LazyFrame,
    champion: ChampionModel | None,
    champion_reviews: pl.LazyFrame | None,
    config: EvaluateConfig,
    gate: GateConfig,
    device: torch.device,
) -> dict[str, Any]:
    """Score the held-out reviews, evaluate, judge, and write what was found.

    Files by role: `evaluation` and `gate` (JSON), `report` (HTML), `figure` (SVG), `predictions` (Parquet, the test
    reviews without their text).

    Args:
        writer: where to write.
        model: folder of the model.
        lineage: the stages behind the model.
        cleaned: cleaned reviews.
        baseline: the baseline's probabilities by `text_hash`.
        champion: the champion, unless it is this very model or there is none.
        champion_reviews: the cleaned reviews that the champion was made from; None where nobody knows them.
        config: what to report.
        gate: when to promote.
        device: what to compute on.

    Returns:
        counts: the gate's decision and the headline metrics.
    """
    predictor = Predictor.load(model, device)
    held_out = (
        cleaned.filter(pl.col("split").is_in(["validation", "test"]))
        .join(baseline.rename({"probability": "baseline"}), on="text_hash", how="left", maintain_order="left")
        .collect()
    )
    held_out = held_out.hstack(_predict(predictor, held_out["text"]))
    held_out = held_out.with_columns(recurrent=_calibrated(held_out, "recurrent"))
    test = held_out.filter(pl.col("split") == "test")
    if champion:
        other = Predictor.load(champion.bundle, device)
        answers = _predict(other, test["text"])["probability"]
        test = test.with_columns(answers.alias("champion"), seen=_seen(test, cleaned, champion_reviews))
    evaluation = evaluate_model(
        held_out.filter(pl.col("split") == "validation"),
        test,
        config,
        temperature=predictor.description.temperature,
        history=[EpochMetrics(**metrics) for metrics in json.loads((model / HISTORY).read_text())],
        lineage=lineage,
        champion_version=champion.version if champion else None,
    )
    decision = decide(evaluation, gate)
    writer.file("evaluation.json", role="evaluation").write_text(evaluation.model_dump_json(indent=2))
    writer.file("gate.json", role="gate").write_text(decision.model_dump_json(indent=2))
    drawn = figures(evaluation)
    for name, svg in drawn.items():
        writer.file(f"{name}.svg", role="figure").write_text(svg)
    writer.file("report.html", role="report").write_text(report_html(evaluation, decision, drawn))
    columns = [
        "review_id",
        "source",
        "group",
        "label",
        "probability",
        "logit",
        "recurrent",
        "baseline",
        "n_tokens",
        "n_unknown",
    ]
    test.select(*columns, *(["champion"] if champion else [])).write_parquet(
        writer.file("predictions.parquet", role="predictions")
    )
    metrics = {name: interval.value for name, interval in evaluation.test.metrics.items()}
    return {"gate": "passed" if decision.promote else "failed", "reason": decision.summary, "metrics": metrics}


def reviews_of(champion: ChampionModel, store: Store) -> Dataset | None:
    """Return the cleaned reviews that a champion was made from.

    Returns:
        the dataset, or None where the champion does not name it or it is not in the store any more.

    Raises:
        StoreError: the store cannot be read, or the dataset is damaged.
    """
    fingerprint = ModelDescription.read(champion.bundle).trained_on.get(CLEAN.name)
    return store.find(CLEAN.name, fingerprint) if fingerprint else None


def _seen(test: pl.DataFrame, cleaned: pl.LazyFrame, champion_reviews: pl.LazyFrame | None) -> pl.Series:
    """Return for each test review whether a model made from others was fitted or chosen on it; null if unknown.

    Where today's split keeps a group apart, a review of it counts as seen if the model knows the group: a champion that
    was made with another split would else be asked about names that it has learned, and the challenger about new ones.
    """
    if champion_reviews is None:
        return pl.Series([None] * len(test), dtype=pl.Boolean())
    fitted_on = pl.col("split").is_in(["train", "validation"])
    known = champion_reviews.filter(fitted_on)
    texts = test.lazy().select("text").join(known, on="text", how="semi").collect(engine="streaming")["text"]
    groups = [cleaned.join(known, on="text", how="semi").select("group")]
    if "group" in known.collect_schema():
        groups.append(known.select("group"))
    learned = cleaned.filter(fitted_on).select("group").drop_nulls().unique()
    apart = pl.concat(groups).drop_nulls().unique().join(learned, on="group", how="anti").collect(engine="streaming")
    return test["text"].is_in(texts.implode()) | test["group"].is_in(apart["group"].implode()).fill_null(value=False)


def read_evaluation(dataset: Dataset) -> tuple[Evaluation, GateDecision]:
    """Return what an evaluate dataset holds."""
    with dataset.local_folder() as folder:
        return (
            Evaluation.model_validate_json((folder / "evaluation.json").read_bytes()),
            GateDecision.model_validate_json((folder / "gate.json").read_bytes()),
        )


def _calibrated(held_out: pl.DataFrame, logits: str) -> pl.Series:
    """Return probabilities from logits, with a temperature fitted on the validation reviews."""
    validation = held_out.filter(pl.col("split") == "validation")
    temperature = fit_temperature(validation[logits].to_numpy(), validation["label"].to_numpy())
    return pl.Series(expit(held_out[logits].to_numpy() / temperature))


def _predict(predictor: Predictor, texts: pl.Series) -> pl.DataFrame:
    return pl.concat([predictor.predict(texts.slice(i, _SCORING_ROWS)) for i in range(0, len(texts), _SCORING_ROWS)])
