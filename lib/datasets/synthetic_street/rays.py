"""The first surface on each ray of a fan, by exact intersection.

A fan is a grid of rays from one eye. The rays of a column have one azimuth, as the rays of a turning LiDAR have, and
those of a camera that looks level. So what a body may meet is a window of rows and columns, and only these rays are
tried. In a body's own axes, divided by its half size, a box is |x|, |y|, |z| <= 1, an ellipsoid x^2 + y^2 + z^2 <= 1,
a cylinder x^2 + y^2 <= 1 and |z| <= 1. A ray is inside each such set for one interval.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lib.datasets.synthetic_street.bodies import BOX, ELLIPSOID, Bodies

GROUND = -1  # the index that stands for the ground, z = 0
TINY = 1e-12  # what a direction's zero is replaced with, so that nothing is divided by 0
SLACK = 1e-6  # rad, and the same for slopes: added to a window against rounding


class Fan(NamedTuple):
    """Rays from one eye in H rows and W columns, street frame."""

    eye: np.ndarray  # (3,) m
    directions: np.ndarray  # (3, H, W) unit vectors: x, y, z
    azimuths: np.ndarray  # (W,) rad, falling: from left to right; within half a turn around x ahead
    slopes: np.ndarray  # (2, H) the least and the largest z / horizontal distance of each row; both fall with the row


class Window(NamedTuple):
    """The distances (m; inf: missed) at which one thing alone would be met, on the rays that may meet it."""

    rows: slice
    columns: slice
    distance: np.ndarray


class Hits(NamedTuple):
    """Where the rays end."""

    distance: np.ndarray  # (H, W) m; inf where nothing is met
    body: np.ndarray  # (H, W) the body that is met, or GROUND; GROUND too where nothing is
    alone: dict[int, Window]  # thing -> what it would get if nothing else were there; no entry: no ray may meet it


def cast(bodies: Bodies, fan: Fan) -> Hits:
    """The first hit of every ray among the bodies and the ground."""
    down = fan.directions[2]
    distance = np.where(down < 0.0, fan.eye[2] / np.maximum(-down, TINY), np.inf)  # (H, W) the ground
    body = np.full(distance.shape, GROUND)
    alone = {}
    origin, low, high = _windows(bodies, fan)
    bounds = np.flatnonzero(np.diff(bodies.owner, prepend=-1, append=-1))  # where one thing's bodies end
    for start, end in pairwise(bounds.tolist()):
        members = [i for i in range(start, end) if (low[i] < high[i]).all()]
        if not members:
            continue
        (top, left), (bottom, right) = low[members].min(0), high[members].max(0)
        own = np.full((bottom - top, right - left), np.inf)
        which = np.full(own.shape, GROUND)
        for i in members:
            rows, columns = slice(low[i, 0], high[i, 0]), slice(low[i, 1], high[i, 1])
            met = _entry(bodies, i, origin[i], fan.directions[:, rows, columns])
            part = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
            closer = met < own[part]
            own[part][closer] = met[closer]
            which[part][closer] = i
        window = slice(top, bottom), slice(left, right)
        closer = own < distance[window]
        distance[window][closer] = own[closer]
        body[window][closer] = which[closer]
        alone[int(bodies.owner[start])] = Window(*window, own)
    return Hits(distance, body, alone)


def _windows(bodies: Bodies, fan: Fan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The eye in each body's axes (n, 3), and the rays that may meet it: low (n, 2) to high (n, 2), row and column."""
    away = bodies.centre - fan.eye  # (n, 3)
    cos, sin = np.cos(bodies.yaw), np.sin(bodies.yaw)
    origin = -np.stack((cos * away[:, 0] + sin * away[:, 1], cos * away[:, 1] - sin * away[:, 0], away[:, 2]), -1)
    flat, half = np.abs(origin[:, :2]), bodies.half[:, :2]  # (n, 2)
    nearest = np.sqrt((np.maximum(flat - half, 0.0) ** 2).sum(1))  # (n,) to the ground rectangle, from above
    farthest = np.sqrt(((flat + half) ** 2).sum(1))
    top, bottom = away[:, 2] + bodies.half[:, 2], away[:, 2] - bodies.half[:, 2]
    near = np.maximum(nearest, TINY)
    steepest = np.where(top > 0.0, top / near, top / farthest) + SLACK
    lowest = np.where(bottom > 0.0, bottom / farthest, bottom / near) - SLACK

    # Corners of the ground rectangle, as angles from the direction of its middle: less than half a turn apart.
    middle = np.arctan2(away[:, 1], away[:, 0])  # (n,)
    signs = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]])
    corners = half[:, None] * signs - origin[:, None, :2]  # (n, 4, 2) from the eye, in the body's axes
    angle = np.arctan2(corners[..., 1], corners[..., 0]) + (bodies.yaw - middle)[:, None]
    angle -= 2 * np.pi * np.round(angle / (2 * np.pi))  # (n, 4) in [-pi, pi]
    around = nearest == 0.0  # the eye is above, below or in it
    leftmost = np.where(around, np.inf, middle + angle.max(1) + SLACK)
    rightmost = np.where(around, -np.inf, middle + angle.min(1) - SLACK)

    least, most = fan.slopes
    low = (np.searchsorted(-least, -steepest), np.searchsorted(-fan.azimuths, -leftmost))
    high = (np.searchsorted(-most, -lowest, "right"), np.searchsorted(-fan.azimuths, -rightmost, "right"))
    return origin, np.stack(low, -1), np.stack(high, -1)


def _entry(bodies: Bodies, i: int, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """The distance (h, w) at which rays enter body i; inf where they miss it, or where the eye lies in it.

    origin (3,): the eye in the body's axes. directions (3, h, w): of the rays, in the street frame.
    """
    x, y, z = directions
    cos, sin, half = np.cos(bodies.yaw[i]), np.sin(bodies.yaw[i]), bodies.half[i]
    a, b, c = origin / half
    x, y, z = (cos * x + sin * y) / half[0], (cos * y - sin * x) / half[1], z / half[2]
    if bodies.shape[i] == BOX:
        start, end = _slab(a, x)
        for o, d in ((b, y), (c, z)):
            near, far = _slab(o, d)
            start, end = np.maximum(start, near), np.minimum(end, far)
    elif bodies.shape[i] == ELLIPSOID:
        start, end = _ball(x * x + y * y + z * z, a * x + b * y + c * z, a * a + b * b + c * c)
    else:
        start, end = _ball(np.maximum(x * x + y * y, TINY), a * x + b * y, a * a + b * b)
        near, far = _slab(c, z)
        start, end = np.maximum(start, near), np.minimum(end, far)
    return np.where((start < end) & (start > 0.0), start, np.inf)


def _slab(o: float, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where o + t d lies between -1 and 1: from t to t."""
    inverse = 1.0 / np.where(np.abs(d) < TINY, TINY, d)
    middle, reach = -o * inverse, np.abs(inverse)
    return middle - reach, middle + reach


def _ball(square: np.ndarray, dot: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Where |o + t d|^2 <= 1, from t to t, for square = d.d, dot = o.d, distance = o.o; never: from inf to -inf."""
    discriminant = dot * dot - square * (distance - 1.0)
    root = np.sqrt(np.maximum(discriminant, 0.0))
    met = discriminant > 0.0
    return np.where(met, (-dot - root) / square, np.inf), np.where(met, (-dot + root) / square, -np.inf)
