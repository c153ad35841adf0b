"""3-D boxes: the one convention of the project and its conversions.

Two forms of a box are in use. Both are rows of 7 numbers, in metres and radians.

* LiDAR box: (x, y, z, l, w, h, yaw), the geometric centre in the LiDAR frame. See `lidar_corners`.
* Camera box: (x, y, z, h, w, l, rotation_y), the bottom centre in the rectified camera frame, and the size in the
  order of a KITTI label line (which has it before the centre). See `camera_corners`.

The functions take arrays of numpy or tensors of torch, with any leading dimensions, and return the same library and
type; they compute in that type, so give float64 where a millionth of a metre counts. InputError: another shape or type.
A 4 x 4 matrix M takes LiDAR points to the rectified camera (Calibration.lidar_to_camera of lib/camera.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from lib.errors import InputError

Array = np.ndarray | torch.Tensor


class Detections(NamedTuple):
    """What a detector finds in one cloud or image: M objects, by falling score."""

    boxes: torch.Tensor  # (M, 7) LiDAR boxes
    scores: torch.Tensor  # (M,) 0 to 1
    labels: torch.Tensor  # (M,) int64, places in ``classes``
    classes: tuple[str, ...]

    def take(self, rows: torch.Tensor) -> Detections:
        """Some of the objects. rows: (M,) bool, or places in M."""
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows], self.classes)

    def within(self, limits: Sequence[float]) -> Detections:
        """The objects whose centre, seen from above, lies within low x, y, z and high x, y, z (m); low included."""
        low, high = (self.boxes.new_tensor(tuple(limits[i : i + 2])) for i in (0, 3))  # x, y
        return self.take(((self.boxes[:, :2] >= low) & (self.boxes[:, :2] < high)).all(1))


# Which side of the centre each of the 8 corners lies on: 0 to 3 are the bottom, 4 to 7 the top above them.
AHEAD = (1, 1, -1, -1, 1, 1, -1, -1)
LEFT = (1, -1, -1, 1, 1, -1, -1, 1)
UP = (-1, -1, -1, -1, 1, 1, 1, 1)
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
NEAREST_DEPTH = 0.01  # m; what lies nearer to the image plane, or behind it, is cut off before a box is projected


def wrap_angle(angle: Array) -> Array:
    """Angles in rad, of any shape, brought to [-pi, pi) by adding a multiple of 2 pi."""
    library = _library(angle)
    wrapped = angle - 2 * math.pi * library.floor((angle + math.pi) / (2 * math.pi))
    return library.where(wrapped >= math.pi, wrapped - 2 * math.pi, wrapped)  # rounding can end at pi itself


def lidar_corners(boxes: Array) -> Array:
    """The corners (..., 8, 3) in metres of LiDAR boxes (..., 7).

        seen from above                        seen from the left

          3 ------------- 0                  7/6 ------------- 4/5
          |               |   ^ left          |                 |   ^
          |       o  =====|==> heading        |        o  ======|   | h
          |               |   w               |                 |   v
          2 ------------- 1                  3/2 ------------- 0/1
          <------ l ------>                   <------- l ------->

        frame: x ahead, y left, z up          o = (x, y, z), the geometric centre

                 x  (yaw = 0)
                 ^
                 |    yaw: counter-clockwise seen from above, from +x
        y <------+
        (yaw = pi/2)

    Corners 0 to 3 are the bottom, 4 to 7 lie above 0 to 3. They are the same corners as those of `camera_corners`.
    """
    _check(boxes)
    x, y, z, length, width, height, yaw = (boxes[..., i, None] for i in range(7))  # each (..., 1)
    ahead, left = _as(AHEAD, boxes) * length / 2, _as(LEFT, boxes) * width / 2  # (..., 8)
    cos, sin = _library(boxes).cos(yaw), _library(boxes).sin(yaw)
    return _stack(
        (x + cos * ahead - sin * left, y + sin * ahead + cos * left, z + _as(UP, boxes) * height / 2)
    )  # (..., 8, 3)


def camera_corners(boxes: Array) -> Array:
    """The corners (..., 8, 3) in metres, in the rectified camera frame, of camera boxes (..., 7).

        seen from above (rotation_y = 0)       seen from behind the camera (rotation_y = 0)

        z                                      +----> x
        ^   3 ------------- 0                  |
        |   |               |                  v    7/6 ------------- 4/5
        |   |       o  =====|==> heading       y     |                 |  h
        |   |               |   w                    |                 |
        |   2 ------------- 1                       3/2 ------ o ---- 0/1
        |   <------ l ------>
        +----> x                               frame: x right, y down, z ahead

    o = (x, y, z), the BOTTOM centre. The heading is (cos rotation_y, 0, -sin rotation_y): rotation_y = -pi/2 drives
    away from the camera. Corners 0 to 3 are the bottom (y), 4 to 7 the top (y - h).
    """
    _check(boxes)
    x, y, z, height, width, length, rotation = (boxes[..., i, None] for i in range(7))  # each (..., 1)
    ahead, left = _as(AHEAD, boxes) * length / 2, _as(LEFT, boxes) * width / 2  # (..., 8)
    cos, sin = _library(boxes).cos(rotation), _library(boxes).sin(rotation)
    top = (_as(UP, boxes) + 1) / 2  # 0 for the bottom, 1 for the top
    return _stack((x + cos * ahead + sin * left, y - top * height, z - sin * ahead + cos * left))  # (..., 8, 3)


def camera_to_lidar(boxes: Array, matrix: np.ndarray) -> Array:
    """LiDAR boxes (..., 7) of camera boxes (..., 7).

    matrix: M, 4 x 4. The bottom centre is moved by the inverse of M and then raised by h / 2;
    yaw = -(rotation_y + pi/2), in [-pi, pi). The small tilt between the two frames is left out of the angle, as KITTI's
    users do. Only the centre is exact, therefore: a far corner moves by a few centimetres.
    """
    _check(boxes)
    height, width, length, rotation = (boxes[..., i] for i in range(3, 7))
    centre = _move(boxes[..., :3], np.linalg.inv(matrix))  # (..., 3)
    yaw = wrap_angle(-(rotation + math.pi / 2))
    return _stack((centre[..., 0], centre[..., 1], centre[..., 2] + height / 2, length, width, height, yaw))


def lidar_to_camera(boxes: Array, matrix: np.ndarray) -> Array:
    """Camera boxes (..., 7) of LiDAR boxes (..., 7); rotation_y in [-pi, pi).

    matrix: M, 4 x 4, the same as for `camera_to_lidar`, whose inverse this is.
    """
    _check(boxes)
    x, y, z, length, width, height, yaw = (boxes[..., i] for i in range(7))
    bottom = _move(_stack((x, y, z - height / 2)), matrix)  # (..., 3)
    rotation = wrap_angle(-yaw - math.pi / 2)
    return _stack((bottom[..., 0], bottom[..., 1], bottom[..., 2], height, width, length, rotation))


def observation_angle(boxes: Array) -> Array:
    """alpha (...) of camera boxes (..., 7): rotation_y - atan2(x, z), in [-pi, pi).

    It is the heading relative to the viewing ray: objects with the same alpha look alike, wherever they stand.
    """
    _check(boxes)
    atan2 = torch.atan2 if isinstance(boxes, torch.Tensor) else np.arctan2
    return wrap_angle(boxes[..., 6] - atan2(boxes[..., 0], boxes[..., 2]))


def nearest_bev(boxes: Array) -> Array:
    """Axis-parallel boxes (..., 4) in the ground plane for LiDAR boxes (..., 7): low x, low y, high x, high y, in m.

    BEV means bird's-eye view. The box is turned to the nearest axis: l and w are swapped when yaw (mod pi) is more
    than pi/4 away from 0.
    """
    _check(boxes)
    library = _library(boxes)
    x, y, length, width, yaw = (boxes[..., i] for i in (0, 1, 3, 4, 6))
    away = library.abs(yaw - math.pi * library.floor(yaw / math.pi + 0.5))  # distance to the nearest multiple of pi
    swapped = away > math.pi / 4
    dx, dy = library.where(swapped, width, length) / 2, library.where(swapped, length, width) / 2
    return _stack((x - dx, y - dy, x + dx, y + dy))


def projected_hull(boxes: Array, projection: np.ndarray, nearest: float = NEAREST_DEPTH) -> Array:
    """The rectangles (..., 4) in px around the images of camera boxes (..., 7): left, top, right, bottom.

    They may reach out of the image. projection: P2, 3 x 4. nearest: the depth in m at which a box is cut first, because
    what lies behind the camera has no image. A box that lies behind it altogether gets inf, inf, -inf, -inf.
    """
    library = _library(boxes)
    image = _move(camera_corners(boxes), projection)  # (..., 8, 3): u depth, v depth, depth
    first, second = (image[..., [edge[end] for edge in EDGES], :] for end in (0, 1))  # (..., 12, 3)
    starts = library.concatenate((first, second), -2)  # (..., 24, 3) the two ends of every edge
    others = library.concatenate((second, first), -2)  # (..., 24, 3) the other end
    depth, other = starts[..., 2:], others[..., 2:]  # (..., 24, 1)
    cut = (depth < nearest) & (other >= nearest)
    step = library.where(cut, other - depth, library.ones_like(depth))
    ends = library.where(cut, starts + (nearest - depth) / step * (others - starts), starts)
    seen = library.where(cut, other, depth) >= nearest  # (..., 24, 1)
    pixels = ends[..., :2] / library.where(seen, ends[..., 2:], library.ones_like(depth))  # (..., 24, 2)
    low = _smallest(library.where(seen, pixels, library.full_like(pixels, math.inf)))  # (..., 2)
    high = -_smallest(library.where(seen, -pixels, library.full_like(pixels, math.inf)))  # (..., 2)
    return library.concatenate((low, high), -1)


def projected_box(boxes: Array, projection: np.ndarray, size: tuple[int, int]) -> tuple[Array, Array]:
    """The 2-D boxes that camera boxes (..., 7) fill in an image.

    projection: P2, 3 x 4. size: (width, height) of the image in px.
    Returns (rectangles, visible). rectangles (..., 4): left, top, right, bottom in px, the hull of the 8 projected
    corners, clipped to [0, width - 1] x [0, height - 1]. visible (...), bool: something is left after the clipping;
    where it is False the rectangle is without area and means nothing.
    A box that reaches behind the camera is cut at a depth of 0.01 m first: corners behind it have no image.
    """
    library = _library(boxes)
    hull = projected_hull(boxes, projection)  # (..., 4)
    last = (size[0] - 1, size[1] - 1)
    left, top = (library.clip(hull[..., i], 0, last[i]) for i in (0, 1))
    right, bottom = (library.clip(hull[..., 2 + i], 0, last[i]) for i in (0, 1))
    return _stack((left, top, right, bottom)), (right > left) & (bottom > top)


def _check(boxes: Array) -> None:
    if boxes.shape[-1:] != (7,):
        raise InputError(f"boxes have shape {tuple(boxes.shape)}; the last dimension must hold the 7 numbers of a box")
    whole = not boxes.is_floating_point() if isinstance(boxes, torch.Tensor) else boxes.dtype.kind != "f"
    if whole:
        raise InputError(f"boxes have dtype {boxes.dtype}; give them as float32 or float64")


def _library(values: Array):  # the module torch or numpy
    return torch if isinstance(values, torch.Tensor) else np


def _stack(parts: tuple[Array, ...]) -> Array:
    return _library(parts[0]).stack(parts, -1)


def _smallest(values: Array) -> Array:
    """The least value over the last dimension but one."""
    return values.amin(-2) if isinstance(values, torch.Tensor) else values.min(axis=-2)


def _as(values: np.ndarray | tuple[int, ...], model: Array) -> Array:
    """Constants in the library, the type and on the device of a model array."""
    if isinstance(model, torch.Tensor):
        return torch.as_tensor(values, dtype=model.dtype, device=model.device)
    return np.asarray(values, dtype=model.dtype)


def _move(points: Array, matrix: np.ndarray) -> Array:
    """Points (..., 3) under a 3 x 4 matrix, or the first three rows of a 4 x 4 one."""
    matrix = _as(matrix, points)
    return points @ matrix[:3, :3].T + matrix[:3, 3]
