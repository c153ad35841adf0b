"""The label lines of the street's objects, as KITTI's annotators would have written them.

An object is labelled when its 2-D box is at least 2 px wide and high inside the image. One that is all but hidden, or
too near, becomes a DontCare line: a 2-D box without an object.
"""

from __future__ import annotations

import numpy as np

from lib.boxes import lidar_to_camera, observation_angle, projected_hull
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

    shares: the visible share of each thing (lib/datasets/synthetic_street/lidar.py). size: of the image in px.
    """
    labels, ignored = [], []
    for number, thing in enumerate(world.things):
        if thing.kind not in OBJECTS:
            continue
        box = lidar_to_camera(lidar_box(world, number), calibration.lidar_to_camera)
        hull = projected_hull(box, calibration.P2, CUT)  # left, top, right, bottom
        clipped = np.clip(hull, 0.0, np.array((*size, *size)) - 1.0)
        if not np.isfinite(hull).all() or min(clipped[2:] - clipped[:2]) < SMALLEST:
            continue
        box2d = _rounded(clipped)
        occluded = sum(shares.get(number, 0.0) < least for least in OCCLUSION)  # 3: nothing to be seen
        if occluded == len(OCCLUSION) or box[2] < NEAREST:
            ignored.append(Label("DontCare", -1.0, -1, -10.0, box2d, NO_BOX))
            continue
        truncated = 1.0 - np.prod(clipped[2:] - clipped[:2]) / np.prod(hull[2:] - hull[:2])
        box3d = _rounded(box)
        labels.append(
            Label(thing.kind, round(float(truncated), 6), occluded, _rounded([observation_angle(box)])[0], box2d, box3d)
        )
    return labels + ignored


def lidar_box(world: World, number: int) -> np.ndarray:
    """The box (7,) of a thing in the LiDAR frame: x, y, z (middle), l, w, h in m, yaw in rad."""
    thing = world.things[number]
    x, y = thing.x - world.eye[0], thing.y - world.eye[1]
    cos, sin = np.cos(world.heading), np.sin(world.heading)
    place = (cos * x + sin * y, cos * y - sin * x, thing.size[2] / 2 - world.eye[2])
    return np.array((*place, *thing.size, thing.yaw - world.heading))


def _rounded(values: np.ndarray | list) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
