"""Evaluation on held-out reviews: against the truth, a linear baseline and the current champion."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import BaseModel
from scipy.special import expit
from sklearn.metrics import roc_curve
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from sentiment_model.config import EvaluateConfig
from sentiment_model.errors import ConfigurationError
from sentiment_model.evaluation.metrics import (
    Floats,
    Interval,
    ReliabilityBin,
    calibration_error,
    intervals,
    mean_interval,
    reliability,
)
from sentiment_model.evaluation.slices import slice_names
from sentiment_model.store.lineage import StageRecord
from sentiment_model.training.history import EpochMetrics

_MISTAKE_CHARACTERS = 1_500


class ChampionModel(BaseModel):
    """The champion, downloaded from the registry."""

    version: str
    digest: str
    bundle: Path


class Scores(BaseModel):
    """How one model did on one set of reviews."""

    rows: int
    positives: int
    metrics: dict[str, Interval]
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int


class SliceScore(BaseModel):
    """Accuracy on a slice of the test reviews; the interval is Wilson's (1927).

    Attributes:
        kind: what the reviews are sliced by.
        name: the slice among those.
        rows: how many reviews are in it.
        accuracy: the model's.
        baseline_accuracy: the linear baseline's.
        unseen_rows: how many of the reviews the champion was not fitted or chosen on.
        champion_accuracy: the champion's on these; None without any.
        champion_difference: the model's accuracy on these less the champion's.
    """

    kind: str
    name: str
    rows: int
    accuracy: Interval
    baseline_accuracy: float
    unseen_rows: int
    champion_accuracy: float | None
    champion_difference: float | None


class Mistake(BaseModel):
    """A test review on which the model is confident and wrong."""

    review_id: str
    source: str
    label: int
    probability: float
    text: str


class ChampionComparison(BaseModel):
    """The champion on the headline rows that it was not fitted or chosen on.

    McNemar's (1947) exact test looks at the rows that only one gets right.

    Attributes:
        version: the champion's version.
        rows: how many rows these are.
        seen: how many others it was fitted or chosen on; None where that is not known.
        accuracy: the champion's.
        difference: the model's accuracy less the champion's.
        only_model_right: rows that only the model gets right.
        only_champion_right: rows that only the champion gets right.
        p_value: of the test.
    """

    version: str
    rows: int
    seen: int | None
    accuracy: Interval
    difference: Interval
    only_model_right: int
    only_champion_right: int
    p_value: float


class Evaluation(BaseModel):
    """What is known of a model from reviews that it was not trained on."""

    test: Scores
    validation: Scores
    recurrent_test: Scores
    recurrent_validation: Scores
    separate: dict[str, Scores]
    baseline_test: Scores
    baseline_validation: Scores
    champion: ChampionComparison | None
    slices: list[SliceScore]
    mistakes: list[Mistake]
    temperature: float
    calibration_error_before: float
    reliability_before: list[ReliabilityBin]
    reliability_after: list[ReliabilityBin]
    roc_curve: list[tuple[float, float]]
    history: list[EpochMetrics]
    lineage: list[StageRecord]
    confidence: float


def evaluate_model(
    validation: pl.DataFrame,
    test: pl.DataFrame,
    config: EvaluateConfig,
    *,
    temperature: float,
    history: Sequence[EpochMetrics],
    lineage: Sequence[StageRecord],
    champion_version: str | None = None,
) -> Evaluation:
    """Evaluate predictions.

    Args:
        validation: held-out reviews with `label`, `probability`, `logit`, and the probabilities `recurrent` of the
            model's recurrent part alone and `baseline`.
        test: the same, plus `review_id`, `source`, `text`, `n_tokens`, `n_unknown` and, where there is a champion,
            `champion` (its probability) and `seen` (whether it was fitted or chosen on the review; null where that is
            not known).
        config: what to report.
        temperature: the divisor that turned logits into probabilities.
        history: how training went.
        lineage: the stages behind the model.
        champion_version: the champion's version, if there is one.

    Raises:
        ConfigurationError: every test review is of a source that is reported separately.
    """
    headline = test.filter(~pl.col("source").is_in(config.separate_sources))
    if headline.is_empty():
        raise ConfigurationError(
            f"every test review is of a source in evaluate.separate_sources ({', '.join(config.separate_sources)}); "
            "name fewer, so that there is something to judge the model by"
        )
    separate = [source for source in config.separate_sources if source in test["source"]]
    labels, logits = _floats(headline, "label"), _floats(headline, "logit")
    before = reliability(labels, expit(logits), config.calibration_bins)
    return Evaluation(
        test=_scores(headline, "probability", config),
        validation=_scores(validation, "probability", config),
        recurrent_test=_scores(headline, "recurrent", config),
        recurrent_validation=_scores(validation, "recurrent", config),
        separate={
            source: _scores(test.filter(pl.col("source") == source), "probability", config) for source in separate
        },
        baseline_test=_scores(headline, "baseline", config),
        baseline_validation=_scores(validation, "baseline", config),
        champion=None if champion_version is None else _compare(headline, champion_version, config),
        slices=_slices(headline, test.filter(pl.col("source").is_in(separate)), config),
        mistakes=_mistakes(headline, config.mistakes),
        temperature=temperature,
        calibration_error_before=calibration_error(before),
        reliability_before=before,
        reliability_after=reliability(labels, _floats(headline, "probability"), config.calibration_bins),
        roc_curve=_roc_curve(labels, logits),
        history=list(history),
        lineage=list(lineage),
        confidence=config.confidence,
    )


def _floats(frame: pl.DataFrame, column: str) -> Floats:
    return frame[column].cast(pl.Float64).to_numpy()


def _scores(frame: pl.DataFrame, column: str, config: EvaluateConfig) -> Scores:
    labels, probabilities = _floats(frame, "label"), _floats(frame, column)
    positive, predicted = labels > 0.5, probabilities >= 0.5
    return Scores(
        rows=len(labels),
        positives=int(positive.sum()),
        metrics=intervals(
            labels,
            probabilities,
            bins=config.calibration_bins,
            samples=config.bootstrap_samples,
            confidence=config.confidence,
        ),
        true_positives=int((predicted & positive).sum()),
        false_positives=int((predicted & ~positive).sum()),
        true_negatives=int((~predicted & ~positive).sum()),
        false_negatives=int((~predicted & positive).sum()),
    )


def _correct(column: str) -> pl.Expr:
    return (pl.col(column) >= 0.5) == (pl.col("label") == 1)


def _compare(headline: pl.DataFrame, version: str, config: EvaluateConfig) -> ChampionComparison:
    unseen = headline.filter(~pl.col("seen").fill_null(value=False))
    right = unseen.select(model=_correct("probability"), champion=_correct("champion"))
    model, champion = (_floats(right, name) for name in ("model", "champion"))
    only_model, only_champion = int((model > champion).sum()), int((champion > model).sum())
    return ChampionComparison(
        version=version,
        rows=len(unseen),
        seen=None if headline["seen"].has_nulls() else len(headline) - len(unseen),
        accuracy=_mean(champion, config),
        difference=_mean(model - champion, config),
        only_model_right=only_model,
        only_champion_right=only_champion,
        p_value=float(mcnemar([[0, only_model], [only_champion, 0]], exact=True).pvalue),
    )


def _mean(values: Floats, config: EvaluateConfig) -> Interval:
    """Return a mean with its interval; not a number where there is no value."""
    if not len(values):
        return Interval(value=math.nan, low=math.nan, high=math.nan)
    return mean_interval(values, samples=config.bootstrap_samples, confidence=config.confidence)


def _slices(headline: pl.DataFrame, separate: pl.DataFrame, config: EvaluateConfig) -> list[SliceScore]:
    names = slice_names(pl.col("n_tokens"), pl.col("n_unknown"), pl.col("text"))
    slices: list[SliceScore] = []
    for kind, name in names.items():
        # The separately reported sources are slices of their own, and out of all the others.
        frame = pl.concat([headline, separate]) if kind == "source" else headline
        if "champion" not in frame.columns:
            frame = frame.with_columns(champion=pl.lit(None, pl.Float64), seen=True)
        unseen = ~pl.col("seen").fill_null(value=True)
        table = (
            frame.group_by(name.alias("name"))
            .agg(
                rows=pl.len(),
                right=_correct("probability").sum(),
                baseline=_correct("baseline").mean(),
                unseen=unseen.sum(),
                champion=_correct("champion").filter(unseen).mean(),
                on_unseen=_correct("probability").filter(unseen).mean(),
            )
            .sort("name")
        )
        if kind == "source":
            table = table.sort("rows", descending=True, maintain_order=True)
        for row in table.iter_rows(named=True):
            low, high = proportion_confint(row["right"], row["rows"], alpha=1 - config.confidence, method="wilson")
            slices.append(
                SliceScore(
                    kind=kind,
                    name=row["name"],
                    rows=row["rows"],
                    accuracy=Interval(value=row["right"] / row["rows"], low=low, high=high),
                    baseline_accuracy=row["baseline"],
                    unseen_rows=row["unseen"],
                    champion_accuracy=row["champion"],
                    champion_difference=row["on_unseen"] - row["champion"] if row["unseen"] else None,
                )
            )
    return slices


def _mistakes(headline: pl.DataFrame, count: int) -> list[Mistake]:
    wrong = headline.filter(~_correct("probability")).sort(
        (pl.col("probability") - 0.5).abs(), "review_id", descending=[True, False]
    )
    return [
        Mistake(
            review_id=row["review_id"],
            source=row["source"],
            label=row["label"],
            probability=row["probability"],
            text=row["text"][:_MISTAKE_CHARACTERS] + ("…" if len(row["text"]) > _MISTAKE_CHARACTERS else ""),
        )
        for row in wrong.head(count).iter_rows(named=True)
    ]


def _roc_curve(labels: Floats, logits: Floats, points: int = 200) -> list[tuple[float, float]]:
    """Return (false-positive rate, true-positive rate), thinned to be drawn; nothing where there is only one class."""
    if len(np.unique(labels)) < 2:
        return []
    false, true, _ = roc_curve(labels, logits)
    kept = np.unique(np.linspace(0, len(true) - 1, min(points, len(true))).astype(int))
    return [(float(x), float(y)) for x, y in zip(false[kept], true[kept], strict=True)]
