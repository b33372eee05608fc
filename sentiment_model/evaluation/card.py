"""What a registered version says of itself: a model card.

Its sections are those of Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, as far as a pipeline knows.
"""

import textwrap
from collections.abc import Iterator
from typing import Any

from sentiment_model.evaluation.evaluate import Evaluation, Scores, prior_shift_of
from sentiment_model.evaluation.gate import GateDecision
from sentiment_model.evaluation.metrics import metrics_of
from sentiment_model.evaluation.report import interval, percent
from sentiment_model.markdown import markdown_cell
from sentiment_model.models.bundle import ModelDescription
from sentiment_model.store.lineage import training_command

MAX_CHARACTERS = 5000
"""Of the longest description that MLflow's databases take."""

_METRICS = ("accuracy", "macro_f1", "balanced_accuracy", "log_loss", "calibration_error")
_SLICES_SHOWN = 8
_CLASSES_SHOWN = 10


def model_card(evaluation: Evaluation, decision: GateDecision, model: ModelDescription, name: str, version: str) -> str:
    """Return as Markdown what a version is, how good it is and for what, and how to use it and make it again.

    Args:
        evaluation: what is known of it.
        decision: what the gate found.
        model: its description.
        name: of the registered model.
        version: in the registry.

    Returns:
        at most :data:`MAX_CHARACTERS`; where that is not enough for all, the command that makes it again is left out,
        and then the slices.
    """
    sections = [
        "\n".join(_what_it_is(evaluation, decision, model, name, version)),
        "\n".join(_how_good(evaluation)),
        "\n".join(_slices(evaluation)),
        "\n".join(_learned_from(evaluation)),
        "\n".join(_use(evaluation, model, name, version)),
        "\n".join(_again(evaluation, name)),
    ]
    for least in (5, 2, 1):
        if len("\n\n".join(sections)) > MAX_CHARACTERS:
            del sections[least]
    return "\n\n".join(sections)[:MAX_CHARACTERS]


def _what_it_is(
    evaluation: Evaluation, decision: GateDecision, model: ModelDescription, name: str, version: str
) -> Iterator[str]:
    network, test = model.network, evaluation.test
    tokens = _made(evaluation, "tokenize").get("unit", "token")
    beside = (
        f", beside a linear part over n-grams of up to {network.ngram_order} {tokens}s" if network.ngram_order else ""
    )
    directions = "read in both directions" if network.bidirectional else "read forwards"
    yield f"# {markdown_cell(name)} version {version}\n"
    yield (
        f"Tells apart {_list(evaluation.classes.names)} reviews. A recurrent network ({network.cell}, layers: "
        f"{network.layers}, hidden units: {network.hidden_size}, {directions}){beside}."
    )
    yield (
        f"\nAccuracy {interval(test.metrics['accuracy'])} of {test.rows:,} reviews that it was not trained on, of "
        f"{test.groups:,} groups. {markdown_cell(decision.summary)}"
    )


def _how_good(evaluation: Evaluation) -> Iterator[str]:
    known = metrics_of(evaluation.classes)
    columns: dict[str, Scores] = {"this model": evaluation.test, "linear baseline": evaluation.baseline_test}
    yield f"## How good it is\n\nWith {100 * evaluation.confidence:g} % intervals, over groups of reviews.\n"
    yield f"| | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}"
    for key in _METRICS:
        cells = " | ".join(interval(scores.metrics[key], known[key].is_share) for scores in columns.values())
        yield f"| {known[key].title} | {cells} |"
    for place, label in enumerate(evaluation.classes.names[:_CLASSES_SHOWN]):
        right, rows = evaluation.test.confusion[place][place], evaluation.test.of_classes[place]
        found = f"{percent(right / rows)} of {rows:,} are found" if rows else "none in the test"
        yield f"\n- {markdown_cell(label)}: {found}"


def _slices(evaluation: Evaluation) -> Iterator[str]:
    """Yield where it is right least often."""
    yield "## Where it is weakest\n\n| reviews | how many | accuracy |\n| --- | ---: | ---: |"
    for part in sorted(evaluation.slices, key=lambda part: part.accuracy.value)[:_SLICES_SHOWN]:
        yield f"| {markdown_cell(f'{part.kind}: {part.name}')} | {part.rows:,} | {interval(part.accuracy)} |"


def _learned_from(evaluation: Evaluation) -> Iterator[str]:
    read, cleaned = _made(evaluation, "ingest"), _made(evaluation, "clean")
    sources = [f"{source} ({count:,})" for source, count in read.get("sources", {}).items()]
    yield "## What it learned from\n"
    yield f"Reviews of {_list(sources)}." if sources else "The reviews have been deleted since."
    for part, counts in cleaned.get("splits", {}).items():
        if part == "unlabelled":
            yield from [f"- without a label: {counts:,}"] if counts else []
        else:
            yield f"- {part}: {', '.join(f'{markdown_cell(label)} {count:,}' for label, count in counts.items())}"
    if cleaned:
        how = {"group": "by group: none is on two sides", "time": "by time: the test is the newest"}
        yield f"\nSplit {how.get(cleaned.get('split_by', ''), 'review by review: expect less of new products')}."


def _use(evaluation: Evaluation, model: ModelDescription, name: str, version: str) -> Iterator[str]:
    yield "## What it is for\n"
    yield "To label many reviews like those that it learned from, and count them. Not to judge who wrote one."
    scripts = f" It knows reviews in {_list(list(model.scripts))} script." if model.scripts else ""
    yield (
        f"\nOther kinds of text and other languages are worse than the figures above;{scripts} Scoring warns of drift, "
        "and of scripts that it does not know. Irony is often missed."
    )
    if shift := prior_shift_of(evaluation.lineage):
        yield f"\nProbabilities are moved towards classes of equal frequency (prior_shift {shift:g})."
    uri = f"models:/{name}/{version}"
    yield f"\nScore with it:\n\n    .venv/bin/python -m flows.score --files.path PATH --model-uri {uri}"


def _again(evaluation: Evaluation, name: str) -> Iterator[str]:
    if command := training_command(evaluation.lineage):
        yield "## How to make it again\n\nAt the git commit that its tags name:\n"
        yield textwrap.indent(f"{command} \\\n    --model-name {name}", "    ")


def _made(evaluation: Evaluation, stage: str) -> dict[str, Any]:
    """Return what a stage counted; nothing where its dataset has been deleted."""
    return next((record.counts for record in evaluation.lineage if record.name == stage), {})


def _list(names: tuple[str, ...] | list[str]) -> str:
    shown = [markdown_cell(name) for name in names[:_CLASSES_SHOWN]]
    if more := len(names) - len(shown):
        shown.append(f"{more} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
