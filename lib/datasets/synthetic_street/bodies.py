"""What the things of the street are made of: boxes, vertical elliptic cylinders and ellipsoids.

Object frame: x along the length, y to the left, z up from the ground; the origin is the middle of the ground rectangle.
Metres and radians. The bodies of a car, van, pedestrian or cyclist lie inside its box (l, w, h).
Cars, vans, pedestrians and cyclists are our own simple shapes, no model of any data set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

BOX, CYLINDER, ELLIPSOID = 0, 1, 2
HEAD = (0.10, 0.09, 0.13)  # m, the half axes of a head

# What a body is made of. A sensor turns it into an albedo (lidar.py) or a colour.
PAINT, CABIN, COAT, TROUSERS, HEAD_SKIN, MACHINE, WALL, WOOD, LEAVES, CLUTTER = range(10)


class Part(NamedTuple):
    """One body in the object frame.

    half: half its edges or half its axes, in m. A cylinder stands along z: its third number is half its height.
    """

    shape: int
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    material: int


class Bodies(NamedTuple):
    """n bodies that stand in the street frame."""

    shape: np.ndarray  # (n,) BOX, CYLINDER or ELLIPSOID
    centre: np.ndarray  # (n, 3) m
    half: np.ndarray  # (n, 3) m
    yaw: np.ndarray  # (n,) rad, counter-clockwise seen from above
    material: np.ndarray  # (n,) PAINT to CLUTTER
    owner: np.ndarray  # (n,) the thing each body belongs to; never falling


def place(things: list[tuple[list[Part], float, float, float]]) -> Bodies:
    """The bodies of things, each given as (parts, x, y, yaw): where its origin stands in the street, m and rad."""
    shape, centre, half, turns, material, owner = [], [], [], [], [], []
    for number, (parts, x, y, yaw) in enumerate(things):
        cos, sin = np.cos(yaw), np.sin(yaw)
        for part in parts:
            a, b, z = part.centre
            shape.append(part.shape)
            centre.append((x + cos * a - sin * b, y + sin * a + cos * b, z))
            half.append(part.half)
            turns.append(yaw)
            material.append(part.material)
            owner.append(number)
    return Bodies(
        np.array(shape, dtype=np.int64),
        np.array(centre, dtype=np.float64).reshape(-1, 3),  # (n, 3), also when n is 0
        np.array(half, dtype=np.float64).reshape(-1, 3),
        np.array(turns, dtype=np.float64),
        np.array(material, dtype=np.int64),
        np.array(owner, dtype=np.int64),
    )


def to_local(bodies: Bodies, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Street vectors (R, 3), turned into the axes of the bodies `rows` (R,). For a point subtract the centre first."""
    cos, sin = np.cos(bodies.yaw)[rows], np.sin(bodies.yaw)[rows]
    x, y, z = vectors.T
    return np.stack((cos * x + sin * y, cos * y - sin * x, z), -1)


def normals(bodies: Bodies, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The outward unit normals (R, 3), street frame, where the points (R, 3) lie on the surfaces of bodies `rows`."""
    half, shape = bodies.half[rows], bodies.shape[rows]
    unit = to_local(bodies, rows, points - bodies.centre[rows]) / half  # the surface at 1
    face = np.abs(unit) == np.abs(unit).max(1, keepdims=True)  # a box: the axis whose face is reached
    lid = np.abs(unit[:, 2]) > np.hypot(unit[:, 0], unit[:, 1])  # a cylinder: its end, not its mantle
    flat = np.where(face, np.sign(unit), 0.0)
    end = np.stack((np.zeros(len(rows)), np.zeros(len(rows)), np.sign(unit[:, 2])), -1)
    round_ = unit / half  # the gradient of |unit|^2, but for a factor
    mantle = round_ * (1.0, 1.0, 0.0)
    normal = np.where((shape == BOX)[:, None], flat, round_)
    tube = (shape == CYLINDER)[:, None]
    normal = np.where(tube & lid[:, None], end, np.where(tube, mantle, normal))
    normal /= np.sqrt((normal**2).sum(1, keepdims=True))
    cos, sin = np.cos(bodies.yaw)[rows], np.sin(bodies.yaw)[rows]
    x, y, z = normal.T
    return np.stack((cos * x - sin * y, sin * x + cos * y, z), -1)


# The kinds of things: size in m -> parts


def car(length: float, width: float, height: float) -> list[Part]:
    """A body and a cabin."""
    return _vehicle(length, width, height, split=0.60, cabin=0.58, shift=-0.06)


def van(length: float, width: float, height: float) -> list[Part]:
    """As a car, with a longer cabin that begins lower."""
    return _vehicle(length, width, height, split=0.55, cabin=0.85, shift=-0.06)


def pedestrian(length: float, width: float, height: float) -> list[Part]:
    """A torso, two legs one step apart, a head."""
    radius = 0.16 * width + 0.02
    step, aside, hip = length / 2 - radius, 0.12 * width, 0.45 * height
    return [
        _upright(CYLINDER, (0.0, 0.0), (0.30 * length, width / 2), (hip, 0.84 * height), COAT),
        _upright(CYLINDER, (step, aside), (radius, radius), (0.0, hip), TROUSERS),
        _upright(CYLINDER, (-step, -aside), (radius, radius), (0.0, hip), TROUSERS),
        _head(0.0, height),
    ]


def cyclist(length: float, width: float, height: float) -> list[Part]:
    """A bicycle of boxes, and its rider."""
    wheel = length / 2 - 0.31
    return [
        _upright(BOX, (wheel, 0.0), (0.31, 0.03), (0.0, 0.66), MACHINE),
        _upright(BOX, (-wheel, 0.0), (0.31, 0.03), (0.0, 0.66), MACHINE),
        _upright(BOX, (0.0, 0.0), (0.25 * length, 0.03), (0.50, 0.74), MACHINE),
        Part(BOX, (0.22 * length, 0.0, 0.58 * height), (0.03, width / 2, 0.03), MACHINE),
        _upright(CYLINDER, (-0.05 * length, 0.0), (0.20, 0.40 * width), (0.50 * height, 0.86 * height), COAT),
        _upright(CYLINDER, (0.02 * length, 0.14), (0.08, 0.07), (0.19 * height, 0.51 * height), TROUSERS),
        _upright(CYLINDER, (0.02 * length, -0.14), (0.08, 0.07), (0.19 * height, 0.51 * height), TROUSERS),
        _head(-0.05 * length, height),
    ]


def block(material: int) -> Callable[[float, float, float], list[Part]]:
    """One box of a material."""
    return lambda length, width, height: [
        _upright(BOX, (0.0, 0.0), (length / 2, width / 2), (0.0, height), material),
    ]


def column(length: float, width: float, height: float) -> list[Part]:
    """A pole or a post: one cylinder."""
    return [_upright(CYLINDER, (0.0, 0.0), (length / 2, width / 2), (0.0, height), CLUTTER)]


def tree(radius: float, height: float, crown: tuple[float, float, float]) -> list[Part]:
    """A trunk and a crown, an ellipsoid with these half axes whose centre is 0.8 m above the trunk."""
    return [
        _upright(CYLINDER, (0.0, 0.0), (radius, radius), (0.0, height), WOOD),
        Part(ELLIPSOID, (0.0, 0.0, height + 0.8), crown, LEAVES),
    ]


PARTS: dict[str, Callable[[float, float, float], list[Part]]] = {
    "Car": car,
    "Van": van,
    "Pedestrian": pedestrian,
    "Cyclist": cyclist,
    "Building": block(WALL),
    "Pole": column,
    "Post": column,
    "Bin": block(CLUTTER),
    "Container": block(CLUTTER),
    "Hedge": block(LEAVES),
}


def _vehicle(length: float, width: float, height: float, split: float, cabin: float, shift: float) -> list[Part]:
    """split: the height where the cabin begins, cabin: its length, shift: its middle, all as shares of the box."""
    middle = split * height
    return [
        _upright(BOX, (0.0, 0.0), (length / 2, width / 2), (0.22, middle), PAINT),
        _upright(BOX, (shift * length, 0.0), (cabin * length / 2, 0.46 * width), (middle, height), CABIN),
    ]


def _head(x: float, height: float) -> Part:
    return Part(ELLIPSOID, (x, 0.0, height - HEAD[2]), HEAD, HEAD_SKIN)


def _upright(
    shape: int, middle: tuple[float, float], half: tuple[float, float], reach: tuple[float, float], material: int
) -> Part:
    """A box or a cylinder that stands from reach[0] to reach[1] above the ground."""
    low, high = reach
    return Part(shape, (*middle, (low + high) / 2), (*half, (high - low) / 2), material)
