"""The report: one page that fetches nothing, and the same facts in Markdown."""

import re
import warnings
from html.parser import HTMLParser
from xml.etree import ElementTree

import polars as pl
import pytest
from test_evaluation import ORDERED, evaluate, evaluate_of, held_out, held_out_of, records
from tiny import epoch_metrics

from sentiment_model.classes import Classes
from sentiment_model.config import EvaluateConfig, GateConfig, TrainingRun
from sentiment_model.evaluation.evaluate import Evaluation
from sentiment_model.evaluation.figures import figures
from sentiment_model.evaluation.gate import decide
from sentiment_model.evaluation.report import headline_metrics, report_html, report_markdown
from sentiment_model.store.lineage import StageRecord

HOSTILE = "<script>alert('x')</script><img src=https://evil.example/x.png> | a *pipe* ![](http://evil.example/y.png)"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would make of the page: its elements, its text and whether every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] in ("h1", "h2"):
            self.headings.append(data)


def example(*, hostile: bool = False, **options: str) -> Evaluation:
    history = [epoch_metrics(i, train_loss=0.6 - i / 10, validation_loss=0.5 - i / 20) for i in range(3)]
    test = held_out(champion=held_out(seed=5)["probability"], seen=pl.lit(value=False)) if options else held_out()
    found = evaluate(test, EvaluateConfig(bootstrap_samples=100, mistakes=8), **options)
    if hostile:
        mistakes = [found.mistakes[0].model_copy(update={"text": HOSTILE, "review_id": HOSTILE})]
        slices = [part.model_copy(update={"name": HOSTILE}) for part in found.slices]
        found = found.model_copy(
            update={"mistakes": mistakes, "slices": slices, "separate": {HOSTILE: found.separate["rotten_tomatoes"]}}
        )
    records = [
        StageRecord(name="clean", fingerprint="c" * 20, parameters={"salt": "v1"}, counts={"splits": {"test": 2512}}),
        StageRecord(
            name="train",
            fingerprint="f" * 20,
            parameters={"model": {"cell": "lstm", "bidirectional": True, "pooling": ["max", "mean"], "unset": None}},
            counts={"best": {"tokens_per_second": 71146.18}},
        ),
    ]
    return found.model_copy(update={"history": history, "lineage": records})


def html(evaluation: Evaluation) -> str:
    return report_html(evaluation, decide(evaluation, GateConfig()), figures(evaluation))


def test_the_page_fetches_nothing_and_runs_nothing() -> None:
    page = html(example(hostile=True))
    parsed = Page(page)
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"script", "img", "link", "iframe", "object", "embed", "base", "form", "audio", "video"}
    for tag, attributes in parsed.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                assert (value or "").startswith("#"), (tag, name, value)
            elif not name.startswith("xmlns"):
                assert "//" not in (value or ""), (tag, name, value)
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", page))
    assert "@import" not in page
    policy = next(a["content"] for t, a in parsed.elements if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_text_of_reviews_and_sources_is_shown_as_text() -> None:
    assert Page(html(example(hostile=True))).text.count(HOSTILE) >= 4  # review, its id, slices, metrics' column
    markdown = report_markdown(example(hostile=True), decide(example(), GateConfig()))
    assert "<script" not in markdown
    assert "<img" not in markdown
    assert "![](" not in markdown


def test_the_verdict_comes_first_and_the_configuration_last() -> None:
    parsed = Page(html(example()))
    assert re.fullmatch(r"\d\d\.\d % of 320 held-out reviews labelled rightly", parsed.headings[0])
    assert parsed.headings[1:] == [
        "Metrics",
        "Classes",
        "Figures",
        "Slices",
        "Most confident mistakes",
        "How it was made",
    ]
    assert parsed.text.index("the gate") < parsed.text.index("with intervals")
    after = parsed.text[parsed.text.index("How it was made") :]
    assert after.index("train") < after.index("clean")
    for fact in (
        "f" * 20,
        "model.cell",
        "lstm",
        "model.bidirectional",
        "yes",
        "max, mean",
        "splits.test",
        "2,512",
        "71,146",
    ):
        assert fact in after
    assert "unset" not in after


def test_the_report_says_how_to_make_the_model_again() -> None:
    evaluation = example()
    assert "makes the same model" not in Page(html(evaluation)).text  # some of its stages have been deleted
    assert "makes the same model" not in report_markdown(evaluation, decide(evaluation, GateConfig()))
    made = records(TrainingRun.model_validate({"train": {"seed": 7}, "clean": {"salt": HOSTILE[:30]}}))
    evaluation = evaluation.model_copy(update={"lineage": made})
    for shown in (Page(html(evaluation)).text, report_markdown(evaluation, decide(evaluation, GateConfig()))):
        assert """--train '{"seed": 7}'""" in shown
        assert ".venv/bin/python -m flows.train" in shown


def test_the_report_says_how_much_the_baseline_learned_from() -> None:
    splits = {"train": {"positive": 150_000, "negative": 150_001}}
    made = [
        StageRecord(name="clean", fingerprint="c", parameters={}, counts={"splits": splits}),
        StageRecord(name="baseline", fingerprint="b", parameters={}, counts={"trained_on": 200_000}),
    ]
    evaluation = example().model_copy(update={"lineage": made})
    for shown in (Page(html(evaluation)).text, report_markdown(evaluation, decide(evaluation, GateConfig()))):
        assert "learned from 200,000 of the 300,001 training reviews" in shown


def test_each_figure_is_named_and_told_in_words_that_can_be_seen() -> None:
    evaluation = example()
    page = Page(html(evaluation))
    names = [a["aria-label"] for tag, a in page.elements if tag == "div" and a.get("role") == "img"]
    assert names == ["Confusion matrix", "ROC curve", "Calibration", "Loss by epoch"]
    test = evaluation.test
    right, wrong = test.confusion[0]
    for shown in (page.text, report_markdown(evaluation, decide(evaluation, GateConfig()))):
        assert f"{right} negative reviews labelled rightly and {wrong} wrongly" in shown
        assert f"area under the curve {test.metrics['roc_auc'].value:.3f}." in shown
        assert f"calibration error {evaluation.calibration_error_before:.3f} before temperature scaling" in shown
        assert f"{test.metrics['calibration_error'].value:.3f} after." in shown
        assert "lowest validation loss 0.400 at epoch 3 of 3." in shown


def test_the_page_and_the_markdown_hold_every_metric_and_slice() -> None:
    evaluation = example(champion_version="7")
    decision = decide(evaluation, GateConfig())
    markdown = report_markdown(evaluation, decision).replace("\\", "")  # which escapes the underscore
    text = Page(html(evaluation)).text
    for shown in (text, markdown):
        assert all(metric.title[1:] in shown for metric in headline_metrics(evaluation.classes).values())
        assert all(part.name in shown for part in evaluation.slices)
        assert f"{100 * evaluation.test.metrics['accuracy'].value:.1f} %" in shown
        assert f"{evaluation.baseline_test.metrics['brier'].value:.3f}" in shown
    assert all(rule.reason in text for rule in decision.rules)
    assert "champion version 7" in text
    assert "The champion was trained on" not in text
    assert len(evaluation.mistakes) == sum(tag == "blockquote" for tag, _ in Page(html(evaluation)).elements) == 8


def test_the_page_says_what_the_champion_had_seen() -> None:
    test = held_out(champion=pl.col("probability"), seen=pl.int_range(pl.len()) < 20)
    history = [epoch_metrics(i) for i in range(2)]
    evaluation = evaluate(test, champion_version="7").model_copy(update={"history": history})
    assert evaluation.champion is not None
    rows = f"{evaluation.champion.rows:,}"
    assert f"The champion was trained on {320 - evaluation.champion.rows} of the test reviews" in html(evaluation)
    assert f"is of the other {rows}." in html(evaluation)
    everything = evaluate(test.with_columns(seen=True), champion_version="7").model_copy(update={"history": history})
    assert "champion version 7 has seen them all." in html(everything)
    assert "nan" not in html(everything).lower().replace("pinan", "")


def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head() -> None:
    for evaluation in (example(hostile=True), example(champion_version="7")):
        lines = report_markdown(evaluation, decide(evaluation, GateConfig())).splitlines()
        tables = _tables(lines)
        assert len(tables) == 4
        for table in tables:
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table[0]


def _tables(lines: list[str]) -> list[list[str]]:
    tables: list[list[str]] = []
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            if not before.startswith("|"):
                tables.append([])
            tables[-1].append(line)
    return tables


def test_wide_tables_scroll_by_themselves_and_both_colour_schemes_are_known() -> None:
    page = html(example())
    assert page.count('<div class="scroll"') == page.count("<table>") == 3
    assert 'name="viewport" content="width=device-width' in page
    assert "color-scheme: light dark" in page
    assert "@media (prefers-color-scheme: dark)" in page


def test_figures_take_their_colour_from_the_page_and_share_no_ids() -> None:
    drawn = figures(example())
    assert set(drawn) == {"confusion_matrix", "roc_curve", "calibration", "loss_curve"}
    for svg in drawn.values():
        assert "currentColor" in svg
        assert "#000000" not in svg
        assert "<image" not in svg
    # Clip paths and markers are referred to by id; matplotlib's groups (figure_1, ...) are not.
    used = [set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg)) for svg in drawn.values()]
    assert sum(map(len, used)) == len(set().union(*used)) > 0
    assert figures(example()) == drawn


NASTY = Classes(
    names=(
        HOSTILE, "so $x_1$ so-so", "_hidden", "a | b", "*bold*", 'quotes " and \'', "ดีมาก", "很好",
        "line\nbreak \x1b[31m",
        "{{ braces }}", "x" * 200, "#123 & <b>",
    )
)  # fmt: skip


def example_of(classes: Classes) -> Evaluation:
    history = [epoch_metrics(i, train_loss=0.6 - i / 10, validation_loss=0.5 - i / 20) for i in range(3)]
    return evaluate_of(classes, held_out_of(classes, 1500)).model_copy(update={"history": history})


def test_three_ordered_classes_are_reported() -> None:
    evaluation = example_of(ORDERED)
    decision = decide(evaluation, GateConfig(metric="quadratic_kappa"))
    page = Page(html(evaluation))
    markdown = report_markdown(evaluation, decision).replace("\\", "")
    for shown in (page.text, markdown):
        assert "Mean absolute error (classes)" in shown
        assert f"{evaluation.test.metrics['quadratic_kappa'].value:.3f}" in shown
        for name, rows in zip(ORDERED.names, evaluation.test.of_classes, strict=True):
            assert re.search(
                rf"{name}\W*{rows:,}\W*{100 * evaluation.test.metrics[f'precision_{name}'].value:.1f} %", shown
            )
        for mistake in evaluation.mistakes:
            true, predicted = (ORDERED.names[number] for number in (mistake.label, mistake.predicted))
            assert f"{true}, taken for {predicted} with probability {100 * mistake.probability:.1f} %" in shown
        row = evaluation.test.confusion[0]
        assert f"{row[1]} of bad taken for middling" in shown
    drawn = figures(evaluation)
    assert [f">{name}</text>" in drawn["confusion_matrix"] for name in ORDERED.names] == [True] * 3
    assert [f">{name}</text>" in drawn["roc_curve"] for name in ORDERED.names] == [True] * 3
    assert "predicted probability of the most likely class" in drawn["calibration"]


def test_names_of_classes_are_shown_as_text() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none reaches a user
        evaluation = example_of(NASTY)
        drawn = figures(evaluation)
    decision = decide(evaluation, GateConfig())
    page, markdown = html(evaluation), report_markdown(evaluation, decision)
    parsed = Page(page)
    assert not {tag for tag, _ in parsed.elements} & {"script", "img", "b", "iframe"}
    for name in NASTY.names:
        assert name in parsed.text
    for svg in drawn.values():
        assert not {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()} & {
            "script",
            "img",
        }
    shown = {
        text.text for text in ElementTree.fromstring(drawn["confusion_matrix"]).iter() if text.tag.endswith("text")
    }
    assert {"so $x_1$ so-so", "_hidden", "ดีมาก", "很好", "line break [31m", "x" * 19 + "…"} <= shown
    assert ">_hidden</text>" in drawn["roc_curve"]
    for forbidden in ("<script", "<img", "![](", "<b>"):
        assert forbidden not in markdown
    assert markdown.count("*bold*") == 0
    for table in _tables(markdown.splitlines()):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table[0]


@pytest.mark.parametrize("label", [0, 1])
def test_a_test_of_one_class_is_reported_without_what_is_undefined(label: int) -> None:
    evaluation = example()
    one_class = evaluate(held_out(label=pl.lit(label, pl.Int8))).model_copy(update={"history": evaluation.history})
    text = Page(html(one_class)).text
    assert "nan" not in text
    assert "ROC AUC–" in text.replace("\n", "")
    assert "nan" not in report_markdown(one_class, decide(one_class, GateConfig()))


def test_without_mistakes_or_champion_the_page_says_less() -> None:
    evaluation = example().model_copy(update={"mistakes": []})
    text = Page(html(evaluation)).text
    assert "None." in text
    assert "McNemar" not in text
