"""The gate: whether a new model may become champion, and why."""

import math

from pydantic import BaseModel

from sentiment_model.classes import Classes
from sentiment_model.config import GateConfig
from sentiment_model.evaluation.evaluate import Evaluation, OtherChampion
from sentiment_model.evaluation.metrics import Difference, Metric, metrics_of

_ROUNDING = 1e-9  # 0.85 - 0.90 is not quite -0.05


class RuleResult(BaseModel):
    """One rule: passed if `value` is at least `threshold`; both are null where there is nothing to compare with."""

    name: str
    passed: bool
    value: float | None
    threshold: float | None
    reason: str


class GateDecision(BaseModel):
    """The verdict of all rules."""

    promote: bool
    rules: list[RuleResult]

    @property
    def summary(self) -> str:
        """The verdict in a sentence."""
        reasons = (rule.reason for rule in self.rules if self.promote or not rule.passed)
        return ("Promoted: " if self.promote else "Not promoted: ") + "; ".join(reasons) + "."


def decide(evaluation: Evaluation, config: GateConfig) -> GateDecision:
    """Judge a model by its evaluation; every rule must pass.

    Args:
        evaluation: of the model, which compares it with the champion where there is another one.
        config: the thresholds, and the metric, which is one of :func:`metrics_of` the evaluation's classes.
    """
    rules = [
        _rows(evaluation, config),
        _groups(evaluation, config),
        _against_majority(evaluation, config),
        _against_baseline(evaluation, config),
        _against_champion(evaluation, config),
        _slices(evaluation, config),
    ]
    return GateDecision(promote=all(rule.passed for rule in rules), rules=rules)


def _better(name: str, metric: Metric, difference: Difference, confidence: float, reason: str) -> RuleResult:
    """Ask that a difference is positive in so many of the resamples; confidence 0 asks for nothing."""
    share = difference.better_share
    if math.isnan(difference.value):
        reason = _undefined(metric)
    elif math.isnan(share):
        reason = "the test reviews to compare on are of one group, so that nobody knows how far chance reaches"
    else:
        reason += f", better in {share:.1%} of the resamples ({confidence:.0%} wanted)"
    result = _at_least(name, share, confidence, reason)
    return result if confidence else result.model_copy(update={"passed": True})


def _undefined(metric: Metric) -> str:
    return f"{metric.title} is not defined for these test reviews; are they all of one class?"


def _at_least(name: str, value: float, threshold: float, reason: str) -> RuleResult:
    passed = value >= threshold - _ROUNDING  # which NaN never is
    return RuleResult(name=name, passed=passed, value=value, threshold=threshold, reason=reason)


def _rows(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    rows, what = evaluation.test.rows, "test reviews"
    if (champion := evaluation.champion) and champion.seen:
        rows = champion.rows
        what += f" that champion version {champion.version} was not trained on ({champion.seen:,} others it was)"
    return _at_least("rows", rows, config.min_rows, f"{rows:,} {what}, at least {config.min_rows:,} wanted")


def _groups(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    champion = evaluation.champion
    groups = champion.groups if champion and champion.seen else evaluation.test.groups
    return _at_least(
        "groups", groups, config.min_groups, f"they are of {groups:,} groups, at least {config.min_groups:,} wanted"
    )


def _against_majority(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    """Judge by balanced accuracy, whatever the metric: by macro-F1, a coin is better than to name one class always."""
    test, difference = evaluation.test, evaluation.over_majority["balanced_accuracy"]
    metric = metrics_of(evaluation.classes)["balanced_accuracy"]
    return _better(
        "majority",
        metric,
        difference,
        config.majority_confidence,
        f"{max(test.of_classes):,} of {test.rows:,} reviews are of one class; {metric.title} "
        f"{_points(difference.value)} from that of always naming it",
    )


def _against_baseline(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    metric = metrics_of(evaluation.classes)[config.metric]
    model, baseline = (scores.metrics[config.metric].value for scores in (evaluation.test, evaluation.baseline_test))
    difference = evaluation.over_baseline[config.metric].value
    reason = (
        f"{metric.title} {_value(metric, model)} against {_value(metric, baseline)} of the linear baseline "
        f"({_change(metric, difference)}, at least {_change(metric, config.baseline_margin)} wanted)"
    )
    return _at_least(
        "baseline", difference, config.baseline_margin, _undefined(metric) if math.isnan(difference) else reason
    )


def _against_champion(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    """Ask for one standard error.

    A challenger that need not be better, only not much worse, may be a little worse each night, and the champion walks
    down. One that need only look better is the luckiest of many, whom no better one replaces. To ask for as much as the
    standard error is the parameter-free ladder of Blum & Hardt (2015), "The Ladder: A Reliable Leaderboard for Machine
    Learning Competitions". ``python -m benchmarks.gate`` simulates all three.
    """
    if evaluation.other_champion:
        return _of_other_classes(evaluation.other_champion, evaluation.classes)
    champion = evaluation.champion
    if champion is None:
        return RuleResult(name="champion", passed=True, value=None, threshold=None, reason="no other model is champion")
    reason = None
    if champion.seen is None:
        reason = (
            f"the reviews that champion version {champion.version} was trained on are not in the store any more, so "
            "nobody knows which test reviews it has seen; train it again, or take the alias champion from it"
        )
    elif not champion.rows:
        reason = (
            f"champion version {champion.version} was trained on every test review, or on others of its group, so that "
            "nothing compares the two; take the alias champion from it"
        )
    if reason:
        passed = config.champion_confidence == 0
        return RuleResult(name="champion", passed=passed, value=None, threshold=None, reason=reason)
    metric, difference = metrics_of(evaluation.classes)[config.metric], champion.differences[config.metric]
    return _better(
        "champion",
        metric,
        difference,
        config.champion_confidence,
        f"{metric.title} {_change(metric, difference.value)} from that of champion version {champion.version} "
        f"(interval {_change(metric, difference.low)} to {_change(metric, difference.high)})",
    )


def _of_other_classes(champion: OtherChampion, classes: Classes) -> RuleResult:
    """Refuse whatever the confidence: what reads the champion's answers would get others."""
    reason = (
        f"champion version {champion.version} tells apart {', '.join(champion.classes.names)}, this model "
        f"{', '.join(classes.names)}: nothing compares the two; train it under another model_name, or take the alias "
        "champion from that version and run again"
    )
    return RuleResult(name="champion", passed=False, value=None, threshold=None, reason=reason)


def _slices(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    changes = [
        (found.champion_difference, f"{found.kind}: {found.name}", found.unseen_rows)
        for found in evaluation.slices
        if found.champion_difference is not None and found.unseen_rows >= config.min_slice_rows
    ]
    if not changes:
        wanting = "no other champion" + (" of these classes" if evaluation.other_champion else "")
        if champion := evaluation.champion:
            wanting = f"no slice has {config.min_slice_rows:,} reviews"
            wanting += "" if champion.seen == 0 else " that the champion was not trained on"
        reason = f"no slice to compare: {wanting}"
        return RuleResult(name="slices", passed=True, value=None, threshold=None, reason=reason)
    change, name, rows = min(changes)
    return _at_least(
        "slices",
        change,
        -config.max_slice_drop,
        f"of all slices, {name} ({rows:,} reviews) compares worst with the champion "
        f"({_points(change)}, at least {_points(-config.max_slice_drop)} wanted)",
    )


def _points(difference: float) -> str:
    return f"{100 * (difference + 0.0):+.2f} points"  # adding zero makes -0.0 zero


def _change(metric: Metric, difference: float) -> str:
    return _points(difference) if metric.is_share else f"{difference + 0.0:+.4f}"


def _value(metric: Metric, value: float) -> str:
    return f"{100 * value:.2f} %" if metric.is_share else f"{value:.4f}"
