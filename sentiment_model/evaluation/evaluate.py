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

from sentiment_model.config import EvaluateConfig
from sentiment_model.errors import ConfigurationError
from sentiment_model.evaluation.metrics import (
    Bootstrap,
    Difference,
    Floats,
    Interval,
    ReliabilityBin,
    calibration_error,
    number_groups,
    reliability,
    share_interval,
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
    """How one model did on one set of reviews.

    Attributes:
        groups: how many groups the rows are of; a row without one is a group of its own.
        positives: how many are positive.
        metrics: with intervals over the groups.
    """

    rows: int
    groups: int
    positives: int
    metrics: dict[str, Interval]
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int


class SliceScore(BaseModel):
    """Accuracy on a slice of the test reviews.

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

    Attributes:
        version: the champion's version.
        rows: how many rows these are.
        groups: of how many groups.
        seen: how many others it was fitted or chosen on; None where that is not known.
        accuracy: the champion's; not a number where there are no rows.
        differences: how much better the model is, by metric; empty where there are no rows.
        only_model_right: rows that only the model gets right.
        only_champion_right: rows that only the champion gets right.
        p_value: of McNemar's (1947) exact test of these two numbers; None where rows are of groups, which it takes for
            independent.
    """

    version: str
    rows: int
    groups: int
    seen: int | None
    accuracy: Interval
    differences: dict[str, Difference]
    only_model_right: int
    only_champion_right: int
    p_value: float | None


class Evaluation(BaseModel):
    """What is known of a model from reviews that it was not trained on."""

    test: Scores
    validation: Scores
    recurrent_test: Scores
    recurrent_validation: Scores
    separate: dict[str, Scores]
    baseline_test: Scores
    baseline_validation: Scores
    over_baseline: dict[str, Difference]
    over_majority: dict[str, Difference]
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
        validation: held-out reviews with `group` (null for none), `label`, `probability`, `logit`, and the
            probabilities `recurrent` of the model's recurrent part alone and `baseline`.
        test: the same, plus `source`, `text`, `n_tokens`, `n_unknown` and, where there is a champion,
            `champion` (its probability) and `seen` (whether it was fitted or chosen on the review, or on others of its
            group; null where that is not known).
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
    separate = {
        source: test.filter(pl.col("source") == source)
        for source in config.separate_sources
        if source in test["source"]
    }
    labels, logits = _floats(headline, "label"), _floats(headline, "logit")
    parts = ("probability", "recurrent", "baseline")
    always_the_larger = (pl.col("label").mean() >= 0.5).cast(pl.Float64)
    on_test = _draw(headline.with_columns(majority=always_the_larger), [*parts, "majority"], config)
    on_validation = _draw(validation, parts, config)
    before = reliability(labels, expit(logits), config.calibration_bins)
    return Evaluation(
        test=_scores(headline, "probability", on_test, config),
        validation=_scores(validation, "probability", on_validation, config),
        recurrent_test=_scores(headline, "recurrent", on_test, config),
        recurrent_validation=_scores(validation, "recurrent", on_validation, config),
        separate={
            source: _scores(rows, "probability", _draw(rows, ["probability"], config), config)
            for source, rows in separate.items()
        },
        baseline_test=_scores(headline, "baseline", on_test, config),
        baseline_validation=_scores(validation, "baseline", on_validation, config),
        over_baseline=on_test["probability"].differences(on_test["baseline"], config.confidence),
        over_majority=on_test["probability"].differences(on_test["majority"], config.confidence),
        champion=None if champion_version is None else _compare(headline, champion_version, config),
        slices=_slices(headline, test.filter(pl.col("source").is_in(list(separate))), config),
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


def _draw(frame: pl.DataFrame, columns: Sequence[str], config: EvaluateConfig) -> dict[str, Bootstrap]:
    """Return the metrics of each column of probabilities, all in the same resamples."""
    labels, groups = _floats(frame, "label"), number_groups(frame["group"])
    return {
        name: Bootstrap.of(
            labels, _floats(frame, name), groups, bins=config.calibration_bins, samples=config.bootstrap_samples
        )
        for name in columns
    }


def _scores(frame: pl.DataFrame, column: str, drawn: dict[str, Bootstrap], config: EvaluateConfig) -> Scores:
    positive, predicted = _floats(frame, "label") > 0.5, _floats(frame, column) >= 0.5
    return Scores(
        rows=len(positive),
        groups=drawn[column].groups,
        positives=int(positive.sum()),
        metrics=drawn[column].intervals(config.confidence),
        true_positives=int((predicted & positive).sum()),
        false_positives=int((predicted & ~positive).sum()),
        true_negatives=int((~predicted & ~positive).sum()),
        false_negatives=int((~predicted & positive).sum()),
    )


def _correct(column: str) -> pl.Expr:
    return (pl.col(column) >= 0.5) == (pl.col("label") == 1)


def _compare(headline: pl.DataFrame, version: str, config: EvaluateConfig) -> ChampionComparison:
    unseen = headline.filter(~pl.col("seen").fill_null(value=False))
    model, champion = (unseen.select(_correct(name)).to_series() for name in ("probability", "champion"))
    only_model, only_champion = int((model & ~champion).sum()), int((~model & champion).sum())
    accuracy, differences, groups = Interval(value=math.nan, low=math.nan, high=math.nan), {}, 0
    if rows := len(unseen):
        drawn = _draw(unseen, ["probability", "champion"], config)
        accuracy = drawn["champion"].intervals(config.confidence)["accuracy"]
        differences = drawn["probability"].differences(drawn["champion"], config.confidence)
        groups = drawn["champion"].groups
    return ChampionComparison(
        version=version,
        rows=rows,
        groups=groups,
        seen=None if headline["seen"].has_nulls() else len(headline) - rows,
        accuracy=accuracy,
        differences=differences,
        only_model_right=only_model,
        only_champion_right=only_champion,
        p_value=float(mcnemar([[0, only_model], [only_champion, 0]], exact=True).pvalue) if groups == rows else None,
    )


def _slices(headline: pl.DataFrame, separate: pl.DataFrame, config: EvaluateConfig) -> list[SliceScore]:
    names = slice_names(pl.col("n_tokens"), pl.col("n_unknown"), pl.col("text"))
    slices: list[SliceScore] = []
    for kind, name in names.items():
        # The separately reported sources are slices of their own, and out of all the others.
        frame = pl.concat([headline, separate]) if kind == "source" else headline
        frame = frame.with_columns(group_number=pl.Series(number_groups(frame["group"])))
        if "champion" not in frame.columns:
            frame = frame.with_columns(champion=pl.lit(None, pl.Float64), seen=True)
        unseen = ~pl.col("seen").fill_null(value=True)
        table = (
            frame.group_by(name.alias("name"))
            .agg(
                rows=pl.len(),
                right=_correct("probability").cast(pl.Float64),
                groups="group_number",
                baseline=_correct("baseline").mean(),
                unseen=unseen.sum(),
                champion=_correct("champion").filter(unseen).mean(),
                on_unseen=_correct("probability").filter(unseen).mean(),
            )
            .drop_nulls("name")
            .sort("name")
        )
        if kind == "source":
            table = table.sort("rows", descending=True, maintain_order=True)
        for row in table.iter_rows(named=True):
            groups = np.unique(row["groups"], return_inverse=True)[1]
            slices.append(
                SliceScore(
                    kind=kind,
                    name=row["name"],
                    rows=row["rows"],
                    accuracy=share_interval(np.array(row["right"]), groups, config.confidence),
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
