"""The evaluation's figures, as SVG that takes its text colour from the page around it."""

import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sentiment_model.evaluation import Evaluation
from sentiment_model.metrics import ReliabilityBin

# Okabe & Ito's palette, which colour-blind readers can tell apart and which shows on light and on dark.
_BLUE, _ORANGE, _GREEN = "#0072b2", "#e69f00", "#009e73"
_INK = "#123456"  # stands for the page's text colour until the SVG is written
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # real text: small, searchable, and readable by a screen reader
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
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
    # The salt makes ids differ between figures on one page, and equal between runs.
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(4.6, 3.8), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().replace(_INK, "currentColor")


def _confusion(axes: Axes, evaluation: Evaluation) -> None:
    scores = evaluation.test
    cells = [[scores.true_negatives, scores.false_positives], [scores.false_negatives, scores.true_positives]]
    axes.imshow([[n / max(1, sum(row)) for n in row] for row in cells], cmap="Blues", vmin=0, vmax=1.4, alpha=0.8)
    for i, row in enumerate(cells):
        for j, count in enumerate(row):
            axes.text(
                j,
                i,
                f"{count:,}\n{count / max(1, sum(row)):.1%}",
                ha="center",
                va="center",
                color=_INK,
                fontsize=13,
            )
    axes.set(
        xticks=[0, 1], yticks=[0, 1], xticklabels=["negative", "positive"], yticklabels=["negative", "positive"],
        xlabel="predicted", ylabel="true",
    )  # fmt: skip


def _roc(axes: Axes, evaluation: Evaluation) -> None:
    x, y = zip(*evaluation.roc_curve, strict=True)
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
    axes.plot(x, y, color=_BLUE, linewidth=2)
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")


def _calibration(axes: Axes, evaluation: Evaluation) -> None:
    def points(bins: list[ReliabilityBin]) -> tuple[list[float], list[float]]:
        return [b.mean_probability for b in bins], [b.positive_share for b in bins]

    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
    axes.plot(*points(evaluation.reliability_before), "s--", color=_ORANGE, markersize=5, label="before scaling")
    axes.plot(*points(evaluation.reliability_after), "o-", color=_BLUE, markersize=5, label="after scaling")
    axes.set(xlabel="predicted probability of positive", ylabel="share positive", aspect="equal")
    axes.legend()


def _losses(axes: Axes, evaluation: Evaluation) -> None:
    epochs = [metrics.epoch + 1 for metrics in evaluation.history]
    axes.plot(epochs, [m.train_loss for m in evaluation.history], "s--", color=_GREEN, label="training")
    axes.plot(epochs, [m.validation_loss for m in evaluation.history], "o-", color=_BLUE, label="validation")
    axes.set(xlabel="epoch", ylabel="log loss (nats)", xticks=epochs)
    axes.set_ylim(bottom=0)
    axes.legend()
