"""The evaluation's figures, as SVG that takes its text colour from the page around it."""

import io
import unicodedata
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from sentiment_model.evaluation.evaluate import Evaluation
from sentiment_model.evaluation.metrics import ReliabilityBin

# After Okabe & Ito's palette, which colour-blind readers can tell apart; the blue is lighter, to show on dark too.
BLUE, ORANGE, _GREEN = "#2a87c0", "#e69f00", "#009e73"
_COLOURS = (BLUE, ORANGE, _GREEN, "#cc79a7", "#d55e00", "#56b4e9")
_LINES = ("-", "--", "-.")
INK = "#123456"  # stands for the page's text colour until the SVG is written
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # real text: small, searchable, and readable by a screen reader
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "text.parse_math": False,  # names of classes may hold dollars
    "savefig.transparent": True,
}


MANY_CLASSES = 6
"""With more classes than these, the figures that tell them apart need the width of a page."""
_NAMED_CURVES = len(_COLOURS) * len(_LINES)
_NAME_CHARACTERS = 20
_SIZE, _WIDE, _LARGE = (4.6, 3.8), (9.2, 4.6), (9.2, 7.6)  # in inches
_POINTS_OF_AN_INCH = 72
_SHARES_TOLD = 4  # classes up to which the confusion matrix tells shares too


def figures(evaluation: Evaluation) -> dict[str, str]:
    """Return the figures by name, each an SVG document: confusion matrix, ROC, calibration, loss curve."""
    many = len(evaluation.classes) > MANY_CLASSES
    return {
        "confusion_matrix": _draw(
            "confusion_matrix", lambda axes: _confusion(axes, evaluation), _LARGE if many else _SIZE
        ),
        "roc_curve": _draw("roc_curve", lambda axes: _roc(axes, evaluation), _WIDE if many else _SIZE),
        "calibration": _draw("calibration", lambda axes: _calibration(axes, evaluation)),
        "loss_curve": _draw("loss_curve", lambda axes: _losses(axes, evaluation)),
    }


def _draw(name: str, draw: Callable[[Axes], None], size: tuple[float, float] = _SIZE) -> str:
    return draw_svg(name, size, lambda figure: draw(figure.add_subplot()))


def draw_svg(name: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """Draw a figure in the project's style.

    Args:
        name: makes the ids in the SVG differ from those of other figures on a page.
        size: width and height in inches.
        draw: draws on the empty figure; what has the colour :data:`INK` gets that of the page's text.

    Returns:
        an SVG document, the same in every run.
    """
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        # Text is laid out in a font that lacks many scripts; the reader's browser has others.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return buffer.getvalue().replace(INK, "currentColor")


def _short(name: str) -> str:
    """Return the name of a class as it stands at an axis: one short line."""
    shown = " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in name).split())
    return shown if len(shown) <= _NAME_CHARACTERS else shown[: _NAME_CHARACTERS - 1] + "…"


def _confusion(axes: Axes, evaluation: Evaluation) -> None:
    cells, names = evaluation.test.confusion, [_short(name) for name in evaluation.classes.names]
    count = len(names)
    ticks = list(range(count))
    axes.set(
        xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal",
        xticks=ticks, yticks=ticks, xlabel="predicted", ylabel="true",
    )  # fmt: skip
    cell = 0.7 * (_LARGE if count > MANY_CLASSES else _SIZE)[1] * _POINTS_OF_AN_INCH / count
    size = min(11.0, 0.75 * cell)
    axes.set_xticks(ticks, names, fontsize=size)
    axes.set_yticks(ticks, names, fontsize=size)
    if max(map(len, names)) * 0.6 * size > cell:  # else they would overlap
        for text in axes.get_xticklabels():
            text.set(rotation=45, rotation_mode="anchor", horizontalalignment="right")
    digits = len(f"{max(map(max, cells)):,}")
    size = min(13.0, 0.75 * cell, 1.5 * cell / digits)
    for i, row in enumerate(cells):
        for j, rows in enumerate(row):
            if count > MANY_CLASSES and not rows:
                continue  # of many classes, most are never taken for each other
            share = rows / max(1, sum(row))
            # See-through, so that the page's text colour can be read on it, be the page light or dark.
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=BLUE, alpha=0.05 + 0.45 * share))
            told = f"{rows:,}\n{100 * share:.1f} %" if count <= _SHARES_TOLD else f"{rows:,}"
            axes.text(j, i, told, ha="center", va="center", fontsize=size)


def _roc(axes: Axes, evaluation: Evaluation) -> None:
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    several = len(evaluation.roc_curves) > 1
    named = several and len(evaluation.roc_curves) <= _NAMED_CURVES
    lines = []
    for number, curve in enumerate(evaluation.roc_curves):
        x, y = np.reshape(curve, (-1, 2)).T
        style = _LINES[number // len(_COLOURS)] if named else "-"
        colour = _COLOURS[number % len(_COLOURS)] if named else BLUE
        lines += axes.plot(x, y, color=colour, linestyle=style, linewidth=1.2 if several else 2)
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    if named:
        size = min(9.0, 200 / len(lines))
        legend = axes.figure.legend(lines, map(str, range(len(lines))), loc="outside right upper", fontsize=size)
        for text, name in zip(legend.get_texts(), evaluation.classes.names, strict=True):
            text.set_text(_short(name))  # not as a label: one that begins with _ is left out


def _calibration(axes: Axes, evaluation: Evaluation) -> None:
    def points(bins: list[ReliabilityBin]) -> tuple[list[float], list[float]]:
        return [b.mean_probability for b in bins], [b.positive_share for b in bins]

    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    axes.plot(*points(evaluation.reliability_before), "s--", color=ORANGE, markersize=5, label="before scaling")
    axes.plot(*points(evaluation.reliability_after), "o-", color=BLUE, markersize=5, label="after scaling")
    names = [_short(name) for name in evaluation.classes.names]
    told = f"probability of {names[1]}", f"share {names[1]}"
    if len(names) > 2:
        told = "probability of the most likely class", "share of which it is true"
    axes.set(xlabel=f"predicted {told[0]}", ylabel=told[1], aspect="equal")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.legend()


def _losses(axes: Axes, evaluation: Evaluation) -> None:
    epochs = [metrics.epoch + 1 for metrics in evaluation.history]
    axes.plot(epochs, [m.train_loss for m in evaluation.history], "s--", color=_GREEN, label="training")
    axes.plot(epochs, [m.validation_loss for m in evaluation.history], "o-", color=BLUE, label="validation")
    axes.set(xlabel="epoch", ylabel="log loss (nats)", xlim=(0.5, len(epochs) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.set_ylim(bottom=0)
    axes.legend()
