"""A detector's frame as an interactive 3-D view in a page: orbit, ask a box, move the score, switch the truth.

Python lays out and colours (and Plotly's own validation checks it); view3d.js fills in points and boxes.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib import colormaps

from lib.boxes import EDGES, Detections, lidar_corners
from lib.show import orbit
from lib.show.detection.scene import QUADS, THRESHOLD, TRUTH, Scene, colour_of, heading_lines
from lib.show.orbit import packed
from lib.show.page import note, page, section, table

MAX_POINTS = 24_000  # dots; a crop of KITTI has up to 21,000: with their colours, 0.5 MB of page
LONGEST = 1.9  # of the scene's sides, in the units of Plotly's camera
LINES = (*EDGES, (8, 9))  # behind the 8 corners: the middle of the top, and of the front's upper edge
# The two triangles of each of the six faces, by corners.
FACES = [face for a, b, c, d in QUADS for face in ((a, b, c), (a, c, d))]


def scripts() -> list[str]:
    """What a page with views needs, once."""
    return orbit.scripts(Path(__file__).with_suffix(".js"))


def detection_page(scene: Scene, title: str, threshold: float = THRESHOLD) -> bytes:
    """The page of one frame. title: plain text. threshold: where the slider of the score stands at first."""
    found = scene.detections
    head = ["class", "score", "x, y, z (m)", "length, width, height (m)", "yaw (degrees)"]
    rows = [_row(found, k) for k in range(len(found.scores))]
    sections = [
        view3d(scene, scene.name, threshold),
        note(
            "Drag to orbit, wheel to zoom, hover over a box for its class and score. The short line on the top of a "
            "box points to its front. Coordinates are in the LiDAR frame: x ahead, y left, z up, in metres."
        ),
        section("Every detection", table(rows, head) if rows else note("Nothing was found.")),
    ]
    return page(title, "Detections in a point cloud", sections, orbit.STYLE, scripts())


def view3d(scene: Scene, title: str, threshold: float = THRESHOLD, limit: int = MAX_POINTS) -> str:
    """The view as HTML, for a page that has ``orbit.STYLE`` and ``scripts()``. At most ``limit`` points are drawn."""
    total = len(scene.points)
    scene = scene.thinned(limit)
    modes = {"height": "height", **({"reflectance": "reflectance"} if scene.points.shape[1] > 3 else {})}
    content = {
        "figure": json.loads(_figure(scene).to_json()),
        "points": packed(scene.points[:, :3].astype(np.float32)),
        "colours": {mode: packed(_dyed(scene.points, mode)) for mode in modes},
        "classes": list(scene.classes),
        "found": _boxes(scene.detections, scene.classes),
        "truth": None if scene.truth is None else _boxes(scene.truth, scene.classes),
        "lines": LINES,
        "faces": FACES,
    }
    keys = "".join(
        f'<span class="key"><span class="dot" style="background:{colour_of(name)}"></span>{html.escape(name)}</span>'
        for name in scene.classes
    )
    truth = (
        ""
        if scene.truth is None
        else '<label><input type="checkbox" data-truth checked>'
        f'<span class="dot" style="background:{TRUTH}"></span>ground truth</label>'
    )
    options = "".join(f'<option value="{mode}">{text}</option>' for mode, text in modes.items())
    drawn = f"all {total:,}" if total == len(scene.points) else f"{len(scene.points):,} of {total:,}"
    return (
        f'<div class="view"><div class="bar"><b>{html.escape(title)}</b>{keys}{truth}'
        f"<label>points in <select data-colour>{options}</select></label></div>"
        f'<div class="plot"></div>'
        f'<div class="bar lower"><label>score of at least <input type="range" min="0" max="1" step="0.01" '
        f'value="{threshold:.2f}" aria-label="score"></label><output></output>{orbit.CAMERA_BUTTONS}'
        f'<span class="note">{drawn} points drawn</span></div>'
        f"{orbit.json_inside(content)}</div>"
    )


def _figure(scene: Scene) -> go.Figure:
    """Axes and the marks of points, ground truth and each class; view3d.js fills them, and counts on their order."""
    size = float(np.clip(1.2 * (20_000 / max(len(scene.points), 1)) ** 0.3, 1.2, 3.0))
    hover = "(%{customdata[0]:.2f}, %{customdata[1]:.2f}, %{customdata[2]:.2f}) m<extra></extra>"
    figure = go.Figure()
    figure.add_scatter3d(x=[], y=[], z=[], mode="markers", marker={"size": size, "line": {"width": 0}})
    figure.update_traces(hovertemplate=hover)
    for colour, opacity in ((TRUTH, 0.05), *((colour_of(name), 0.15) for name in scene.classes)):
        figure.add_scatter3d(x=[], y=[], z=[], mode="lines", line={"color": colour, "width": 4}, hoverinfo="skip")
        figure.add_mesh3d(
            x=[], y=[], z=[], i=[], j=[], k=[], color=colour, opacity=opacity, flatshading=True, hoverinfo="text"
        )
    corners = [
        lidar_corners(boxes.boxes.numpy()).reshape(-1, 3)  # (M, 8, 3) -> (8 M, 3)
        for boxes in (scene.detections, scene.truth)
        if boxes is not None
    ]
    everything = np.concatenate([scene.points[:, :3], *corners, np.zeros((1, 3))])
    orbit.lay_out(figure, to_screen(everything), ("right (m)", "ahead (m)", "up (m)"))
    # A street is far longer than wide: its longest side, not its mean one, is what must fit before the camera.
    sides = [float(np.ptp(figure.layout.scene[axis].range)) for axis in ("xaxis", "yaxis", "zaxis")]
    ratio = {letter: LONGEST * side / max(sides) for letter, side in zip("xyz", sides, strict=True)}
    figure.update_layout(scene={"aspectmode": "manual", "aspectratio": ratio})
    return figure


def to_screen(xyz: np.ndarray) -> np.ndarray:
    """Points (..., 3) of the LiDAR frame -> (..., 3) right, ahead, up, m."""
    return np.stack([-xyz[..., 1], xyz[..., 0], xyz[..., 2]], axis=-1)


def _boxes(boxes: Detections, classes: tuple[str, ...]) -> dict[str, Any]:
    """What the program needs of M boxes: 10 places (M, 10, 3) of each, score, place of its class, and what it tells."""
    array = boxes.boxes.numpy()
    places = np.concatenate([lidar_corners(array), heading_lines(array)], axis=1)  # (M, 8 + 2, 3)
    names = [boxes.classes[k] for k in boxes.labels.tolist()]
    return {
        "places": packed(places.astype(np.float32)),
        "scores": boxes.scores.tolist(),
        "labels": [classes.index(name) for name in names],
        "told": [_told(name, score, box) for name, score, box in zip(names, boxes.scores.tolist(), array, strict=True)],
    }


def _told(name: str, score: float, box: np.ndarray) -> str:
    x, y, z, length, width, height, yaw = box.tolist()
    return (
        f"<b>{html.escape(name)}</b> {score:.2f}<br>centre ({x:.2f}, {y:.2f}, {z:.2f}) m"
        f"<br>{length:.2f} x {width:.2f} x {height:.2f} m, yaw {np.degrees(yaw):.0f} degrees"
    )


def _row(found: Detections, k: int) -> list[str]:
    x, y, z, length, width, height, yaw = found.boxes[k].tolist()
    name = found.classes[int(found.labels[k])]
    size = f"{length:.2f}, {width:.2f}, {height:.2f}"
    return [name, f"{found.scores[k]:.3f}", f"{x:.2f}, {y:.2f}, {z:.2f}", size, f"{np.degrees(yaw):.1f}"]


def _dyed(points: np.ndarray, mode: str) -> np.ndarray:
    """Colours (N, 3) uint8 of points: by height from blue to yellow, by reflectance from black to light grey."""
    values, colours = (points[:, 2], colormaps["cividis"]) if mode == "height" else (points[:, 3], colormaps["gray"])
    low, high = np.quantile(values, (0.02, 0.98)) if len(values) else (0.0, 1.0)
    shares = np.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0) * (1.0 if mode == "height" else 0.85)
    return np.round(255 * colours(shares)[:, :3]).astype(np.uint8)
