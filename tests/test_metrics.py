"""Metrics and their intervals, against scikit-learn and against arithmetic."""

import re
import tracemalloc
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

from sentiment_model.classes import BINARY, Classes, class_keys
from sentiment_model.evaluation import metrics
from sentiment_model.evaluation.metrics import (
    Bootstrap,
    Floats,
    Interval,
    Labels,
    WeightedMetrics,
    calibration_error,
    mean_interval,
    metrics_of,
    number_groups,
    reliability,
    resamples,
    share_interval,
)
from sentiment_model.models.answers import most_likely

METRICS = metrics_of(BINARY)


def of_both(positive: Floats) -> Floats:
    """Probabilities of both classes from that of positive."""
    return np.stack([1 - positive, positive], axis=1)


def predictions(rows: int, seed: int = 0, digits: int = 12) -> tuple[Labels, Floats]:
    """Labels, and probabilities of positive that know something of them; few digits make ties."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=rows)
    logits = generator.normal(size=rows) + 1.5 * (2 * labels - 1)
    return labels, np.round(1 / (1 + np.exp(-logits)), digits)


def predictions_of(classes: int, rows: int, seed: int, digits: int) -> tuple[Labels, Floats]:
    """The same of several classes, each of which has rows."""
    generator = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), generator.integers(classes, size=rows - classes)]
    exact = softmax(generator.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[labels], axis=1)
    return labels, np.round(exact, digits)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(4, 60), seed=st.integers(0, 10_000), digits=st.sampled_from([1, 2, 12]), weigh=st.booleans())
def test_metrics_equal_those_of_scikit_learn_under_any_weights(rows: int, seed: int, digits: int, weigh: bool) -> None:
    labels, probabilities = predictions(rows, seed, digits)
    labels[:2] = 0, 1
    weights = np.random.default_rng(seed).integers(0, 4, size=rows).astype(float) if weigh else np.ones(rows)
    weights[:2] = 1
    found = WeightedMetrics(labels, of_both(probabilities), BINARY, 5)(weights[None])
    assert list(found) == list(METRICS)
    predicted = probabilities >= 0.5
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted, sample_weight=weights),
        "macro_f1": sk.f1_score(labels, predicted, sample_weight=weights, average="macro", zero_division=0),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted, sample_weight=weights),
        "matthews": sk.matthews_corrcoef(labels, predicted, sample_weight=weights),
        "recall_positive": sk.recall_score(labels, predicted, sample_weight=weights),
        "recall_negative": sk.recall_score(1 - labels, ~predicted, sample_weight=weights),
        "precision_positive": sk.precision_score(labels, predicted, sample_weight=weights, zero_division=np.nan),
        "f1_positive": sk.f1_score(labels, predicted, sample_weight=weights),
        "roc_auc": sk.roc_auc_score(labels, probabilities, sample_weight=weights),
        "average_precision": sk.average_precision_score(labels, probabilities, sample_weight=weights),
        "brier": sk.brier_score_loss(labels, probabilities, sample_weight=weights),
    }
    assert {name: found[name][0] for name in expected} == pytest.approx(expected, nan_ok=True)
    log_loss = sk.log_loss(labels, np.clip(probabilities, 1e-15, 1 - 1e-15), sample_weight=weights)
    assert found["log_loss"][0] == pytest.approx(log_loss, rel=1e-4)  # 1 - (1 - 1e-15) is not quite 1e-15


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(3, 7),
    rows=st.integers(8, 80),
    seed=st.integers(0, 10_000),
    digits=st.sampled_from([2, 12]),
    weigh=st.booleans(),
)
def test_metrics_of_more_classes_equal_those_of_scikit_learn(
    count: int, rows: int, seed: int, digits: int, weigh: bool
) -> None:
    classes = Classes(names=tuple("abcdefg"[:count]), ordered=True)
    labels, probabilities = predictions_of(count, rows, seed, digits)
    weights = np.random.default_rng(seed).integers(0, 4, size=rows).astype(float) if weigh else np.ones(rows)
    weights[:count] = 1
    found = WeightedMetrics(labels, probabilities, classes, 5)(weights[None])
    assert list(found) == list(metrics_of(classes))
    predicted, truth, numbers = most_likely(probabilities), np.eye(count)[labels], range(count)
    weighted: dict[str, Any] = {"sample_weight": weights}
    each = {"labels": numbers, "average": None, "zero_division": np.nan, **weighted}
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted, **weighted),
        "macro_f1": sk.f1_score(labels, predicted, average="macro", zero_division=0, **weighted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted, **weighted),
        "matthews": sk.matthews_corrcoef(labels, predicted, **weighted),
        "mean_absolute_error": sk.mean_absolute_error(labels, predicted, **weighted),
        "quadratic_kappa": sk.cohen_kappa_score(labels, predicted, weights="quadratic", labels=numbers, **weighted),
        "roc_auc": sk.roc_auc_score(truth, probabilities, average="macro", **weighted),
        "average_precision": sk.average_precision_score(truth, probabilities, average="macro", **weighted),
        "brier": np.average(((probabilities - truth) ** 2).sum(axis=1) / 2, weights=weights),
        "log_loss": np.average(-np.log(np.clip(probabilities[truth == 1], 1e-15, 1)), weights=weights),
        **dict(zip([f"recall_{c}" for c in classes.names], sk.recall_score(labels, predicted, **each), strict=True)),
        **dict(zip([f"f1_{c}" for c in classes.names], sk.f1_score(labels, predicted, **each), strict=True)),
    }
    precision = sk.precision_score(labels, predicted, **each)
    expected |= dict(zip([f"precision_{c}" for c in classes.names], precision, strict=True))
    assert {name: found[name][0] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert found.keys() - expected.keys() == {"calibration_error"}


def test_the_brier_score_of_more_classes_is_half_of_scikit_learns() -> None:
    labels, probabilities = predictions_of(4, 100, 0, 12)
    found = WeightedMetrics(labels, probabilities, Classes(names=tuple("abcd")), 5)(np.ones((1, 100)))
    assert found["brier"][0] == pytest.approx(sk.brier_score_loss(labels, probabilities) / 2)
    assert found["log_loss"][0] == pytest.approx(sk.log_loss(labels, probabilities))
    assert "quadratic_kappa" not in found  # they have no order


def test_two_classes_of_many_are_like_two_alone() -> None:
    labels, positive = predictions(200)
    alone = WeightedMetrics(labels, of_both(positive), BINARY, 5)(np.ones((1, 200)))
    third = np.concatenate([of_both(positive), np.zeros((200, 1))], axis=1)
    among = WeightedMetrics(labels, third, Classes(names=("negative", "positive", "none")), 5)(np.ones((1, 200)))
    for name in (
        "accuracy",
        "macro_f1",
        "balanced_accuracy",
        "matthews",
        "roc_auc",
        "brier",
        "log_loss",
        "f1_negative",
    ):
        assert among[name] == pytest.approx(alone[name]), name
    assert np.isnan([among["recall_none"][0], among["precision_none"][0], among["f1_none"][0]]).all()


def test_the_calibration_of_more_classes_is_that_of_the_most_likely_one() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]])
    bins = reliability(labels := np.array([0, 2, 2, 0]), probabilities, 2)
    assert [found.mean_probability for found in bins] == pytest.approx([0.55, 0.85])
    assert [found.positive_share for found in bins] == pytest.approx([0.5, 1.0])
    weighed = WeightedMetrics(labels, probabilities, Classes(names=("a", "b", "c")), 2)(np.ones((1, 4)))
    assert weighed["calibration_error"][0] == pytest.approx(0.1) == calibration_error(bins)


def test_of_equal_probabilities_the_last_class_is_named() -> None:
    assert most_likely(np.array([[0.5, 0.5], [0.6, 0.4]])).tolist() == [1, 0]
    assert most_likely(np.array([[0.4, 0.4, 0.2], [0.1, 0.45, 0.45]])).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (("negative", "positive"), ("negative", "positive")),
        (("very bad", "so-so", "ดี มาก"), ("very_bad", "so_so", "ด_มาก")),
        (("a b", "a/b", "a_1"), ("a_b_0", "a_b_1", "a_1_2")),
        (("+", "-"), ("0", "1")),
        (("x" * 300, "../y"), ("x" * 60, "y")),
    ],
)
def test_the_keys_of_metrics_are_safe_and_differ(names: tuple[str, ...], keys: tuple[str, ...]) -> None:
    classes = Classes(names=names)
    assert class_keys(classes) == keys
    told = metrics_of(classes)
    assert all(re.fullmatch(r"\w+", key) for key in told)
    assert {f"recall of {name}" for name in names} < {metric.title for metric in told.values()}
    assert len(told) == 9 + 3 * len(names)


def test_many_weightings_are_weighed_each_on_its_own() -> None:
    labels, probabilities = predictions(50)
    weighed = WeightedMetrics(labels, of_both(probabilities), BINARY, 5)
    weights = np.random.default_rng(1).integers(0, 3, size=(4, 50)).astype(float)
    together = weighed(weights)
    for i in range(4):
        alone = weighed(weights[i : i + 1])
        assert {name: together[name][i] for name in METRICS} == pytest.approx({n: alone[n][0] for n in METRICS})


def test_calibration_error_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 1, 0])
    probabilities = of_both(np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9]))
    bins = reliability(labels, probabilities, 2)
    assert [found.rows for found in bins] == [3, 3]
    assert [found.mean_probability for found in bins] == pytest.approx([0.2, 0.8])
    assert [found.positive_share for found in bins] == pytest.approx([1 / 3, 2 / 3])
    assert calibration_error(bins) == pytest.approx(2 / 15)
    found = WeightedMetrics(labels, probabilities, BINARY, 2)(np.ones((1, 6)))["calibration_error"][0]
    assert found == pytest.approx(2 / 15)


@pytest.mark.parametrize("digits", [1, 12])
def test_bins_and_metric_agree_on_the_calibration_error(digits: int) -> None:
    labels, positive = predictions(101, digits=digits)
    found = WeightedMetrics(labels, of_both(positive), BINARY, 7)(np.ones((1, 101)))["calibration_error"][0]
    assert calibration_error(reliability(labels, of_both(positive), 7)) == pytest.approx(found)


def test_a_constant_answer_is_calibrated_whatever_the_order_of_the_rows() -> None:
    labels = np.repeat([0, 1], 50)
    probabilities = of_both(np.full(100, 0.5))
    assert [found.rows for found in reliability(labels, probabilities, 10)] == [100]
    found = WeightedMetrics(labels, probabilities, BINARY, 10)(np.ones((1, 100)))["calibration_error"][0]
    assert found == pytest.approx(0)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    truth = {name: interval.value for name, interval in _intervals(*predictions(200_000, seed=99), samples=1).items()}
    names = [name for name in METRICS if name != "calibration_error"]  # which is biased upwards in small samples
    covered = dict.fromkeys(names, 0)
    runs = 100
    for seed in range(runs):
        found = _intervals(*predictions(300, seed))
        for name in names:
            covered[name] += found[name].low <= truth[name] <= found[name].high
    # 90 % intervals: the expected count is 90, its standard deviation 3.
    assert all(80 <= count <= 99 for count in covered.values()), covered


def test_the_interval_of_the_calibration_error_covers_the_truth_although_the_estimate_is_too_high() -> None:
    def overconfident(rows: int, seed: int) -> tuple[Labels, Floats, Floats]:
        generator = np.random.default_rng(seed)
        logits = 2 * generator.normal(size=rows)
        share = 1 / (1 + np.exp(-logits))
        return (generator.random(rows) < share).astype(np.intp), 1 / (1 + np.exp(-1.3 * logits)), share

    _, probabilities, share = overconfident(1_000_000, seed=99)
    order = np.argsort(probabilities)
    truth = np.mean([abs(part.mean()) for part in np.array_split((probabilities - share)[order], 15)])
    runs = 60
    drawn = [overconfident(400, seed) for seed in range(runs)]
    found = [
        bootstrap(labels, positive, np.arange(400), bins=15, samples=200).intervals(0.9)["calibration_error"]
        for labels, positive, _ in drawn
    ]
    assert np.mean([error.value for error in found]) > 1.4 * truth
    # Percentile intervals, which the other metrics have, would cover it in none of these runs.
    assert sum(error.low <= truth <= error.high for error in found) >= 0.7 * runs


def test_every_interval_holds_its_estimate() -> None:
    for seed in range(10):
        for name, found in _intervals(*predictions(500, seed)).items():
            assert 0 <= found.low <= found.value <= found.high <= 1, (name, found)


def test_one_class_leaves_the_ranking_undefined_and_the_rest_defined() -> None:
    probabilities = np.array([0.2, 0.6, 0.9])
    negative = _intervals(np.zeros(3, dtype=np.intp), probabilities)
    undefined = {name for name, found in negative.items() if np.isnan([found.value, found.low, found.high]).all()}
    assert undefined == {
        "macro_f1", "balanced_accuracy", "matthews", "recall_positive", "f1_positive", "roc_auc", "average_precision"
    }  # fmt: skip
    assert negative["accuracy"].value == pytest.approx(1 / 3)
    positive = _intervals(np.ones(3, dtype=np.intp), probabilities)
    assert np.isnan(positive["roc_auc"].value)
    assert positive["average_precision"].value == 1


def test_one_row_is_enough() -> None:
    found = _intervals(np.ones(1, dtype=np.intp), np.array([0.75]))
    assert found["accuracy"].value == 1
    assert np.isnan([found["accuracy"].low, found["accuracy"].high]).all()
    assert found["brier"].value == pytest.approx(1 / 16)


def test_a_rare_class_that_some_resamples_miss_has_intervals() -> None:
    labels = np.zeros(50, dtype=np.intp)
    labels[0] = 1
    found = _intervals(labels, np.linspace(0.9, 0.1, 50))
    assert found["roc_auc"].value == found["roc_auc"].high == 1


def test_an_interval_without_a_value_survives_json() -> None:
    nothing = Interval(value=np.nan, low=np.nan, high=np.nan)
    assert nothing.model_dump_json() == '{"value":null,"low":null,"high":null}'
    again = Interval.model_validate_json(nothing.model_dump_json())
    assert np.isnan([again.value, again.low, again.high]).all()


def test_intervals_are_the_same_in_every_run_and_for_every_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, probabilities = predictions(90)
    first = _intervals(labels, probabilities)
    monkeypatch.setattr(metrics, "_CHUNK_CELLS", 700)
    again = _intervals(labels, probabilities)
    for name in METRICS:
        assert again[name].model_dump() == pytest.approx(first[name].model_dump())


def test_the_mean_has_the_interval_of_the_normal_approximation() -> None:
    values = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], size=5000)
    found = mean_interval(values, np.arange(5000), samples=1000, confidence=0.95)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([values.mean() - half, values.mean() + half], abs=half / 5)


def test_every_resample_draws_as_many_groups_as_there_are() -> None:
    groups = np.array([0, 1, 1, 2, 3, 3, 3])
    chunks = list(resamples(groups, 25))
    assert sum(len(chunk) for chunk in chunks) == 25
    weights = np.concatenate(chunks)
    assert (weights[:, 1] == weights[:, 2]).all()
    assert (weights[:, 4] == weights[:, 5]).all()
    assert (weights[:, [0, 1, 3, 4]].sum(axis=1) == 4).all()
    assert len(np.unique(weights, axis=0)) > 15


def clustered(groups: int, each: int, seed: int) -> tuple[Floats, NDArray[np.intp]]:
    """Rows that are right or wrong, mostly all of a group, and their groups; three in four are right."""
    generator = np.random.default_rng(seed)
    of_group = generator.random(groups) < 0.75
    same = generator.random((groups, each)) < 0.6
    right = np.where(same, of_group[:, None], generator.random((groups, each)) < 0.75)
    return right.ravel().astype(float), np.repeat(np.arange(groups), each)


@pytest.mark.parametrize("kind", ["mean", "share"])
def test_intervals_count_groups_not_rows(kind: str) -> None:
    """Of 400 rows in 40 groups, the interval for as many rows on their own is far too narrow."""

    def interval(right: Floats, groups: NDArray[np.intp]) -> Interval:
        if kind == "share":
            return share_interval(right, groups, 0.9)
        return mean_interval(right, groups, samples=200, confidence=0.9)

    runs = [clustered(groups=40, each=10, seed=seed) for seed in range(100)]
    by_group = sum(found.low <= 0.75 <= found.high for found in (interval(*run) for run in runs))
    by_row = sum(
        found.low <= 0.75 <= found.high for found in (interval(right, np.arange(len(right))) for right, _ in runs)
    )
    assert by_row < 65
    assert by_group >= 80


def test_the_interval_of_a_share_is_wilsons_where_rows_are_on_their_own() -> None:
    right = np.array([1.0] * 27 + [0.0] * 3)
    found = share_interval(right, np.arange(30), 0.95)
    assert [found.low, found.high] == pytest.approx(proportion_confint(27, 30, method="wilson"), abs=0.004)
    perfect = share_interval(np.ones(30), np.repeat(np.arange(3), 10), 0.95)
    assert (perfect.value, perfect.high) == pytest.approx((1, 1))
    assert perfect.low == pytest.approx(proportion_confint(3, 3, method="wilson")[0])  # three groups, no more is known


def test_predictions_are_compared_in_the_same_resamples() -> None:
    labels, probabilities = predictions(400)
    groups = np.repeat(np.arange(80), 5)
    better = bootstrap(labels, probabilities, groups, bins=5, samples=300)
    noise = 0.1 * np.random.default_rng(5).normal(size=400)
    worse = bootstrap(
        labels, 1 / (1 + np.exp(-np.log(probabilities / (1 - probabilities)) - noise)), groups, bins=5, samples=300
    )
    for name in ("macro_f1", "log_loss"):
        found = better.differences(worse, 0.9)[name]
        assert found.low <= found.value <= found.high
        width, alone = (limits.high - limits.low for limits in (found, worse.intervals(0.9)[name]))
        assert width < alone
        back = worse.differences(better, 0.9)[name]
        assert back.value == pytest.approx(-found.value)
        assert found.better_share + back.better_share <= 1
    same = better.differences(better, 0.9)["macro_f1"]
    assert (same.value, same.better_share) == (0, 0)


def test_a_metric_that_is_not_defined_is_not_better() -> None:
    alone = bootstrap(np.ones(3, dtype=np.intp), np.array([0.2, 0.6, 0.9]), np.arange(3), bins=5, samples=50)
    found = alone.differences(alone, 0.9)["macro_f1"]
    assert np.isnan([found.value, found.low, found.high, found.better_share]).all()


def test_rows_without_a_group_are_groups_of_their_own() -> None:
    assert number_groups(pl.Series(["a", None, "b", "a", None])).tolist() == [0, 2, 1, 0, 3]
    assert number_groups(pl.Series([None, "1", "r0"])).tolist() == [2, 0, 1]
    assert number_groups(pl.Series([None, None], dtype=pl.String)).tolist() == [0, 1]


def test_one_group_says_nothing_of_how_far_chance_reaches() -> None:
    right = np.array([1.0] * 27 + [0.0] * 3)
    share = share_interval(right, np.zeros(30, dtype=np.intp), 0.95)
    assert [share.low, share.high] == pytest.approx(proportion_confint(0.9, 1, method="wilson"))
    labels, probabilities = predictions(30)
    drawn = bootstrap(labels, probabilities, np.zeros(30, dtype=np.intp), bins=5, samples=50)
    for found in (*drawn.intervals(0.95).values(), *drawn.differences(drawn, 0.95).values()):
        assert np.isfinite(found.value)
        assert np.isnan([found.low, found.high]).all()
    assert np.isnan(drawn.differences(drawn, 0.95)["accuracy"].better_share)


def test_memory_does_not_grow_with_the_number_of_resamples() -> None:
    labels, probabilities = predictions(200_000)
    peaks = []
    for samples in (5, 25):
        tracemalloc.start()
        _intervals(labels, probabilities, samples=samples)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def _intervals(labels: Labels, probabilities: Floats, samples: int = 200) -> dict[str, Interval]:
    groups = np.arange(len(labels))
    return bootstrap(labels, probabilities, groups, bins=5, samples=samples).intervals(0.9)


def bootstrap(labels: Labels, positive: Floats, groups: NDArray[np.intp], *, bins: int, samples: int) -> Bootstrap:
    return Bootstrap.of(labels, of_both(positive), groups, BINARY, bins=bins, samples=samples)
