"""Pictures of a scene flow for papers and pages, drawn without a display."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.show.scene_flow.view import (
    CLOUDS,
    ERROR_MAP,
    View,
    colour_wheel,
    error_colours,
    flow_colours,
    round_scale,
    to_viewer,
)

MAX_POINTS = 8192  # dots a cloud; more hide one another
PANEL = 3.5  # inches
KEY = 0.75  # inches
INK = "#333333"


class Column(NamedTuple):
    """Clouds drawn together. layers: name -> (points (n, 3) right, forward, up; colours (n, 3) in 0..1).

    wheel, scale: the ends (m) of the legends of direction and of error, where the column has one.
    """

    title: str
    layers: dict[str, tuple[np.ndarray, np.ndarray]]
    wheel: float | None = None
    scale: float | None = None


def draw_flow(view: View, title: str, dpi: int = 110) -> bytes:
    """A PNG of two rows: the view along the sensor's axis, and from above. It has up to four columns.

    The columns: source and target; warped source and target; the flow, its direction and length as colour; the error.
    What is not known is left out. A view without a target shows how the source moved. A view of the true flow has no
    warped source and no error.
    """
    columns = _columns(view.thinned(MAX_POINTS))
    everything = np.concatenate([points for column in columns for points, _ in column.layers.values()])
    sensor = _Sensor(everything)
    above, along = _box(everything[:, :2]), _box(sensor.project(everything)[:, :2])
    heights = [float(np.clip((box[1, 1] - box[0, 1]) / (box[1, 0] - box[0, 0]), 0.2, 1.4)) for box in (along, above)]
    figure = Figure((PANEL * len(columns) + 0.5, 0.94 * PANEL * sum(heights) + KEY + 1.2), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, color=INK)
    axes = figure.subplots(3, len(columns), squeeze=False, height_ratios=[heights[0], KEY / PANEL, heights[1]])
    for column, upper, middle, lower in zip(columns, *axes, strict=True):
        _dots(upper, [(sensor.project(points), colours) for points, colours in column.layers.values()], along)
        _key(middle, column)
        _dots(lower, list(column.layers.values()), above)
        upper.set_title(column.title, fontsize=12, color=INK)
        upper.set_axis_off()
        lower.set_xlabel("right (m)", fontsize=9, color=INK)
        lower.tick_params(labelsize=8, colors=INK, length=2.5)
        lower.spines[:].set_color("#cccccc")
        lower.grid(color="#eeeeee", linewidth=0.6)
        lower.set_axisbelow(True)
    axes[2, 0].set_ylabel("depth (m), from above", fontsize=9, color=INK)
    content = io.BytesIO()
    figure.savefig(content, dpi=dpi, format="png", pil_kwargs={"optimize": True})
    return content.getvalue()


def _columns(view: View) -> list[Column]:
    clouds = {name: to_viewer(cloud) for name, cloud in view.clouds().items()}
    plain = {name: (cloud, np.tile(to_rgb(CLOUDS[name]), (len(cloud), 1))) for name, cloud in clouds.items()}
    flow_scale = round_scale(np.linalg.norm(view.flow[:, [0, 2]], axis=1))
    coloured = {"source": (clouds["source"], flow_colours(view.flow, flow_scale) / 255)}
    if view.target is None:
        columns = [Column("source and warped source", plain)]
    else:
        columns = [Column("source and target", {name: plain[name] for name in ("source", "target")})]
        if not view.shows_truth:
            after = {name: plain[name] for name in ("warped source", "target")}
            columns += [Column("warped source and target", after)]
    columns += [Column("true flow" if view.shows_truth else "predicted flow", coloured, wheel=flow_scale)]
    if view.truth is not None and not view.shows_truth:
        error_scale = round_scale(view.error)
        layers = {"source": (clouds["source"], error_colours(view.error, error_scale) / 255)}
        columns += [Column("error of the flow", layers, scale=error_scale)]
    return columns


class _Sensor:
    """A perspective view from behind and above the points, looking along the sensor's axis."""

    def __init__(self, points: np.ndarray):
        low, high = np.quantile(points, (0.01, 0.99), axis=0)
        centre, size = (low + high) / 2, max(float(np.linalg.norm(high - low)), 1.0)
        self.eye = np.array([centre[0], min(low[1], points[:, 1].min()) - 0.2 * size, centre[2] + 0.35 * size])
        forward = (centre - self.eye) / np.linalg.norm(centre - self.eye)
        right = np.array([1.0, 0.0, 0.0])
        self.axes = np.stack([right, np.cross(right, forward), forward])  # rows: right, up, forward

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 3) -> (n, 3): image position, right and up, and the nearness, which puts a dot in front."""
        turned = (points - self.eye) @ self.axes.T
        depth = np.maximum(turned[:, 2:], 0.1)  # a stray point high above the scene may lie behind the eye
        return np.column_stack([turned[:, :2] / depth, -depth])


def _box(points: np.ndarray) -> np.ndarray:
    """(2, 2): lower and upper corner of the points (n, 2) without the furthest 0.2 %, with a margin."""
    low, high = np.quantile(points, (0.002, 0.998), axis=0)
    margin = 0.03 * max(*(high - low), 1e-6)
    return np.stack([low - margin, high + margin])


def _dots(axes: Axes, layers: list[tuple[np.ndarray, np.ndarray]], box: np.ndarray) -> None:
    """Paints the points of all layers in one order, by their third coordinate, so that no cloud hides another."""
    points, colours = (np.concatenate(parts) for parts in zip(*layers, strict=True))
    order = np.argsort(points[:, 2], kind="stable")
    size = 9.0 * (1000.0 / max(len(points), 1000)) ** 0.6
    axes.scatter(*points[order, :2].T, s=size, c=colours[order], linewidths=0, rasterized=True)
    axes.set_xlim(*box[:, 0])
    axes.set_ylim(*box[:, 1])
    axes.set_aspect("equal")


def _key(axes: Axes, column: Column) -> None:
    """Which colour is which cloud, direction or error."""
    axes.set_axis_off()
    if column.wheel is not None:
        wheel = axes.inset_axes((0.3, 0.0, 0.4, 1.0))
        wheel.imshow(colour_wheel(240))
        wheel.set_axis_off()
        words = {(0.5, 1.12): "forward", (0.5, -0.12): "backward", (-0.08, 0.5): "left", (1.08, 0.5): "right"}
        for (x, y), word in words.items():
            side = "center" if x == 0.5 else "right" if x < 0 else "left"
            wheel.text(x, y, word, transform=wheel.transAxes, ha=side, va="center", fontsize=7, color=INK)
        axes.text(0.78, 0.05, f"rim: {column.wheel:g} m\nor more", transform=axes.transAxes, fontsize=8, color=INK)
    elif column.scale is not None:
        bar = axes.inset_axes((0.15, 0.45, 0.7, 0.16))
        values = np.linspace(0.0, 1.0, 256)[None]  # (1, 256)
        bar.imshow(values, cmap=ListedColormap(ERROR_MAP), aspect="auto", extent=(0.0, column.scale, 0.0, 1.0))
        bar.set_yticks([])
        ticks = [0.0, column.scale / 2, column.scale]
        bar.set_xticks(ticks, [*(f"{tick:.2g}" for tick in ticks[:2]), f"{column.scale:g} m or more"])
        bar.tick_params(labelsize=8, colors=INK, length=2)
    else:
        handles = [
            Line2D([], [], marker="o", linestyle="", markersize=6, color=CLOUDS[name], label=name)
            for name in column.layers
        ]
        axes.legend(handles=handles, loc="center", ncols=len(handles), fontsize=9, frameon=False, handletextpad=0.1)
