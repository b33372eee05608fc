"""The gate: each rule both ways, and the sentences that it gives for a reason."""

import math

import pytest
from pydantic import ValidationError

from benchmarks.gate import NIGHTS, RULES, simulate
from sentiment_model.classes import BINARY, Classes
from sentiment_model.config import GateConfig, TrainingRun
from sentiment_model.evaluation.evaluate import ChampionComparison, Evaluation, OtherChampion, Scores, SliceScore
from sentiment_model.evaluation.gate import GateDecision, RuleResult, decide
from sentiment_model.evaluation.metrics import Difference, Interval, metrics_of

METRICS = metrics_of(BINARY)


def scores(accuracy: float) -> Scores:
    metrics = {name: Interval(value=accuracy, low=accuracy, high=accuracy) for name in METRICS}
    return Scores(
        rows=1000, groups=1000, confusion=[[400, 100], [100, 400]], metrics=metrics,
    )  # fmt: skip


def differences(value: float, better_share: float) -> dict[str, Difference]:
    found = Difference(value=value, low=value - 0.01, high=value + 0.01, better_share=better_share)
    return dict.fromkeys(METRICS, found)


def part(name: str, rows: int, change: float | None, accuracy: float = 0.8, seen: int = 0) -> SliceScore:
    return SliceScore(
        kind="length",
        name=name,
        rows=rows,
        accuracy=Interval(value=accuracy, low=0.7, high=0.9),
        baseline_accuracy=0.8,
        unseen_rows=rows - seen,
        champion_accuracy=None if change is None else accuracy - change,
        champion_difference=change,
    )


def evaluation(
    *,
    model: float = 0.9,
    baseline: float = 0.88,
    against_champion: float | None = None,
    better_share: float = 0.9,
    over_majority: float = 1.0,
    slices: list[SliceScore] | None = None,
    seen: int | None = 0,
    test: Scores | None = None,
) -> Evaluation:
    champion = None
    if against_champion is not None:
        champion = ChampionComparison(
            version="7",
            rows=1000 - (seen or 0),
            groups=1000 - (seen or 0),
            seen=seen,
            accuracy=Interval(value=0.9, low=0.88, high=0.92),
            differences=differences(against_champion, better_share),
            only_model_right=10,
            only_champion_right=12,
            p_value=0.832,
        )
    return Evaluation(
        test=test or scores(model), validation=scores(model),
        recurrent_test=scores(model), recurrent_validation=scores(model),
        separate={},
        baseline_test=scores(baseline), baseline_validation=scores(baseline),
        over_baseline=differences(model - baseline, 0.9), over_majority=differences(0.3, over_majority),
        champion=champion, slices=slices or [], mistakes=[],
        temperature=1.0, calibration_error_before=0.0, reliability_before=[], reliability_after=[],
        roc_curves=[], history=[], lineage=[], confidence=0.95,
    )  # fmt: skip


def rules(decision: GateDecision) -> dict[str, RuleResult]:
    return {rule.name: rule for rule in decision.rules}


@pytest.mark.parametrize(
    ("baseline", "margin", "passed"),
    [(0.88, 0.0, True), (0.9, 0.0, True), (0.91, 0.0, False), (0.88, 0.03, False), (0.91, -0.02, True)],
)
def test_the_model_must_beat_the_baseline(baseline: float, margin: float, passed: bool) -> None:
    decision = decide(evaluation(model=0.9, baseline=baseline), GateConfig(baseline_margin=margin))
    assert rules(decision)["baseline"].passed is decision.promote is passed


@pytest.mark.parametrize(
    ("share", "confidence", "passed"),
    [(0.85, 0.84, True), (0.84, 0.84, True), (0.83, 0.84, False), (0.0, 0.84, False), (0.1, 0.0, True)],
)
def test_the_model_must_be_better_than_the_champion(share: float, confidence: float, passed: bool) -> None:
    found = evaluation(against_champion=0.02, better_share=share)
    decision = decide(found, GateConfig(champion_confidence=confidence))
    assert rules(decision)["champion"].passed is decision.promote is passed


@pytest.mark.parametrize(("share", "confidence", "passed"), [(0.96, 0.95, True), (0.94, 0.95, False), (0.0, 0.0, True)])
def test_the_model_must_know_more_than_the_larger_class(share: float, confidence: float, passed: bool) -> None:
    decision = decide(evaluation(over_majority=share), GateConfig(majority_confidence=confidence))
    assert rules(decision)["majority"].passed is decision.promote is passed


@pytest.mark.parametrize("rule", ["majority", "champion"])
@pytest.mark.parametrize(("value", "said"), [(math.nan, "is not defined"), (0.02, "are of one group")])
def test_what_is_not_defined_passes_only_a_rule_that_is_left_out(rule: str, value: float, said: str) -> None:
    found = evaluation(against_champion=0.02)
    unknown = dict.fromkeys(METRICS, Difference(value=value, low=math.nan, high=math.nan, better_share=math.nan))
    assert found.champion
    if rule == "majority":
        found = found.model_copy(update={"over_majority": unknown})
    else:
        found = found.model_copy(update={"champion": found.champion.model_copy(update={"differences": unknown})})
    for config in (GateConfig(), GateConfig.model_validate({f"{rule}_confidence": 0.0})):
        judged = rules(decide(found, config))[rule]
        assert judged.passed is (config != GateConfig())
        assert said in judged.reason


@pytest.mark.parametrize("seen", [None, 1000])
def test_a_champion_that_nothing_compares_with_stays_unless_nobody_asks(seen: int | None) -> None:
    found = evaluation(against_champion=0.02, seen=seen)
    assert not rules(decide(found, GateConfig()))["champion"].passed
    assert rules(decide(found, GateConfig(champion_confidence=0.0)))["champion"].passed


def test_over_many_nights_the_champion_gets_better_and_never_worse() -> None:
    """With one test for all nights, of retrainings equally good, ever worse, and better from some night on."""
    *_, ours = RULES.values()
    seeds = range(5)
    for nights in ("equally good, give or take 0.2 points", "each 0.3 points worse than the champion"):
        ends = [simulate(ours, NIGHTS[nights], 200, seed)[-1] - 0.91 for seed in seeds]
        assert min(ends) > -0.007
        assert sum(ends) / len(ends) > -0.004
    histories = [simulate(ours, NIGHTS["one point better from night 100 on"], 110, seed) for seed in range(9)]
    assert sum(history[-1] > history[99] for history in histories) >= 7


def test_the_metric_is_a_choice() -> None:
    found = evaluation(against_champion=0.0)
    assert found.champion is not None
    better, worse = differences(0.1, 1.0)["accuracy"], differences(-0.1, 0.0)["accuracy"]
    found.champion.differences |= {"matthews": better, "macro_f1": worse}
    assert decide(found, GateConfig(metric="matthews")).promote
    refused = decide(found, GateConfig())
    assert not refused.promote
    assert "macro-F1 -10.00 points from that of champion version 7" in refused.summary
    assert "Matthews correlation +0.1000 from that of" in decide(found, GateConfig(metric="matthews")).summary


@pytest.mark.parametrize(("metric", "better"), [("mean_absolute_error", -0.1), ("quadratic_kappa", 0.1)])
def test_a_metric_of_ordered_classes_is_a_choice_for_them(metric: str, better: float) -> None:
    stars = Classes(names=("1", "2", "3"), ordered=True)
    told = metrics_of(stars)
    assert told[metric].lower_is_better is (better < 0)
    values = [{name: Interval(value=value, low=value, high=value) for name in told} for value in (0.5 + better, 0.5)]
    confusion = [[300, 20, 10], [20, 300, 20], [10, 20, 300]]
    test, baseline = (Scores(rows=1000, groups=1000, confusion=confusion, metrics=found) for found in values)
    difference = Difference(value=0.1, low=0.05, high=0.15, better_share=0.99)
    found = evaluation(test=test).model_copy(
        update={"classes": stars, "baseline_test": baseline, "over_baseline": dict.fromkeys(told, difference)}
    )
    decision = decide(found, GateConfig(metric=metric))
    assert decision.promote
    said = f"{told[metric].title} {0.5 + better:.4f} against 0.5000 of the linear baseline (+0.1000, at least"
    assert said in rules(decision)["baseline"].reason
    assert rules(decision)["majority"].reason.startswith("340 of 1,000 reviews are of one class")


@pytest.mark.parametrize("metric", ["mean_absolute_error", "quadratic_kappa"])
def test_a_metric_of_ordered_classes_needs_some(metric: str) -> None:
    def run(**ingest: object) -> TrainingRun:
        ingest |= {"source": "files", "path": "reviews.csv"}
        return TrainingRun.model_validate({"ingest": ingest, "gate": {"metric": metric}})

    said = f"gate.metric {metric} needs more than two classes that have an order; name another, or say that they have"
    for classes in (["negative", "positive"], ["sport", "politics", "weather"]):
        with pytest.raises(ValidationError, match=said):
            run(classes=classes)
    with pytest.raises(ValidationError, match=said):
        run(classes=["1", "2", "3"], ordered=False)
    assert run(classes=["1", "2", "3"]).gate.metric == metric
    assert run(classes=["cold", "warm", "hot"], ordered=True).gate.metric == metric


@pytest.mark.parametrize("confidence", [0.84, 0.0])
@pytest.mark.parametrize("names", [("negative", "neutral", "positive"), ("positive", "negative"), ("no", "yes")])
def test_a_champion_of_other_classes_is_not_replaced(names: tuple[str, ...], confidence: float) -> None:
    other = OtherChampion(version="3", classes=Classes(names=names))
    found = evaluation().model_copy(update={"other_champion": other})
    decision = decide(found, GateConfig(champion_confidence=confidence))
    assert not decision.promote
    assert decision.summary == (
        f"Not promoted: champion version 3 tells apart {', '.join(names)}, this model negative, positive: "
        "nothing compares the two; train it under another model_name, or take the alias champion from that version "
        "and run again."
    )
    assert rules(decision)["slices"].reason == "no slice to compare: no other champion of these classes"


@pytest.mark.parametrize(("groups", "seen", "passed"), [(20, 0, True), (19, 0, False), (1000, 981, False)])
def test_too_few_groups_judge_nobody(groups: int, seen: int, passed: bool) -> None:
    test = scores(0.9).model_copy(update={"groups": groups})
    found = evaluation(against_champion=0.1 if seen else None, seen=seen, test=test)
    decision = decide(found, GateConfig(min_rows=1))
    assert rules(decision)["groups"].passed is decision.promote is passed


@pytest.mark.parametrize(
    ("rows", "change", "passed"), [(500, -0.04, True), (500, 0.8 - 0.85, True), (500, -0.06, False), (199, -0.5, True)]
)
def test_no_slice_may_collapse_but_small_ones_are_not_judged(rows: int, change: float, passed: bool) -> None:
    slices = [part("short", rows, change), part("long", 1000, 0.01)]
    decision = decide(evaluation(against_champion=0.0, slices=slices), GateConfig(max_slice_drop=0.05))
    assert rules(decision)["slices"].passed is decision.promote is passed
    assert ("short" in rules(decision)["slices"].reason) is (rows >= 200)


@pytest.mark.parametrize(("rows", "seen", "passed"), [(200, 0, True), (199, 0, False), (1000, 801, False)])
def test_too_few_rows_judge_nobody(rows: int, seen: int, passed: bool) -> None:
    """Rows that the champion was trained on do not count."""
    test = scores(0.9).model_copy(update={"rows": rows})
    decision = decide(evaluation(against_champion=0.0 if seen else None, seen=seen, test=test), GateConfig())
    assert rules(decision)["rows"].passed is decision.promote is passed
    assert rules(decision)["rows"].reason.startswith(f"{rows - seen} test reviews")


def test_a_champion_of_which_nobody_knows_what_it_has_seen_is_not_judged() -> None:
    decision = decide(evaluation(against_champion=0.5, seen=None), GateConfig())
    assert not decision.promote
    assert "the reviews that champion version 7 was trained on are not in the store any more" in decision.summary


def test_without_a_champion_only_the_baseline_is_asked() -> None:
    decision = decide(evaluation(slices=[part("short", 500, None)]), GateConfig())
    assert decision.summary == (
        "Promoted: 1,000 test reviews, at least 200 wanted; they are of 1,000 groups, at least 20 wanted; 500 of 1,000 "
        "reviews are of one class; balanced accuracy +30.00 points from that of always naming it, better in 100.0% of "
        "the resamples (95% wanted); macro-F1 90.00 % against 88.00 % of the linear baseline (+2.00 points, at least "
        "+0.00 points wanted); no other model is champion; no slice to compare: no other champion."
    )
    assert rules(decision)["champion"].value is rules(decision)["slices"].threshold is None


def test_a_refusal_names_the_rules_that_failed_and_no_others() -> None:
    slices = [part("short", 1234, -0.0812), part("long", 1000, -0.01)]
    decision = decide(evaluation(against_champion=-0.01, better_share=0.025, slices=slices), GateConfig())
    assert decision.summary == (
        "Not promoted: macro-F1 -1.00 points from that of champion version 7 (interval -2.00 points to +0.00 points), "
        "better in 2.5% of the resamples (84% wanted); of all slices, length: short (1,234 reviews) compares worst "
        "with the champion (-8.12 points, at least -5.00 points wanted)."
    )


def test_slices_that_are_all_small_are_told() -> None:
    decision = decide(evaluation(against_champion=0.0, slices=[part("short", 10, -0.5)]), GateConfig())
    assert decision.promote
    assert rules(decision)["slices"].reason == "no slice to compare: no slice has 200 reviews"


def test_a_slice_is_judged_by_the_rows_that_the_champion_has_not_seen() -> None:
    slices = [part("short", 1000, -0.5, seen=801), part("long", 1000, -0.06, seen=800)]
    decision = decide(evaluation(against_champion=0.0, slices=slices, seen=100), GateConfig())
    assert "length: long (200 reviews) compares worst with the champion (-6.00 points" in decision.summary
    few = decide(evaluation(against_champion=0.0, slices=slices[:1], seen=100), GateConfig())
    assert rules(few)["slices"].reason == (
        "no slice to compare: no slice has 200 reviews that the champion was not trained on"
    )


def test_a_number_that_is_none_never_passes() -> None:
    decision = decide(evaluation(model=math.nan, against_champion=math.nan, better_share=math.nan), GateConfig())
    assert not decision.promote
    assert not rules(decision)["baseline"].passed
    assert not rules(decision)["champion"].passed
    again = GateDecision.model_validate_json(decision.model_dump_json())
    assert rules(again)["baseline"].value is None
    assert again.summary == decision.summary
