"""Pictures of a detector's frame for papers and pages, drawn without a display."""

from __future__ import annotations

import io

import numpy as np
from matplotlib import image as images
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from lib.boxes import Detections, lidar_corners
from lib.show.detection.scene import THRESHOLD, TRUTH, Scene, colour_of, heading_lines, image_lines

MAX_POINTS = 30_000  # dots; more hide one another
RING = 10.0  # m between the rings
WIDTH = 8.0  # inches
MARGIN = 2.0  # m around what is drawn
INK = "#333333"


def draw_scene(scene: Scene, title: str, threshold: float = THRESHOLD, dpi: int = 130) -> bytes:
    """A PNG: the camera's image with the projected boxes, where the scene has one, and the view from above.

    From above, the sensor stands at the left and looks to the right; rings mark every 10 m. Boxes have the colour of
    their class, with the score beside them; the ground truth is black and dashed. threshold: detections with a lower
    score are left out.
    """
    found = scene.above(threshold)
    low, high = _extent(scene, found)
    shows_image = scene.image is not None and scene.calibration is not None
    pixels = images.imread(scene.image) if shows_image else None
    heights = [WIDTH * pixels.shape[0] / pixels.shape[1]] if shows_image else []
    heights += [WIDTH * float(np.clip((high[1] - low[1]) / (high[0] - low[0]), 0.2, 1.6))]
    figure = Figure((WIDTH, sum(heights) + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, color=INK)
    axes = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    if shows_image:
        _draw_image(axes[0], pixels, scene, found)
    _draw_from_above(axes[-1], scene.thinned(MAX_POINTS), found, low, high)
    figure.legend(
        handles=_legend(scene), loc="outside lower center", ncols=5, fontsize=9, frameon=False, labelcolor=INK
    )
    content = io.BytesIO()
    figure.savefig(content, dpi=dpi, format="png", pil_kwargs={"optimize": True})
    return content.getvalue()


def _extent(scene: Scene, found: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corner (2,) of what is seen from above, m: the sensor, the boxes, and the points but few."""
    places = [np.zeros((1, 2))]
    if len(scene.points):
        places.append(np.quantile(scene.points[:, :2], (0.005, 0.995), axis=0))
    for boxes in (found.boxes, *([scene.truth.boxes] if scene.truth else [])):
        places.append(lidar_corners(boxes.numpy())[..., :2].reshape(-1, 2))  # (M, 8, 2) -> (8 M, 2)
    everything = np.concatenate(places)
    return everything.min(axis=0) - MARGIN, everything.max(axis=0) + MARGIN


def _draw_from_above(axes: Axes, scene: Scene, found: Detections, low: np.ndarray, high: np.ndarray) -> None:
    """x ahead to the right, y left upwards."""
    order = np.argsort(scene.points[:, 2], kind="stable")
    x, y, z = scene.points[order, :3].T
    bottom, top = np.quantile(z, (0.02, 0.98)) if len(z) else (0.0, 1.0)
    white = bottom + max(1.6 * (top - bottom), 1e-6)  # no dot is as light as the paper
    axes.scatter(x, y, s=0.5, c=z, cmap="Greys_r", vmin=bottom, vmax=white, linewidths=0)
    farthest = float(np.hypot(*np.maximum(np.abs(low), np.abs(high))))
    for radius in np.arange(RING, farthest, RING):
        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor="#c8c8c8", linewidth=0.6, zorder=0.5))
        across = min(0.77 * radius, -low[1])  # the mark stands on the ring, to the right of the road
        ahead = float(np.sqrt(radius**2 - across**2))
        if ahead < high[0]:
            axes.text(ahead, -across, f"{radius:g} m", fontsize=7, color="#777777", ha="right", va="bottom")
    axes.plot(0, 0, marker=">", color=INK, markersize=7)
    if scene.truth is not None:
        _outlines(axes, scene.truth.boxes.numpy(), [TRUTH] * len(scene.truth.boxes), linestyle="--", linewidth=1.6)
    names = [found.classes[k] for k in found.labels.tolist()]
    boxes, colours = found.boxes.numpy(), [colour_of(name) for name in names]
    _outlines(axes, boxes, colours, linewidth=1.3)
    for box, score, colour in zip(boxes, found.scores.tolist(), colours, strict=True):
        axes.annotate(
            f"{score:.2f}", box[:2], (4, 5), textcoords="offset points", fontsize=7, color=colour, annotation_clip=True
        )
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")
    axes.set_xlabel("ahead (m)", fontsize=9, color=INK)
    axes.set_ylabel("left (m)", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=2.5)
    axes.spines[:].set_color("#cccccc")


def _outlines(axes: Axes, boxes: np.ndarray, colours: list[str], **style: object) -> None:
    """LiDAR boxes (M, 7) from above, with a line from the centre to the front."""
    if len(boxes) == 0:
        return
    corners = lidar_corners(boxes)[:, :4, :2]  # (M, 8, 3) -> (M, 4, 2) the bottom
    axes.add_collection(PolyCollection(corners, facecolors="none", edgecolors=colours, zorder=3, **style))
    axes.add_collection(LineCollection(heading_lines(boxes)[..., :2], colors=colours, zorder=3, **style))


def _draw_image(axes: Axes, pixels: np.ndarray, scene: Scene, found: Detections) -> None:
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(-0.5, width - 0.5, height - 0.5, -0.5), cmap="gray")
    drawn = [(found, [colour_of(found.classes[k]) for k in found.labels.tolist()], "-")]
    if scene.truth is not None:
        drawn.insert(0, (scene.truth, ["#ffffff"] * len(scene.truth.boxes), "--"))
    for detections, colours, style in drawn:
        if len(colours) == 0:
            continue
        lines = image_lines(detections.boxes.numpy(), scene.calibration)  # (M, 12, 2, 2)
        segments = lines.reshape(-1, 2, 2)  # (M, 12, 2, 2) -> (12 M, 2, 2)
        edges = np.repeat(colours, 12)
        shown = np.isfinite(segments).all(axis=(1, 2))
        axes.add_collection(LineCollection(segments[shown], colors=edges[shown], linestyles=style, linewidths=1.1))
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_axis_off()


def _legend(scene: Scene) -> list[Line2D]:
    lines = [Line2D([], [], color=colour_of(name), label=name) for name in scene.classes]
    if scene.truth is not None:
        label = "ground truth (white in the image)" if scene.image is not None else "ground truth"
        lines.append(Line2D([], [], color=TRUTH, linestyle="--", label=label))
    return lines
