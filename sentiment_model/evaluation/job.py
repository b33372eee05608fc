"""The evaluate stage: a model folder in; evaluation, gate decision, report, figures and predictions out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy.special import softmax

from sentiment_model.classes import BINARY, Classes
from sentiment_model.config import EvaluateConfig, GateConfig
from sentiment_model.evaluation.evaluate import (
    ChampionModel,
    Evaluation,
    OtherChampion,
    evaluate_model,
    prior_shift_of,
)
from sentiment_model.evaluation.figures import figures
from sentiment_model.evaluation.gate import GateDecision, decide
from sentiment_model.evaluation.metrics import Floats
from sentiment_model.evaluation.report import report_html
from sentiment_model.models.bundle import ModelDescription, Predictor
from sentiment_model.store.datasets import Dataset, DatasetWriter, Stage, Store
from sentiment_model.store.lineage import StageRecord
from sentiment_model.text.clean import CLEAN
from sentiment_model.training.calibration import fit_temperature
from sentiment_model.training.history import EpochMetrics
from sentiment_model.training.job import HISTORY

EVALUATE = Stage("evaluate", 7)

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
    reviews without their text: of two classes the figures of the second, of more those of all, as arrays).

    Args:
        writer: where to write.
        model: folder of the model.
        lineage: the stages behind the model.
        cleaned: cleaned reviews.
        baseline: the baseline's probabilities by `text_hash`.
        champion: the champion, unless it is this very model or there is none. Where it tells other classes apart, it is
            not asked.
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
        .join(baseline.rename({"probabilities": "baseline"}), on="text_hash", how="left", maintain_order="left")
        .collect()
    )
    if prior_shift := prior_shift_of(lineage):  # as the model's own, or it would be compared with what none asked for
        shifted = _shifted(held_out["baseline"].to_numpy(), cleaned, predictor.classes, prior_shift)
        held_out = held_out.with_columns(baseline=pl.Series(shifted))
    held_out = held_out.hstack(_predict(predictor, held_out["text"]))
    held_out = held_out.with_columns(recurrent=_calibrated(held_out, "recurrent"))
    test = held_out.filter(pl.col("split") == "test")
    other = _of_other_classes(champion, predictor.classes) if champion else None
    compared = champion if other is None else None
    if compared:
        others = _predict(Predictor.load(compared.bundle, device), test["text"])["probabilities"]
        test = test.with_columns(others.alias("champion"), seen=_seen(test, cleaned, champion_reviews))
    evaluation = evaluate_model(
        held_out.filter(pl.col("split") == "validation"),
        test,
        predictor.classes,
        config,
        temperature=predictor.description.temperature,
        history=[EpochMetrics(**metrics) for metrics in json.loads((model / HISTORY).read_text())],
        lineage=lineage,
        champion_version=compared.version if compared else None,
        other_champion=other,
    )
    decision = decide(evaluation, gate)
    writer.file("evaluation.json", role="evaluation").write_text(evaluation.model_dump_json(indent=2))
    writer.file("gate.json", role="gate").write_text(decision.model_dump_json(indent=2))
    drawn = figures(evaluation)
    for name, svg in drawn.items():
        writer.file(f"{name}.svg", role="figure").write_text(svg)
    writer.file("report.html", role="report").write_text(report_html(evaluation, decision, drawn))
    _predictions(test, predictor.classes).write_parquet(writer.file("predictions.parquet", role="predictions"))
    metrics = {name: interval.value for name, interval in evaluation.test.metrics.items()}
    return {"gate": "passed" if decision.promote else "failed", "reason": decision.summary, "metrics": metrics}


def _shifted(probabilities: Floats, cleaned: pl.LazyFrame, classes: Classes, prior_shift: float) -> Floats:
    """Return the probabilities, moved as training moves those of the model, see `TrainConfig.prior_shift`."""
    labels = cleaned.filter(pl.col("split") == "train").select("label").collect()["label"].to_numpy()
    prior = np.bincount(labels, minlength=len(classes)) / len(labels)
    moved = probabilities / prior**prior_shift
    return np.asarray(moved / moved.sum(axis=1, keepdims=True))


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


def _of_other_classes(champion: ChampionModel, classes: Classes) -> OtherChampion | None:
    """Return the champion if its answers mean something else: its classes have other names, or another order."""
    others = ModelDescription.read(champion.bundle).classes
    return None if others.names == classes.names else OtherChampion(version=champion.version, classes=others)


def _predictions(test: pl.DataFrame, classes: Classes) -> pl.DataFrame:
    names = {"probabilities": "probability", "logits": "logit"} if len(classes) == len(BINARY) else {}

    def told(name: str) -> pl.Expr:
        return pl.col(name).arr.last().alias(names.get(name, name)) if names else pl.col(name)

    figures = [told(name) for name in ("probabilities", "logits", "recurrent", "baseline")]
    champion = [told("champion")] if "champion" in test.columns else []
    return test.select("review_id", "source", "group", "label", *figures, "n_tokens", "n_unknown", *champion)


def _calibrated(held_out: pl.DataFrame, logits: str) -> pl.Series:
    """Return probabilities from logits, with a temperature fitted on the validation reviews."""
    validation = held_out.filter(pl.col("split") == "validation")
    temperature = fit_temperature(validation[logits].to_numpy(), validation["label"].to_numpy())
    return pl.Series(softmax(held_out[logits].to_numpy() / temperature, axis=1))


def _predict(predictor: Predictor, texts: pl.Series) -> pl.DataFrame:
    return pl.concat([predictor.predict(texts.slice(i, _SCORING_ROWS)) for i in range(0, len(texts), _SCORING_ROWS)])
