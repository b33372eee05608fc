"""The evaluation's figures, as SVG that takes its text colour from the page around it."""

import io
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
    "savefig.transparent": True,
}


def figures(evaluation: Evaluation) -> dict[str, str]:
    """Return the figures by name, each an SVG document: confusion matrix, ROC, calibration, loss curve."""
    return {
        "confusion_matrix": _draw("confusion_matrix", lambda axes: _confusion(axes, evaluation)),
        "roc_curve": _draw("roc_curve", lambda axes: _roc(axes, evaluation)),
        "calibration": _draw("calibration", lambda axes: _calibration(axes, evaluation)),
        "loss_curve": _draw("loss_curve", lambda axes: _losses(axes, evaluation)),
    }


def _draw(name: str, draw: Callable[[Axes], None]) -> str:
    return draw_svg(name, (4.6, 3.8), lambda figure: draw(figure.add_subplot()))


def draw_svg(name: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """Draw a figure in the project's style.

    Args:
        name: makes the ids in the SVG differ from those of other figures on a page.
        size: width and height in inches.
        draw: draws on the empty figure; what has the colour :data:`INK` gets that of the page's text.

    Returns:
        an SVG document, the same in every run.
    """
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return buffer.getvalue().replace(INK, "currentColor")


def _confusion(axes: Axes, evaluation: Evaluation) -> None:
    scores = evaluation.test
    cells = [[scores.true_negatives, scores.false_positives], [scores.false_negatives, scores.true_positives]]
    for i, row in enumerate(cells):
        for j, count in enumerate(row):
            share = count / max(1, sum(row))
            # See-through, so that the page's text colour can be read on it, be the page light or dark.
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=BLUE, alpha=0.05 + 0.45 * share))
            axes.text(j, i, f"{count:,}\n{100 * share:.1f} %", ha="center", va="center", fontsize=13)
    axes.set(
        xlim=(-0.5, 1.5), ylim=(1.5, -0.5), aspect="equal",
        xticks=[0, 1], yticks=[0, 1], xticklabels=["negative", "positive"], yticklabels=["negative", "positive"],
        xlabel="predicted", ylabel="true",
    )  # fmt: skip


def _roc(axes: Axes, evaluation: Evaluation) -> None:
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    axes.plot(*np.reshape(evaluation.roc_curve, (-1, 2)).T, color=BLUE, linewidth=2)
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")


def _calibration(axes: Axes, evaluation: Evaluation) -> None:
    def points(bins: list[ReliabilityBin]) -> tuple[list[float], list[float]]:
        return [b.mean_probability for b in bins], [b.positive_share for b in bins]

    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    axes.plot(*points(evaluation.reliability_before), "s--", color=ORANGE, markersize=5, label="before scaling")
    axes.plot(*points(evaluation.reliability_after), "o-", color=BLUE, markersize=5, label="after scaling")
    axes.set(xlabel="predicted probability of positive", ylabel="share positive", aspect="equal")
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
