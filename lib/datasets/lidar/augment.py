"""Augmentation of clouds with boxes, as PointPillars, SECOND and PointRCNN are trained.

All randomness comes from the generator passed in. Lengths are in metres, angles in radians, everything in the LiDAR
frame: x ahead, y left, z up. Boxes are the LiDAR boxes of lib/boxes.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from lib.boxes import wrap_angle
from lib.datasets.lidar.database import Database
from lib.ops import bev_iou, points_in_boxes

OTHER = -1  # the label of an object of another type: nothing may be put onto it, and it is no object of the sample

Range = tuple[float, float, float, float, float, float]  # low x, y, z, high x, y, z


class Scene(NamedTuple):
    """A cloud and the objects in it."""

    points: np.ndarray  # (N, 4) float32: x, y, z, reflectance
    boxes: np.ndarray  # (M, 7) float64
    labels: np.ndarray  # (M,) int64: places in the classes, or OTHER


class Augmentation(NamedTuple):
    """What is done to a training scene.

    steps: in their order, some of "database", "noise", "flip", "turn", "scale"; and "range", which must be there.
    """

    steps: tuple[str, ...]
    fill: dict[str, int] = {}  # database: objects of each class are added up to these counts
    fewest: dict[str, int] = {}  # database: only objects with so many points, where the class stands here
    flip: float = 0.5  # how probable it is that left and right change sides
    turn: float = math.pi / 4  # the scene turns about z by up to this angle, either way
    scale: tuple[float, float] = (0.95, 1.05)
    tries: int = 100  # noise: places that are tried for each object
    shift: tuple[float, float, float] = (1.0, 1.0, 0.5)  # noise: standard deviation along x, y, z
    object_turn: float = math.pi / 4  # noise: an object turns about its own centre by up to this angle, either way


PLAIN = Augmentation(("range",))
POINTPILLARS = Augmentation(
    ("database", "flip", "turn", "scale", "range"), fill={"Car": 15, "Pedestrian": 15, "Cyclist": 15}
)
SECOND = Augmentation(
    ("database", "noise", "flip", "turn", "scale", "range"),
    fill={"Car": 12, "Pedestrian": 6, "Cyclist": 6},
    fewest={"Pedestrian": 10, "Cyclist": 10},
)
POINTRCNN = Augmentation(
    ("range", "database", "flip", "noise", "turn", "scale"),
    fill={"Car": 20, "Pedestrian": 15, "Cyclist": 15},
)
SMALL = Augmentation(("flip", "turn", "scale", "range"), turn=math.radians(22.5))  # our choice


def augment_scene(
    scene: Scene,
    settings: Augmentation,
    classes: Sequence[str],
    area: Range,
    database: Database | None = None,
    rng: np.random.Generator | None = None,
) -> Scene:
    """The scene after all steps of the settings. PLAIN draws nothing, and needs no generator.

    classes: what the labels are places in. area: the range that "range" cuts out. database: where "database" takes
    objects from.
    """
    for step in settings.steps:
        if step == "range":
            scene = crop(scene, area)
        elif step == "database":
            scene = add_objects(scene, settings, classes, database, rng)
        elif step == "noise":
            scene = move_objects(scene, settings, rng)
        elif step == "flip":
            scene = flip(scene) if rng.random() < settings.flip else scene
        elif step == "turn":
            scene = turn(scene, rng.uniform(-settings.turn, settings.turn))
        elif step == "scale":
            scene = scale(scene, rng.uniform(*settings.scale))
        else:
            raise ValueError(f"an augmentation has no step {step!r}")
    return scene


def crop(scene: Scene, area: Range) -> Scene:
    """The part inside a range: points with low <= x, y, z < high, and objects whose centre is strictly inside in x, y.

    Points are compared in float32, as they are put into cells. Objects of other types stay, wherever they are.
    """
    low, high = np.array(area[:3]), np.array(area[3:])
    xyz = scene.points[:, :3]
    kept = ((xyz >= low.astype(np.float32)) & (xyz < high.astype(np.float32))).all(1)
    centres = scene.boxes[:, :2]
    inside = ((centres > low[:2]) & (centres < high[:2])).all(1) | (scene.labels == OTHER)
    return Scene(scene.points[kept], scene.boxes[inside], scene.labels[inside])


def flip(scene: Scene) -> Scene:
    """Left and right change sides: y becomes -y, yaw becomes -yaw."""
    points, boxes = scene.points.copy(), scene.boxes.copy()
    points[:, 1] = -points[:, 1]
    boxes[:, 1] = -boxes[:, 1]
    boxes[:, 6] = wrap_angle(-boxes[:, 6])
    return Scene(points, boxes, scene.labels)


def turn(scene: Scene, angle: float) -> Scene:
    """The scene turned about the z axis of the sensor, counter-clockwise seen from above."""
    points, boxes = scene.points.copy(), scene.boxes.copy()
    points[:, :2] = points[:, :2] @ _turning(angle).astype(np.float32)
    boxes[:, :2] = boxes[:, :2] @ _turning(angle)
    boxes[:, 6] = wrap_angle(boxes[:, 6] + angle)
    return Scene(points, boxes, scene.labels)


def scale(scene: Scene, factor: float) -> Scene:
    """The scene enlarged from the sensor: points, centres and sizes times the factor."""
    points, boxes = scene.points.copy(), scene.boxes.copy()
    points[:, :3] *= np.float32(factor)
    boxes[:, :6] *= factor
    return Scene(points, boxes, scene.labels)


def add_objects(
    scene: Scene, settings: Augmentation, classes: Sequence[str], database: Database, rng: np.random.Generator
) -> Scene:
    """Objects of a database (SECOND, Yan et al., Sensors 2018), put where they stood in their own frame.

    Each class of `fill` gets as many candidates as it lacks. A candidate is dropped when its rectangle, seen from
    above, meets an object's or that of a candidate accepted before; no other takes its place. Points of the scene
    inside accepted boxes are removed.

    The published code walks through one shuffled list and shuffles again at its end. There a sample depends on all
    samples before it. Ours depends on its generator alone: the candidates are the first ones of a permutation of the
    class's list, drawn anew for each sample. A class with fewer objects than are lacking gives them all, once: a
    second copy would meet the first.
    """
    rows, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for name, count in settings.fill.items():
        if name not in classes:
            continue
        label = classes.index(name)
        lacking = max(count - int((scene.labels == label).sum()), 0)
        rows.append(rng.permutation(database.rows(name, settings.fewest.get(name, 0)))[:lacking])
        labels.append(np.full(len(rows[-1]), label))
    row, label = np.concatenate(rows), np.concatenate(labels)  # (C,) the candidates
    boxes = database.boxes[row]
    everything = np.concatenate((scene.boxes, boxes))
    overlaps = _meet(boxes, everything)  # (C, M + C)
    standing = np.arange(len(everything)) < len(scene.boxes)
    for candidate in range(len(row)):
        standing[len(scene.boxes) + candidate] = not (overlaps[candidate] & standing).any()
    accepted = standing[len(scene.boxes) :]
    row, label, boxes = row[accepted], label[accepted], boxes[accepted]
    free = ~_inside(scene.points, boxes).any(0)
    return Scene(
        np.concatenate((scene.points[free], *(database.points_of(k) for k in row.tolist()))),
        np.concatenate((scene.boxes, boxes)),
        np.concatenate((scene.labels, label)),
    )


def move_objects(scene: Scene, settings: Augmentation, rng: np.random.Generator) -> Scene:
    """Noise for each object (SECOND): it is shifted by N(0, shift) and turned about its centre, with its points.

    `tries` places are drawn for each object. The first one where its rectangle, seen from above, meets no other object
    is taken; if there is none, it stays. The objects come in turn, and look at where the others stand by then. A point
    belongs to the first box that holds it.
    """
    points, boxes = scene.points.copy(), scene.boxes.copy()
    shifts = rng.normal(0.0, settings.shift, (len(boxes), settings.tries, 3))
    angles = rng.uniform(-settings.object_turn, settings.object_turn, (len(boxes), settings.tries))
    held = _inside(points, scene.boxes)  # (M, N)
    owner = np.where(held.any(0), held.argmax(0), -1)  # (N,)
    for k in np.flatnonzero(scene.labels != OTHER).tolist():
        places = np.repeat(boxes[k : k + 1], settings.tries, 0)  # (tries, 7)
        places[:, :3] += shifts[k]
        places[:, 6] = wrap_angle(places[:, 6] + angles[k])
        place = _first_free(places, np.delete(boxes, k, 0))
        if place is None:
            continue
        mine = owner == k
        xyz = points[mine, :3] - boxes[k, :3]  # float64
        xyz[:, :2] = xyz[:, :2] @ _turning(angles[k, place])
        points[mine, :3] = xyz + places[place, :3]
        boxes[k] = places[place]
    return Scene(points, boxes, scene.labels)


def _turning(angle: float) -> np.ndarray:
    """The matrix (2, 2) that turns rows (x, y) counter-clockwise: row @ matrix."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def _inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which points (N, 4) lie in which boxes (M, 7): (M, N) bool."""
    return points_in_boxes(torch.from_numpy(points), torch.from_numpy(boxes)).numpy()


def _first_free(places: np.ndarray, others: np.ndarray) -> int | None:
    """The first of some boxes (N, 7) that meets none of the others (M, 7), or None."""
    clear = np.flatnonzero(~_near(places, others).any(1))  # free without a doubt
    doubtful = places[: clear[0]] if len(clear) else places  # the places before it
    free = np.flatnonzero(~_meet(doubtful, others).any(1))
    return int(free[0]) if len(free) else int(clear[0]) if len(clear) else None


def _meet(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which boxes (N, 7) share ground with which others (M, 7): (N, M) bool. Rectangles that only touch do not meet."""
    near = _near(boxes, others)
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    if len(rows):  # the exact test is slow, and few boxes need it
        exact = bev_iou(torch.from_numpy(boxes[rows]), torch.from_numpy(others[columns])).numpy() > 0
        near[np.ix_(rows, columns)] &= exact
    return near


def _near(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which boxes (N, 7) may meet which others (M, 7), as the circles around them overlap: (N, M) bool."""
    radius, other = (np.hypot(rows[:, 3], rows[:, 4]) / 2 for rows in (boxes, others))
    apart = boxes[:, None, :2] - others[None, :, :2]  # (N, M, 2)
    return np.hypot(apart[..., 0], apart[..., 1]) < radius[:, None] + other  # (N, M)
