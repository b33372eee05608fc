"""Panels of horizontal bars and dots, as an SVG that reads on light and dark pages."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sentiment_model.evaluation.figures import BLUE, INK, ORANGE, draw_svg
from sentiment_model.evaluation.metrics import Interval

# The SVG takes its text colour from the page around it, but shown as an image it has none: then it goes by the
# reader's preference.
_COLOURS = "<style>svg{color:#1f2328}@media (prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"


@dataclass(frozen=True)
class Bar:
    """One line of a panel; ours are highlighted."""

    name: str
    value: float | Interval
    ours: bool


@dataclass(frozen=True)
class Panel:
    """Values of the same unit: numbers become bars from zero, intervals dots with whiskers."""

    label: str
    bars: Sequence[Bar]


def draw_panels(name: str, panels: Sequence[Panel], *, columns: int) -> str:
    """Draw panels in so many columns; those in a row that have the same lines share their names."""
    rows = -(-len(panels) // columns)
    heights = [max(len(panel.bars) for panel in panels[i * columns : (i + 1) * columns]) for i in range(rows)]
    size = (3.4 * columns + 1.6, sum(0.36 * height + 0.9 for height in heights))

    def draw(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False, height_ratios=[height + 2.0 for height in heights])
        for i, axes in enumerate(grid.flat):
            if i >= len(panels):
                axes.set_visible(False)
                continue
            _draw_panel(axes, panels[i])
            left = panels[i - 1] if i % columns else None
            if left and [bar.name for bar in left.bars] == [bar.name for bar in panels[i].bars]:
                axes.tick_params(labelleft=False)

    start, end, rest = draw_svg(name, size, draw).partition("<defs>")
    return start + _COLOURS + end + rest


def _draw_panel(axes: Axes, panel: Panel) -> None:
    for y, bar in enumerate(panel.bars):
        colour = BLUE if bar.ours else ORANGE
        if isinstance(bar.value, Interval):
            axes.plot([bar.value.low, bar.value.high], [y, y], color=colour, linewidth=2)
            axes.plot(bar.value.value, y, "o", color=colour)
        else:
            axes.barh(y, bar.value, color=colour, height=0.6)
            axes.annotate(
                f"{bar.value:,.3g}" if bar.value < 100 else f"{bar.value:,.0f}",
                (bar.value, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=9, color=INK,
            )  # fmt: skip
    axes.set(yticks=range(len(panel.bars)), yticklabels=[bar.name for bar in panel.bars], xlabel=panel.label)
    axes.set_ylim(len(panel.bars) - 0.4, -0.6)
    axes.margins(x=0.18)
