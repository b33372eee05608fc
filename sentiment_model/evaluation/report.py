"""The evaluation as one self-contained HTML page, and as Markdown for the Prefect UI."""

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from typing import Any

import jinja2

from sentiment_model.classes import BINARY, Classes, class_keys
from sentiment_model.evaluation.evaluate import Evaluation, Scores, prior_shift_of
from sentiment_model.evaluation.figures import MANY_CLASSES
from sentiment_model.evaluation.gate import GateDecision
from sentiment_model.evaluation.metrics import Difference, Interval, Metric, metrics_of
from sentiment_model.markdown import markdown_cell
from sentiment_model.nested import flatten
from sentiment_model.store.lineage import training_command

_UNDEFINED = "–"
_MARKDOWN_MISTAKES = 5
_MARKDOWN_CHARACTERS = 400
_UNKNOWN = Interval(value=math.nan, low=math.nan, high=math.nan)
_TOLD_MISTAKES = 3


@dataclass(frozen=True)
class _OfClass:
    """A line of the table of classes."""

    name: str
    rows: int
    figures: dict[str, Interval]


def percent(value: float | None) -> str:
    """Return a share as a percentage with one decimal."""
    return _UNDEFINED if value is None else f"{100 * value:.1f} %"


def points(value: float) -> str:
    """Return a difference of shares in percentage points, signed."""
    return f"{100 * value:+.1f}"


def estimate(found: Interval, is_share: bool = True) -> str:
    """Return a metric's value; shares as percentages, other metrics as numbers."""
    if not math.isfinite(found.value):
        return _UNDEFINED
    return percent(found.value) if is_share else f"{found.value:.3f}"


def bounds(found: Interval, is_share: bool = True) -> str:
    """Return a metric's interval, empty where it has none."""
    if not math.isfinite(found.low):
        return ""
    if is_share:
        return f"{100 * found.low:.1f} to {100 * found.high:.1f}"
    return f"{found.low:.3f} to {found.high:.3f}"


def interval(found: Interval, is_share: bool = True) -> str:
    """Return a metric's value with its interval in brackets."""
    return estimate(found, is_share) + (f" ({within})" if (within := bounds(found, is_share)) else "")


def headline_metrics(classes: Classes) -> dict[str, Metric]:
    """Return the metrics that are told of each set of reviews, by key: all but those in the table of classes."""
    return {key: metric for key, metric in metrics_of(classes).items() if not metric.is_detail}


def _sentence(name: str) -> str:
    return name[0].upper() + name[1:]


def report_html(evaluation: Evaluation, decision: GateDecision, figures: dict[str, str]) -> str:
    """Return the report: one page that needs no network, readable on a phone, in light and in dark.

    Args:
        evaluation: what was found.
        decision: the gate's verdict.
        figures: SVG documents by name, as :func:`sentiment_model.evaluation.figures.figures` draws them.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": percent, "estimate": estimate, "bounds": bounds}
    shown = headline_metrics(evaluation.classes)
    template = environment.from_string(
        (files("sentiment_model.evaluation") / "templates" / "report.html.j2").read_text(encoding="utf-8")
    )
    # Without their XML and DOCTYPE lines, the figures stand in the page itself and inherit its colours.
    facts = _figure_facts(evaluation)
    drawn = [
        {
            "title": title,
            "description": description,
            "facts": facts[name],
            "svg": figures[name][figures[name].index("<svg") :],
            "is_wide": name in ("confusion_matrix", "roc_curve") and len(evaluation.classes) > MANY_CLASSES,
        }
        for name, (title, description) in _figure_titles(evaluation).items()
    ]
    return template.render(
        evaluation=evaluation,
        decision=decision,
        columns=_columns(evaluation),
        class_names=evaluation.classes.names,
        metrics={key: (_sentence(metric.title), metric.is_share) for key, metric in shown.items()},
        of_classes=_of_classes(evaluation),
        notes=list(_notes(evaluation)),
        figures=drawn,
        slices={kind: list(group) for kind, group in groupby(evaluation.slices, key=lambda found: found.kind)},
        stages=[
            {
                "name": record.name,
                "fingerprint": record.fingerprint,
                "parameters": _settings(record.parameters),
                "counts": _settings(record.counts),
            }
            for record in reversed(evaluation.lineage)
        ],
        command=training_command(evaluation.lineage),
    )


def report_markdown(evaluation: Evaluation, decision: GateDecision) -> str:
    """Return the same facts as Markdown, with fewer mistakes and without the figures."""
    return "\n".join(
        [
            *_verdict(evaluation, decision),
            *_metric_table(evaluation),
            *_class_table(evaluation),
            *_slice_table(evaluation),
            *_mistake_list(evaluation),
            *_lineage_table(evaluation),
            "",
        ]
    )


def _verdict(evaluation: Evaluation, decision: GateDecision) -> Iterator[str]:
    accuracy = evaluation.test.metrics["accuracy"]
    yield f"# {'Passes' if decision.promote else 'Does not pass'} the gate"
    yield ""
    yield f"Accuracy {percent(accuracy.value)} on {evaluation.test.rows:,} held-out reviews."
    yield ""
    for rule in decision.rules:
        yield f"- {'✔' if rule.passed else '✘'} {markdown_cell(rule.reason)}"


def _metric_table(evaluation: Evaluation) -> Iterator[str]:
    columns = _columns(evaluation)
    yield f"\n## Metrics, with {100 * evaluation.confidence:g} % intervals\n"
    yield "| | " + " | ".join(f"{markdown_cell(name)} ({scores.rows:,})" for name, scores in columns.items()) + " |"
    yield "| --- |" + " ---: |" * len(columns)
    for key, metric in headline_metrics(evaluation.classes).items():
        cells = (interval(scores.metrics[key], metric.is_share) for scores in columns.values())
        yield f"| {markdown_cell(_sentence(metric.title))} | " + " | ".join(cells) + " |"
    for note in _notes(evaluation):
        yield f"\n{markdown_cell(note)}"
    yield ""
    facts, titles = _figure_facts(evaluation), _figure_titles(evaluation)
    yield from (f"- {titles[name][0]}: {markdown_cell(fact)}." for name, fact in facts.items())


def _class_table(evaluation: Evaluation) -> Iterator[str]:
    lines = _of_classes(evaluation)
    yield "\n## Classes\n"
    yield "| class | reviews | " + " | ".join(lines[0].figures) + " |"
    yield "| --- |" + " ---: |" * (1 + len(lines[0].figures))
    for line in lines:
        cells = [markdown_cell(line.name), f"{line.rows:,}", *map(interval, line.figures.values())]
        yield "| " + " | ".join(cells) + " |"


def _slice_table(evaluation: Evaluation) -> Iterator[str]:
    champion = evaluation.champion is not None
    yield "\n## Slices\n"
    yield "| slice | reviews | accuracy | baseline |" + (" champion |" if champion else "")
    yield "| --- | ---: | ---: | ---: |" + (" ---: |" if champion else "")
    for found in evaluation.slices:
        cells = [
            markdown_cell(f"{found.kind}: {found.name}"),
            f"{found.rows:,}",
            interval(found.accuracy),
            percent(found.baseline_accuracy),
            *([percent(found.champion_accuracy)] if champion else []),
        ]
        yield "| " + " | ".join(cells) + " |"


def _mistake_list(evaluation: Evaluation) -> Iterator[str]:
    yield "\n## Most confident mistakes\n"
    for mistake in evaluation.mistakes[:_MARKDOWN_MISTAKES]:
        text = mistake.text[:_MARKDOWN_CHARACTERS] + ("…" if len(mistake.text) > _MARKDOWN_CHARACTERS else "")
        true, predicted = (markdown_cell(evaluation.classes.names[n]) for n in (mistake.label, mistake.predicted))
        probability = percent(mistake.probability)
        yield f"- {true}, taken for {predicted} with probability {probability}: {markdown_cell(text)}"
    if not evaluation.mistakes:
        yield "None."


def _lineage_table(evaluation: Evaluation) -> Iterator[str]:
    yield "\n## How it was made\n"
    yield "| dataset | fingerprint | settings |"
    yield "| --- | --- | --- |"
    for record in reversed(evaluation.lineage):
        settings = ", ".join(f"{name} = {value}" for name, value in _settings(record.parameters).items())
        yield f"| {markdown_cell(record.name)} | {markdown_cell(record.fingerprint)} | {markdown_cell(settings)} |"
    if command := training_command(evaluation.lineage):
        yield "\nAt the git commit that the registered version names, this makes the same model:\n"
        yield textwrap.indent(command, "    ")


def _notes(evaluation: Evaluation) -> Iterator[str]:
    """Yield what the metrics do not say by themselves, a paragraph each."""
    yield (
        "Probabilities are calibrated by temperature scaling fitted on the validation reviews (temperature "
        f"{evaluation.temperature:.2f}). These also chose the epoch, so judge by the test."
    )
    if prior_shift := prior_shift_of(evaluation.lineage):
        yield (
            f"They were then moved, the baseline's too, towards reviews of which each class has as many (prior_shift "
            f"{prior_shift:g}), so that rare classes are found more often. So they are no longer those of the test."
        )
    counts = {record.name: record.counts for record in evaluation.lineage}
    if (learned := counts.get("baseline")) and (cleaned := counts.get("clean")):
        yield (
            f"The baseline, TF-IDF with logistic regression, learned from {learned['trained_on']:,} of the "
            f"{sum(cleaned['splits']['train'].values()):,} training reviews."
        )
    yield _how_it_was_split(evaluation, counts)
    if champion := evaluation.champion:
        yield (
            f"Against champion version {champion.version}: {champion.only_model_right:,} reviews only this model gets "
            f"right, {champion.only_champion_right:,} only the champion"
            + (f"; accuracy {_versus(champion.differences['accuracy'])}" if champion.rows else "")
            + ("" if champion.p_value is None else f"; McNemar's exact test p = {champion.p_value:.2g}")
            + "."
        )
        if champion.seen:
            yield (
                f"The champion was trained on {champion.seen:,} of the test reviews, or others of their groups; what is"
                f" said of it, in the slices too, is of the other {champion.rows:,}."
            )


def _versus(difference: Difference) -> str:
    within = f" ({points(difference.low)} to {points(difference.high)})" if math.isfinite(difference.low) else ""
    return f"{points(difference.value)} points{within}"


def _how_it_was_split(evaluation: Evaluation, counts: dict[str, dict[str, Any]]) -> str:
    test = evaluation.test
    majority = max(test.of_classes) / test.rows
    text = (
        f"Of the {test.rows:,} test reviews, {percent(majority)} are of the most frequent class. Intervals are over "
        + (f"their {test.groups:,} groups. " if test.groups < test.rows else "reviews. ")
        + f"Above the baseline: accuracy {_versus(evaluation.over_baseline['accuracy'])}."
    )
    cleaned = counts.get("clean", {})
    match cleaned.get("split_by"):
        case "group":
            text += " No group of reviews is on two sides of the split."
        case "time":
            text += f" The reviews are split by time: the test begins at {cleaned.get('test_from', 'its own source')}."
        case _ if cleaned.get("test_of_known_groups"):
            text += (
                f" Of the test reviews, {cleaned['test_of_known_groups']:,} are of groups that "
                "training knows: expect less of new ones."
            )
    if counts.get("ingest", {}).get("sources", {}).keys() & {"imdb"}:
        text += " Groups of the source imdb are blocks of 50 neighbouring rows, since its file does not name the films."
    return text


def _of_classes(evaluation: Evaluation) -> list[_OfClass]:
    """Return what is known of each class, by the headline test reviews."""
    test, classes = evaluation.test, evaluation.classes
    columns = {"precision": "precision", "recall": "recall", "f1": "F1"}
    return [
        # Evaluations that were made when there were two classes only have nothing but the recall.
        _OfClass(name, rows, {title: test.metrics.get(f"{of}_{key}", _UNKNOWN) for of, title in columns.items()})
        for name, key, rows in zip(classes.names, class_keys(classes), test.of_classes, strict=True)
    ]


def _figure_titles(evaluation: Evaluation) -> dict[str, tuple[str, str]]:
    """Return the title and the description of each figure."""
    two = len(evaluation.classes) == len(BINARY)
    return {
        "confusion_matrix": (
            "Confusion matrix",
            "Test reviews by true and predicted label, with the share of each row",
        ),
        "roc_curve": (
            "ROC curve" if two else "ROC curves",
            "True-positive against false-positive rate over all thresholds"
            + ("" if two else ", of each class against the others"),
        ),
        "calibration": (
            "Calibration",
            f"Share of {evaluation.classes.names[1]} reviews against predicted probability, in equal-mass bins"
            if two
            else "Share of reviews whose most likely class is the true one against its probability, in equal-mass bins",
        ),
        "loss_curve": ("Loss by epoch", "Log loss on training and validation reviews after each epoch"),
    }


def _figure_facts(evaluation: Evaluation) -> dict[str, str]:
    """Return what each figure shows in words: for whoever cannot see it, and for Markdown, which has no figures."""
    test = evaluation.test
    best = min(evaluation.history, key=lambda epoch: epoch.validation_loss, default=None)
    mean = "" if len(evaluation.classes) == len(BINARY) else ", mean of the classes,"
    return {
        "confusion_matrix": _confusion_in_words(test.confusion, evaluation.classes.names),
        "roc_curve": f"area under the curve{mean} {estimate(test.metrics['roc_auc'], is_share=False)}",
        "calibration": (
            f"calibration error {evaluation.calibration_error_before:.3f} before temperature scaling, "
            f"{test.metrics['calibration_error'].value:.3f} after"
        ),
        "loss_curve": (
            f"lowest validation loss {best.validation_loss:.3f} at epoch {best.epoch + 1} of {len(evaluation.history)}"
            if best
            else "no epochs"
        ),
    }


def _confusion_in_words(confusion: list[list[int]], names: tuple[str, ...]) -> str:
    if len(names) == len(BINARY):
        (right_first, wrong_first), (wrong_second, right_second) = confusion
        return (
            f"{right_first:,} {names[0]} reviews labelled rightly and {wrong_first:,} wrongly, "
            f"{right_second:,} {names[1]} ones rightly and {wrong_second:,} wrongly"
        )
    right = sum(row[number] for number, row in enumerate(confusion))
    mistakes = sorted(
        (-count, true, predicted)
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count and predicted != true
    )
    told = [f"{-n:,} of {names[true]} taken for {names[predicted]}" for n, true, predicted in mistakes[:_TOLD_MISTAKES]]
    often = f"; most often {', '.join(told)}" if told else ""
    return f"{right:,} of {sum(map(sum, confusion)):,} reviews labelled rightly{often}"


def _settings(values: dict[str, Any]) -> dict[str, str]:
    """Return parameters or counts as text, without those that are not set."""
    return {
        name: _text(value)
        for name, value in flatten(values).items()
        if value is not None and value != [] and value != ""
    }


def _text(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case list():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _columns(evaluation: Evaluation) -> dict[str, Scores]:
    return {
        "Model, test": evaluation.test,
        "Its recurrent part, test": evaluation.recurrent_test,
        "Baseline, test": evaluation.baseline_test,
        "Model, validation": evaluation.validation,
        "Its recurrent part, validation": evaluation.recurrent_validation,
        "Baseline, validation": evaluation.baseline_validation,
        **{f"Model, {source}": scores for source, scores in evaluation.separate.items()},
    }
