"""The gate: whether a new model may become champion, and why."""

import math

from pydantic import BaseModel

from sentiment_model.config import GateConfig
from sentiment_model.evaluation import Evaluation


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
        if self.promote:
            return "Promoted: " + "; ".join(rule.reason for rule in self.rules) + "."
        return "Not promoted: " + "; ".join(rule.reason for rule in self.rules if not rule.passed) + "."


def decide(evaluation: Evaluation, config: GateConfig) -> GateDecision:
    """Judge a model by its evaluation; every rule must pass."""
    rules = [
        _against_baseline(evaluation, config),
        _against_champion(evaluation, config),
        _slices(evaluation, config),
    ]
    return GateDecision(promote=all(rule.passed for rule in rules), rules=rules)


def _at_least(name: str, value: float, threshold: float, reason: str) -> RuleResult:
    passed = math.isfinite(value) and value >= threshold
    return RuleResult(name=name, passed=passed, value=value, threshold=threshold, reason=reason)


def _against_baseline(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    model = evaluation.test.metrics["accuracy"].value
    baseline = evaluation.baseline_test.metrics["accuracy"].value
    return _at_least(
        "baseline",
        model - baseline,
        config.baseline_margin,
        f"accuracy {model:.2%} against {baseline:.2%} of the linear baseline "
        f"({100 * (model - baseline):+.2f} points, at least {100 * config.baseline_margin:+.2f} wanted)",
    )


def _against_champion(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    champion = evaluation.champion
    if champion is None:
        return RuleResult(name="champion", passed=True, value=None, threshold=None, reason="there is no other champion")
    difference = champion.difference
    return _at_least(
        "champion",
        difference.value,
        -config.champion_margin,
        f"accuracy differs from champion version {champion.version} by {100 * difference.value:+.2f} points "
        f"(interval {100 * difference.low:+.2f} to {100 * difference.high:+.2f}, McNemar p = {champion.p_value:.2g}, "
        f"at least {-100 * config.champion_margin:+.2f} wanted)",
    )


def _slices(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    changes = [
        (found.accuracy.value - found.champion_accuracy, f"{found.kind}: {found.name}", found.rows)
        for found in evaluation.slices
        if found.champion_accuracy is not None and found.rows >= config.min_slice_rows
    ]
    if not changes:
        return RuleResult(name="slices", passed=True, value=None, threshold=None, reason="there is no slice to compare")
    change, name, rows = min(changes)
    return _at_least(
        "slices",
        change,
        -config.max_slice_drop,
        f"the slice that changed for the worst is {name} ({rows} reviews, {100 * change:+.2f} points, "
        f"at least {-100 * config.max_slice_drop:+.2f} wanted)",
    )
