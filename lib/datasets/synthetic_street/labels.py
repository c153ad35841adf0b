"""The label lines of the street's objects, as KITTI's annotators would have written them.

An object is labelled when its 2-D box is at least 2 px wide and high inside the image. One that is all but hidden, or
too near, becomes a DontCare line: a 2-D box without an object.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lib.boxes import lidar_to_camera, observation_angle, projected_hull, wrap_angle
from lib.camera import Calibration
from lib.datasets.kitti_object.labels import Label
from lib.datasets.synthetic_street.world import OBJECTS, World

CUT = 0.1  # m, the depth at which boxes are cut before they are projected
SMALLEST = 2.0  # px
NEAREST = 2.5  # m, the depth of an object's middle
NO_BOX = (-1000.0, -1000.0, -1000.0, -1.0, -1.0, -1.0, -10.0)  # of a DontCare line
OCCLUSION = (0.8, 0.4, 0.1)  # the least visible share of the levels 0, 1, 2


def label_objects(
    world: World, shares: dict[int, float], calibration: Calibration, size: tuple[int, int]
) -> list[Label]:
    """The labels in the order of the things, then the DontCare lines. Numbers have six decimals, as in a file.

    shares: the visible share of each thing (visible_shares of lidar.py). size: (width, height) of the image in px.
    """
    numbers = [number for number, thing in enumerate(world.things) if thing.kind in OBJECTS]
    boxes = lidar_to_camera(lidar_boxes(world)[numbers], calibration.lidar_to_camera)  # (n, 7)
    hulls = projected_hull(boxes, calibration.P2, CUT)  # (n, 4) left, top, right, bottom
    clipped = np.clip(hulls, 0.0, np.array((*size, *size)) - 1.0)
    edges, unclipped = clipped[:, 2:] - clipped[:, :2], hulls[:, 2:] - hulls[:, :2]  # (n, 2) px
    labels, ignored = [], []
    for i in np.flatnonzero((edges >= SMALLEST).all(1)):  # what lies behind the camera has -inf here
        box2d = _rounded(clipped[i])
        level = sum(shares.get(numbers[i], 0.0) < least for least in OCCLUSION)
        if level == len(OCCLUSION) or boxes[i, 2] < NEAREST:
            ignored.append(Label("DontCare", -1.0, -1, -10.0, box2d, NO_BOX))
        else:
            truncated, alpha = _rounded((1.0 - edges[i].prod() / unclipped[i].prod(), observation_angle(boxes[i])))
            kind = world.things[numbers[i]].kind
            labels.append(Label(kind, truncated, level, alpha, box2d, _rounded(boxes[i])))
    return labels + ignored


def lidar_boxes(world: World) -> np.ndarray:
    """The boxes (n, 7) of all things in the LiDAR frame: x, y, z (middle), l, w, h in m, yaw in rad."""
    x, y, yaw = np.array([(thing.x, thing.y, thing.yaw) for thing in world.things]).reshape(-1, 3).T  # (3, n)
    sizes = np.array([thing.size for thing in world.things]).reshape(-1, 3)  # (n, 3)
    x, y = x - world.eye[0], y - world.eye[1]
    cos, sin = np.cos(world.heading), np.sin(world.heading)
    middle = (cos * x + sin * y, cos * y - sin * x, sizes[:, 2] / 2 - world.eye[2])
    return np.column_stack((*middle, sizes, wrap_angle(yaw - world.heading)))


def _rounded(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
