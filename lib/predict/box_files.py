"""The files of a detector's boxes: JSON, KITTI's result lines, and PLY to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_rgb

from lib.boxes import AHEAD, EDGES, LEFT, UP, Detections, lidar_corners
from lib.datasets.kitti_object import as_results, write_labels
from lib.errors import InputError
from lib.files import write_atomically
from lib.predict.lidar import ScanSettings, View, as_measured
from lib.show.detection.scene import QUADS, box_lines, colour_of

BOX_FILES = (".json", ".txt", ".ply")
BAR = 0.06  # m, the thickness of the bars that draw a box's edges in a .ply
COLUMNS = ("x", "y", "z", "length", "width", "height", "yaw")
CONVENTION = (
    "LiDAR frame: x ahead, y left, z up, in metres; x y z is the geometric centre, the length lies along the heading, "
    "yaw is counter-clockwise from x, in radians"
)


def write_boxes(
    out: Path,
    found: Detections,
    points: np.ndarray,
    settings: ScanSettings,
    view: View | None = None,
    about: dict[str, Any] | None = None,
) -> None:
    """Writes boxes as the name's ending says, whole or not at all.

    .json: boxes, scores, labels and class names, with the convention in words; about: more to note. .txt: KITTI's
    result lines, which need ``view``. .ply: the points and the edges of the boxes as thin coloured bars, in the axes of
    the input. points (N, 4): the scan, LiDAR frame, raised. Raises InputError for another ending, and for .txt without
    a view.
    """
    ending = out.suffix.lower()
    if ending == ".json":
        write_atomically(out, encode_json(found, about or {}))
    elif ending == ".ply":
        write_atomically(out, encode_ply(as_measured(points, settings), found, settings.turn.T))
    elif ending == ".txt":
        if view is None:
            raise InputError(f"--out {out}: KITTI's result lines need --calib and --image")
        write_labels(out, as_results(found, view.calibration, view.size))
    else:
        raise InputError(f"--out {out}: boxes are written as {', '.join(BOX_FILES)}")


def encode_json(found: Detections, about: dict[str, Any]) -> bytes:
    """Boxes as JSON; ``read_boxes`` reads it."""
    labels = found.labels.tolist()
    content = {
        **about,
        "convention": CONVENTION,
        "columns": COLUMNS,
        "classes": found.classes,
        "boxes": [[round(value, 6) for value in box] for box in found.boxes.tolist()],
        "scores": [round(score, 6) for score in found.scores.tolist()],
        "labels": labels,
        "names": [found.classes[label] for label in labels],
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def holds_boxes(path: Path) -> bool:
    """Whether a file looks like one that ``encode_json`` wrote."""
    try:
        return "convention" in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def read_boxes(path: Path) -> Detections:
    """The boxes of a .json that ``encode_json`` wrote. Raises InputError for anything else."""
    try:
        content = json.loads(path.read_bytes())
        classes = tuple(str(name) for name in content["classes"])
        boxes = torch.tensor(content["boxes"], dtype=torch.float32).reshape(-1, 7)  # an empty list has no columns
        scores = torch.tensor(content["scores"], dtype=torch.float32)
        labels = torch.tensor(content["labels"], dtype=torch.int64)
        fits = len(boxes) == len(scores) == len(labels) and bool(boxes.isfinite().all() and scores.isfinite().all())
        fits = fits and all(0 <= label < len(classes) for label in labels.tolist())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError):
        fits = False
    if not fits:
        raise InputError(f"{path} is not what predict.py --out FILE.json writes for a detector: run predict.py again")
    return Detections(boxes, scores, labels, classes)


def encode_ply(xyz: np.ndarray, found: Detections, turn: np.ndarray) -> bytes:
    """A binary PLY: points (N, 3) in grey, and the edges of the boxes as bars in the colour of their class.

    xyz: LiDAR frame, m. turn (3, 3): turns a column of the LiDAR frame's coordinates into those of the file.
    """
    bars, colours = edge_bars(found)
    corners = lidar_corners(bars).reshape(-1, 3)  # (12 M, 8, 3) -> (96 M, 3)
    vertices = np.empty(
        len(xyz) + len(corners), [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    )
    places = np.concatenate([xyz, corners]) @ turn.T
    paint = np.concatenate([np.full((len(xyz), 3), 128, np.uint8), np.repeat(colours, 8, axis=0)])
    for k, (axis, colour) in enumerate(zip("xyz", ("red", "green", "blue"), strict=True)):
        vertices[axis], vertices[colour] = places[:, k], paint[:, k]
    faces = np.empty(len(bars) * len(QUADS), [("count", "u1"), ("corners", "<i4", 4)])
    faces["count"] = 4
    starts = len(xyz) + 8 * np.arange(len(bars))[:, None, None]  # (12 M, 1, 1)
    faces["corners"] = (starts + QUADS).reshape(-1, 4)  # (12 M, 6, 4) -> (72 M, 4)
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment {len(xyz)} points, then the edges of {len(found.scores)} boxes as bars",
        f"element vertex {len(vertices)}",
        *(f"property float {name}" for name in "xyz"),
        *(f"property uchar {name}" for name in ("red", "green", "blue")),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    return ("\n".join(header) + "\n").encode() + vertices.tobytes() + faces.tobytes()


def edge_bars(found: Detections) -> tuple[np.ndarray, np.ndarray]:
    """The 12 edges of M boxes as thin boxes themselves: ((12 M, 7) LiDAR boxes, (12 M, 3) uint8 colours)."""
    boxes = found.boxes.numpy().astype(np.float64)
    bars = np.repeat(boxes[:, None], len(EDGES), axis=1)  # (M, 12, 7)
    for k, (start, end) in enumerate(EDGES):
        along = next(axis for axis, sides in enumerate((AHEAD, LEFT, UP)) if sides[start] != sides[end])
        bars[:, k, 3:6] = BAR
        bars[:, k, 3 + along] += boxes[:, 3 + along]  # as much longer as wide, so that the corners are filled
    bars[..., :3] = box_lines(boxes).mean(axis=2)  # (M, 12, 2, 3) -> (M, 12, 3)
    colours = [to_rgb(colour_of(found.classes[label])) for label in found.labels.tolist()]
    paint = np.round(255 * np.array(colours).reshape(-1, 3)).astype(np.uint8)  # (M, 3), also when M is 0
    return bars.reshape(-1, 7), np.repeat(paint, len(EDGES), axis=0)  # (M, 12, 7) -> (12 M, 7)
