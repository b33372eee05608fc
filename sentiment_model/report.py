"""The evaluation as one self-contained HTML page, and as Markdown for the Prefect UI."""

from importlib.resources import files

import jinja2

from sentiment_model.evaluation import Evaluation, Scores
from sentiment_model.gate import GateDecision
from sentiment_model.metrics import Interval

METRIC_NAMES = {
    "accuracy": "Accuracy",
    "f1": "F1 of positive",
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "brier": "Brier score",
    "log_loss": "Log loss (nats)",
    "calibration_error": "Calibration error",
}
_FIGURE_TITLES = {
    "confusion_matrix": (
        "Confusion matrix",
        "Test reviews by true and predicted label, with the share of each row",
    ),
    "roc_curve": ("ROC curve", "True-positive against false-positive rate over all thresholds"),
    "calibration": (
        "Calibration",
        "Share of positive reviews against predicted probability, in equal-mass bins",
    ),
    "loss_curve": ("Loss by epoch", "Log loss on training and validation reviews after each epoch"),
}


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """Return a difference of shares in percentage points, signed."""
    return f"{100 * value:+.1f}"


def interval(found: Interval, name: str) -> str:
    """Return a metric with its interval; accuracies as percentages, other metrics as numbers."""
    if name == "accuracy":
        return f"{percent(found.value)} ({100 * found.low:.1f} to {100 * found.high:.1f})"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def report_html(evaluation: Evaluation, decision: GateDecision, figures: dict[str, str]) -> str:
    """Return the report: one page that needs no network, readable on a phone, in light and in dark.

    Args:
        evaluation: what was found.
        decision: the gate's verdict.
        figures: SVG documents by name, as :func:`sentiment_model.figures.figures` draws them.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": percent, "points": points, "interval": interval}
    template = environment.from_string(
        (files("sentiment_model") / "templates" / "report.html.j2").read_text(encoding="utf-8")
    )
    # Without their XML and DOCTYPE lines, the figures stand in the page itself and inherit its colours.
    drawn = [
        {"title": title, "description": description, "svg": figures[name][figures[name].index("<svg") :]}
        for name, (title, description) in _FIGURE_TITLES.items()
    ]
    return template.render(
        evaluation=evaluation,
        decision=decision,
        columns=_columns(evaluation),
        metric_names=METRIC_NAMES,
        figures=drawn,
    )


def report_markdown(evaluation: Evaluation, decision: GateDecision) -> str:
    """Return the same facts as Markdown."""
    columns = _columns(evaluation)
    lines = [
        f"# {'Promoted' if decision.promote else 'Not promoted'}",
        "",
        *(f"- {'✔' if rule.passed else '✘'} {rule.reason}" for rule in decision.rules),
        "",
        f"## Metrics, with {100 * evaluation.confidence:g} % intervals",
        "",
        "| | " + " | ".join(f"{name} ({scores.rows:,})" for name, scores in columns.items()) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for key, name in METRIC_NAMES.items():
        cells = (interval(scores.metrics[key], key) for scores in columns.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Calibration error before temperature scaling: {evaluation.calibration_error_before:.3f}.",
        "",
        "## Slices",
        "",
        "| slice | reviews | accuracy | baseline | champion |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for found in evaluation.slices:
        champion = "–" if found.champion_accuracy is None else percent(found.champion_accuracy)
        lines.append(
            f"| {found.kind}: {found.name} | {found.rows:,} | {interval(found.accuracy, 'accuracy')} "
            f"| {percent(found.baseline_accuracy)} | {champion} |"
        )
    return "\n".join(lines) + "\n"


def _columns(evaluation: Evaluation) -> dict[str, Scores]:
    return {
        "Model, test": evaluation.test,
        "Baseline, test": evaluation.baseline_test,
        "Model, validation": evaluation.validation,
        "Baseline, validation": evaluation.baseline_validation,
        **{f"Model, {source}": scores for source, scores in evaluation.separate.items()},
    }
