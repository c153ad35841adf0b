"""Charts for pages: small SVG pictures, drawn without a display."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#999999"
STYLE = {
    "svg.fonttype": "none",  # letters stay letters: small, and one can search them
    "svg.hashsalt": "charts",  # the same chart gives the same bytes
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#cccccc",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.labelcolor": "#444444",
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "grid.color": "#eeeeee",
    "lines.linewidth": 1.5,
    "legend.frameon": False,
}


def charts(*drawings: Callable[[Axes], None], columns: int = 3, height: float = 2.5) -> str:
    """Charts side by side as one SVG element; each drawing fills one pair of axes. height: inches a row."""
    rows = -(-len(drawings) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.0, height * rows))  # margins by hand: an automatic layout takes twice the time
        figure.subplots_adjust(0.06, 0.6 / height / rows, 0.94, 1 - 0.3 / height / rows, 0.3, 0.65)
        FigureCanvasSVG(figure)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for draw, ax in zip(drawings, axes[: len(drawings)], strict=True):
            draw(ax)
        for ax in axes[len(drawings) :]:
            ax.set_axis_off()
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    return text[text.index("<svg") :]


def bars(axes: Axes, edges: list[float], values: list[float], colour: str = BLUE) -> None:
    """Bars of equal width for the bins between ``edges``, whose ends may be infinite. NaN draws no bar."""
    names = [
        f"≥ {low:g}" if high == math.inf else f"< {high:g}" if low == -math.inf else f"{low:g}–{high:g}"
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    axes.bar(names, values, color=colour, width=0.85)
    axes.tick_params(axis="x", labelrotation=45 if sum(map(len, names)) > 40 else 0, length=0)
    axes.grid(axis="x", visible=False)
