"""Pictures of a scene flow, drawn without a display."""

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SOURCE, TARGET, WARPED = "#d62728", "#1f77b4", "#2ca02c"
MAX_POINTS = 8192  # dots a cloud; more hide one another


def draw_flow(source: np.ndarray, target: np.ndarray, flow: np.ndarray, title: str) -> bytes:
    """A PNG: the pair from above before and after warping, and the length of the flow.

    source (N, 3), target (M, 3), flow (N, 3) in metres, camera frame with z forward; warped source = source + flow.
    """
    warped = source + flow
    figure = Figure(figsize=(15, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
    figure.suptitle(title)
    _dots(left, target, TARGET, "target")
    _dots(left, source, SOURCE, "source")
    left.set_title("before: source and target")
    _dots(middle, target, TARGET, "target")
    _dots(middle, warped, WARPED, "warped source")
    middle.set_title("after: warped source and target")
    shown = source[:MAX_POINTS]
    length = np.linalg.norm(flow[:MAX_POINTS], axis=1)
    colours = right.scatter(shown[:, 0], shown[:, 2], c=length, s=2, cmap="viridis", linewidths=0)
    figure.colorbar(colours, ax=right, label="length of the flow (m)")
    right.set_title("predicted flow of the source")
    for axes in (left, middle, right):
        axes.set_xlabel("x (m)")
        axes.set_aspect("equal")
    left.set_ylabel("depth z (m)")
    for axes in (left, middle):
        axes.legend(loc="upper right", markerscale=5)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()


def _dots(axes, cloud: np.ndarray, colour: str, label: str) -> None:
    axes.scatter(cloud[:MAX_POINTS, 0], cloud[:MAX_POINTS, 2], s=2, c=colour, linewidths=0, alpha=0.6, label=label)
