"""The gate: whether a new model may become champion, and why."""

from pydantic import BaseModel
from scipy.stats import binomtest

from sentiment_model.config import GateConfig
from sentiment_model.evaluation.evaluate import Evaluation

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
        config: the thresholds.
    """
    rules = [
        _rows(evaluation, config),
        _against_majority(evaluation, config),
        _against_baseline(evaluation, config),
        _against_champion(evaluation, config),
        _slices(evaluation, config),
    ]
    return GateDecision(promote=all(rule.passed for rule in rules), rules=rules)


def _at_least(name: str, value: float, threshold: float, reason: str) -> RuleResult:
    passed = value >= threshold - _ROUNDING  # which NaN never is
    return RuleResult(name=name, passed=passed, value=value, threshold=threshold, reason=reason)


def _rows(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    rows, what = evaluation.test.rows, "test reviews"
    if (champion := evaluation.champion) and champion.seen:
        rows = champion.rows
        what += f" that champion version {champion.version} was not trained on ({champion.seen:,} others it was)"
    return _at_least("rows", rows, config.min_rows, f"{rows:,} {what}, at least {config.min_rows:,} wanted")


def _against_majority(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    """Judge by a sign test over the rows that only the model gets right, or only who always names the larger class."""
    test = evaluation.test
    classes = [(test.true_positives, test.false_negatives), (test.true_negatives, test.false_positives)]
    (right_of_small, _), (_, wrong_of_large) = sorted(classes, key=sum)
    doubtful = right_of_small + wrong_of_large
    p = float(binomtest(right_of_small, doubtful, alternative="greater").pvalue) if doubtful else 1.0
    return _at_least(
        "majority",
        1 - p,
        1 - config.majority_level,
        f"{max(map(sum, classes)):,} of {test.rows:,} reviews are of one class; of {doubtful:,} that only the model or "
        f"only who always names that class gets right, the model gets {right_of_small:,} (sign test p = {p:.2g}, at "
        f"most {config.majority_level:g} wanted)",
    )


def _against_baseline(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    model = evaluation.test.metrics["accuracy"].value
    baseline = evaluation.baseline_test.metrics["accuracy"].value
    return _at_least(
        "baseline",
        model - baseline,
        config.baseline_margin,
        f"accuracy {100 * model:.2f} % against {100 * baseline:.2f} % of the linear baseline "
        f"({_points(model - baseline)}, at least {_points(config.baseline_margin)} wanted)",
    )


def _against_champion(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    champion = evaluation.champion
    if champion is None:
        return RuleResult(name="champion", passed=True, value=None, threshold=None, reason="no other model is champion")
    if champion.seen is None:
        reason = (
            f"the reviews that champion version {champion.version} was trained on are not in the store any more, so "
            "nobody knows which test reviews it has seen; train it again, or take the alias champion from it"
        )
        return RuleResult(name="champion", passed=False, value=None, threshold=None, reason=reason)
    difference = champion.difference
    return _at_least(
        "champion",
        difference.value,
        -config.champion_margin,
        f"accuracy {_points(difference.value)} from that of champion version {champion.version} "
        f"(interval {100 * difference.low:+.2f} to {100 * difference.high:+.2f}, McNemar p = {champion.p_value:.2g}, "
        f"at least {_points(-config.champion_margin)} wanted)",
    )


def _slices(evaluation: Evaluation, config: GateConfig) -> RuleResult:
    changes = [
        (found.champion_difference, f"{found.kind}: {found.name}", found.unseen_rows)
        for found in evaluation.slices
        if found.champion_difference is not None and found.unseen_rows >= config.min_slice_rows
    ]
    if not changes:
        wanting = "no other champion"
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
