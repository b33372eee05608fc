"""Evaluation on held-out reviews: against the truth, a linear baseline and the current champion."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, model_validator
from scipy.special import softmax
from sklearn.metrics import roc_curve
from statsmodels.stats.contingency_tables import mcnemar

from sentiment_model.classes import BINARY, Classes
from sentiment_model.config import EvaluateConfig
from sentiment_model.errors import ConfigurationError
from sentiment_model.evaluation.metrics import (
    Bootstrap,
    Difference,
    Floats,
    Interval,
    Labels,
    ReliabilityBin,
    calibration_error,
    number_groups,
    reliability,
    share_interval,
)
from sentiment_model.evaluation.slices import slice_names
from sentiment_model.models.answers import most_likely
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
        confusion: how many rows of each class (first index) were predicted as each class (second index).
        metrics: with intervals over the groups.
    """

    rows: int
    groups: int
    confusion: list[list[int]]
    metrics: dict[str, Interval]

    @model_validator(mode="before")
    @classmethod
    def _read_of_two_classes(cls, data: Any) -> Any:
        """Take over what was stored when there were two classes only."""
        if isinstance(data, dict) and "true_negatives" in data:
            negative = [data["true_negatives"], data["false_positives"]]
            return {**data, "confusion": [negative, [data["false_negatives"], data["true_positives"]]]}
        return data

    @property
    def of_classes(self) -> list[int]:
        """How many rows are of each class."""
        return [sum(row) for row in self.confusion]


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
    """A test review on which the model is confident and wrong.

    Attributes:
        label: number of the true class.
        predicted: number of the class that the model takes it for.
        probability: of that class.
    """

    review_id: str
    source: str
    label: int
    predicted: int
    probability: float
    text: str

    @model_validator(mode="before")
    @classmethod
    def _read_of_two_classes(cls, data: Any) -> Any:
        """Take over what was stored when there were two classes only: the probability of the second."""
        if isinstance(data, dict) and "predicted" not in data:
            predicted, second = 1 - data["label"], data["probability"]
            return {**data, "predicted": predicted, "probability": second if predicted else 1 - second}
        return data


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


class OtherChampion(BaseModel):
    """A champion that tells other classes apart, so that nothing can be compared with it."""

    version: str
    classes: Classes


class Evaluation(BaseModel):
    """What is known of a model from reviews that it was not trained on.

    Attributes:
        champion: the comparison with the champion; None where there is no other, or one of other classes.
        other_champion: the champion where it is of other classes.
        roc_curves: of each class against the others, as pairs of false-positive and true-positive rate, none where the
            data does not define them; of two classes that of the second only.
        confidence: coverage of the intervals.
    """

    classes: Classes = BINARY
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
    other_champion: OtherChampion | None = None
    slices: list[SliceScore]
    mistakes: list[Mistake]
    temperature: float
    calibration_error_before: float
    reliability_before: list[ReliabilityBin]
    reliability_after: list[ReliabilityBin]
    roc_curves: list[list[tuple[float, float]]]
    history: list[EpochMetrics]
    lineage: list[StageRecord]
    confidence: float

    @model_validator(mode="before")
    @classmethod
    def _read_of_two_classes(cls, data: Any) -> Any:
        """Take over what was stored when there were two classes only."""
        if isinstance(data, dict) and "roc_curve" in data:
            return {**data, "roc_curves": [data["roc_curve"]]}
        return data


def evaluate_model(
    validation: pl.DataFrame,
    test: pl.DataFrame,
    classes: Classes,
    config: EvaluateConfig,
    *,
    temperature: float,
    history: Sequence[EpochMetrics],
    lineage: Sequence[StageRecord],
    champion_version: str | None = None,
    other_champion: OtherChampion | None = None,
) -> Evaluation:
    """Evaluate predictions.

    Args:
        validation: held-out reviews with `group` (null for none), `label` (number of the class), and of all classes, as
            arrays, the `probabilities` and `logits`, and the probabilities `recurrent` of the model's recurrent part
            alone and `baseline`.
        test: the same, plus `source`, `text`, `n_tokens`, `n_unknown` and, where there is a champion,
            `champion` (its probabilities) and `seen` (whether it was fitted or chosen on the review, or on others of
            its group; null where that is not known).
        classes: what is told apart.
        config: what to report.
        temperature: the divisor that turned logits into probabilities.
        history: how training went.
        lineage: the stages behind the model.
        champion_version: the champion's version, if there is one to compare with.
        other_champion: the champion, if there is one of other classes.

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
    labels, logits, probabilities = _labels(headline), _of_classes(headline, "logits"), _of_classes(headline)
    parts = ("probabilities", "recurrent", "baseline")
    always_the_same = np.zeros((len(headline), len(classes)))
    always_the_same[:, most_likely(np.bincount(labels, minlength=len(classes))[None].astype(np.float64))] = 1
    with_majority = headline.with_columns(majority=pl.Series(always_the_same))
    on_test = _draw(with_majority, [*parts, "majority"], classes, config)
    on_validation = _draw(validation, parts, classes, config)
    before = reliability(labels, softmax(logits, axis=1), config.calibration_bins)
    return Evaluation(
        classes=classes,
        test=_scores(headline, "probabilities", on_test, config),
        validation=_scores(validation, "probabilities", on_validation, config),
        recurrent_test=_scores(headline, "recurrent", on_test, config),
        recurrent_validation=_scores(validation, "recurrent", on_validation, config),
        separate={
            source: _scores(rows, "probabilities", _draw(rows, ["probabilities"], classes, config), config)
            for source, rows in separate.items()
        },
        baseline_test=_scores(headline, "baseline", on_test, config),
        baseline_validation=_scores(validation, "baseline", on_validation, config),
        over_baseline=on_test["probabilities"].differences(on_test["baseline"], config.confidence),
        over_majority=on_test["probabilities"].differences(on_test["majority"], config.confidence),
        champion=None if champion_version is None else _compare(headline, champion_version, classes, config),
        other_champion=other_champion,
        slices=_slices(headline, test.filter(pl.col("source").is_in(list(separate))), config),
        mistakes=_mistakes(headline, config.mistakes),
        temperature=temperature,
        calibration_error_before=calibration_error(before),
        reliability_before=before,
        reliability_after=reliability(labels, probabilities, config.calibration_bins),
        roc_curves=_roc_curves(labels, probabilities),
        history=list(history),
        lineage=list(lineage),
        confidence=config.confidence,
    )


def prior_shift_of(lineage: Sequence[StageRecord]) -> float:
    """Return how far the model's probabilities were moved towards reviews of which each class has as many, 0..1."""
    found = (record.parameters["train"].get("prior_shift", 0.0) for record in lineage if "train" in record.parameters)
    return float(next(found, 0.0))


def _labels(frame: pl.DataFrame) -> Labels:
    return frame["label"].to_numpy().astype(np.intp)


def _of_classes(frame: pl.DataFrame, column: str = "probabilities") -> Floats:
    """Return a column of arrays, shape (rows, classes)."""
    return frame[column].to_numpy()


def _draw(
    frame: pl.DataFrame, columns: Sequence[str], classes: Classes, config: EvaluateConfig
) -> dict[str, Bootstrap]:
    """Return the metrics of each column of probabilities, all in the same resamples."""
    labels, groups = _labels(frame), number_groups(frame["group"])
    bins, samples = config.calibration_bins, config.bootstrap_samples
    return {
        name: Bootstrap.of(labels, _of_classes(frame, name), groups, classes, bins=bins, samples=samples)
        for name in columns
    }


def _scores(frame: pl.DataFrame, column: str, drawn: dict[str, Bootstrap], config: EvaluateConfig) -> Scores:
    labels, probabilities = _labels(frame), _of_classes(frame, column)
    classes = probabilities.shape[1]
    cells = np.bincount(labels * classes + most_likely(probabilities), minlength=classes**2)
    return Scores(
        rows=len(labels),
        groups=drawn[column].groups,
        confusion=cells.reshape(classes, classes).tolist(),
        metrics=drawn[column].intervals(config.confidence),
    )


def _right(frame: pl.DataFrame, column: str) -> pl.Series:
    """Return whether a column of probabilities names the true class of each row."""
    return pl.Series(most_likely(_of_classes(frame, column)) == _labels(frame), dtype=pl.Boolean)


def _compare(headline: pl.DataFrame, version: str, classes: Classes, config: EvaluateConfig) -> ChampionComparison:
    unseen = headline.filter(~pl.col("seen").fill_null(value=False))
    model, champion = (_right(unseen, name) for name in ("probabilities", "champion"))
    only_model, only_champion = int((model & ~champion).sum()), int((~model & champion).sum())
    accuracy, differences, groups = Interval(value=math.nan, low=math.nan, high=math.nan), {}, 0
    if rows := len(unseen):
        drawn = _draw(unseen, ["probabilities", "champion"], classes, config)
        accuracy = drawn["champion"].intervals(config.confidence)["accuracy"]
        differences = drawn["probabilities"].differences(drawn["champion"], config.confidence)
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
        has_champion = "champion" in frame.columns
        frame = frame.with_columns(
            model_right=_right(frame, "probabilities"),
            baseline_right=_right(frame, "baseline"),
            champion_right=_right(frame, "champion") if has_champion else pl.lit(None, pl.Boolean),
            seen=pl.col("seen") if has_champion else pl.lit(value=True),
        )
        unseen = ~pl.col("seen").fill_null(value=True)
        table = (
            frame.group_by(name.alias("name"))
            .agg(
                rows=pl.len(),
                right=pl.col("model_right").cast(pl.Float64),
                groups="group_number",
                baseline=pl.col("baseline_right").mean(),
                unseen=unseen.sum(),
                champion=pl.col("champion_right").filter(unseen).mean(),
                on_unseen=pl.col("model_right").filter(unseen).mean(),
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
    probabilities = _of_classes(headline)
    answers = {"predicted": pl.Series(most_likely(probabilities)), "probability": pl.Series(probabilities.max(axis=1))}
    wrong = headline.with_columns(**answers).filter(pl.col("predicted") != pl.col("label"))
    return [
        Mistake(
            review_id=row["review_id"],
            source=row["source"],
            label=row["label"],
            predicted=row["predicted"],
            probability=row["probability"],
            text=row["text"][:_MISTAKE_CHARACTERS] + ("…" if len(row["text"]) > _MISTAKE_CHARACTERS else ""),
        )
        for row in wrong.sort("probability", "review_id", descending=[True, False]).head(count).iter_rows(named=True)
    ]


def _roc_curves(labels: Labels, probabilities: Floats) -> list[list[tuple[float, float]]]:
    classes = probabilities.shape[1]
    told = range(classes) if classes > len(BINARY) else [1]
    return [_roc_curve(labels == number, probabilities[:, number]) for number in told]


def _roc_curve(is_true: NDArray[np.bool_], probabilities: Floats, points: int = 200) -> list[tuple[float, float]]:
    """Return (false-positive rate, true-positive rate), thinned to be drawn; nothing where there is only one class."""
    if len(np.unique(is_true)) < 2:
        return []
    false, true, _ = roc_curve(is_true, probabilities)
    kept = np.unique(np.linspace(0, len(true) - 1, min(points, len(true))).astype(int))
    return [(float(x), float(y)) for x, y in zip(false[kept], true[kept], strict=True)]
