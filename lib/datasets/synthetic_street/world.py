"""The street: which things stand where. One random stream, drawn in the order of the functions below.

Street frame: x ahead, y to the left, z up, the ground at z = 0; metres, radians. The road lies between y = -4.2 and
7.4: our lane around y = 0, the oncoming one around 3.2, parked cars at -3.0 and 6.2. Pavements lie outside. All numbers
are our choice.

A thing whose ground rectangle, grown by a margin, meets that of an earlier thing is dropped, not drawn again. So the
number of draws says nothing about what stands in the way. Buildings and the crowns of trees are not checked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lib.datasets.synthetic_street import bodies
from lib.datasets.synthetic_street.bodies import Bodies, Part

OBJECTS = ("Car", "Van", "Pedestrian", "Cyclist")  # the things that have a label
ROAD = (-4.2, 7.4)  # m, the y of its edges
PARKING = (-3.0, 6.2)  # m, right and left
FAR = 70.0  # m, where cars end
SENSOR_HEIGHT = 1.73  # m
OWN_CAR = (0.0, 0.0, 0.0, 5.0, 2.2)  # ground rectangle: nothing stands in it
MARGIN, CLUTTER_MARGIN = 0.25, 0.1  # m a side

# Size of an object, m: for l, w and h the mean, the standard deviation, the smallest and the largest.
SIZES = {
    "Car": ((3.9, 0.35, 3.2, 4.8), (1.63, 0.08, 1.45, 1.85), (1.53, 0.10, 1.35, 1.8)),
    "Van": ((5.1, 0.4, 4.4, 6.0), (1.9, 0.1, 1.7, 2.1), (2.1, 0.15, 1.8, 2.5)),
    "Pedestrian": ((0.80, 0.15, 0.5, 1.15), (0.62, 0.08, 0.45, 0.85), (1.76, 0.10, 1.5, 2.0)),
    "Cyclist": ((1.76, 0.10, 1.5, 2.0), (0.60, 0.06, 0.45, 0.75), (1.74, 0.08, 1.5, 1.95)),
}


class Thing(NamedTuple):
    """A thing of the street. x, y: the middle of its ground rectangle."""

    kind: str
    x: float
    y: float
    yaw: float
    size: tuple[float, float, float]  # l, w, h


class World(NamedTuple):
    """A street and where it is seen from."""

    things: list[Thing]
    bodies: Bodies  # their owners are places in `things`
    eye: np.ndarray  # (3,) the LiDAR
    heading: float  # rad, of the LiDAR's x axis


def draw_world(rng: np.random.Generator) -> World:
    """A street from one random stream."""
    street = _Street(rng)
    _traffic(street)
    _crossing_car(street)
    _parked_cars(street)
    _pedestrians(street)
    _cyclists(street)
    _buildings(street)
    _poles(street)
    _trees(street)
    _look_alikes(street)
    eye = np.array([0.0, rng.uniform(-0.8, 0.8), SENSOR_HEIGHT])
    heading = np.deg2rad(rng.normal(0.0, 3.0))
    return World(street.things, bodies.place(street.placed), eye, heading)


class _Street:
    """The things drawn so far."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.things: list[Thing] = []
        self.placed: list[tuple[list[Part], float, float, float]] = []
        self.taken = [OWN_CAR]  # ground rectangles: x, y, yaw, l, w

    def object(self, kind: str, x: float, y: float, degrees: float) -> None:
        """Draws the size of an object and puts it there if there is room."""
        size = tuple(float(np.clip(self.rng.normal(m, sd), low, high)) for m, sd, low, high in SIZES[kind])
        self.put(kind, x, y, degrees, size, MARGIN)

    def put(
        self,
        kind: str,
        x: float,
        y: float,
        degrees: float,
        size: tuple[float, float, float],
        margin: float | None = CLUTTER_MARGIN,
        parts: list[Part] | None = None,
    ) -> None:
        """Puts a thing there if there is room; without a margin always. parts: its bodies, when not by its kind."""
        yaw = float(np.deg2rad(degrees))
        if margin is not None:
            if meets((x, y, yaw, size[0] + 2 * margin, size[1] + 2 * margin), self.taken):
                return
            self.taken.append((x, y, yaw, size[0], size[1]))
        self.things.append(Thing(kind, float(x), float(y), yaw, size))
        self.placed.append((bodies.PARTS[kind](*size) if parts is None else parts, float(x), float(y), yaw))


def meets(rectangle: tuple[float, ...], others: list[tuple[float, ...]]) -> bool:
    """Whether a ground rectangle (x, y, yaw, l, w) has a point in common with one of the others.

    Two rectangles are apart if their shadows on one of the four directions of their edges are apart.
    """
    rows = np.array([rectangle, *others])  # (n + 1, 5)
    cos, sin = np.cos(rows[:, 2]), np.sin(rows[:, 2])
    axes = np.stack((np.stack((cos, sin), -1), np.stack((-sin, cos), -1)), 1)  # (n + 1, 2, 2) along l, along w
    arms = axes * rows[:, 3:, None] / 2  # (n + 1, 2, 2) half the edges, as vectors
    away = rows[1:, :2] - rows[0, :2]  # (n, 2)
    apart = np.zeros(len(others), bool)
    for axis in (axes[:1, 0], axes[:1, 1], axes[1:, 0], axes[1:, 1]):  # (1 or n, 2)
        own = np.abs((arms[0] * axis[:, None]).sum(-1)).sum(-1)  # (1 or n,) half the shadow of the rectangle
        other = np.abs((arms[1:] * axis[:, None]).sum(-1)).sum(-1)  # (n,)
        apart |= np.abs((away * axis).sum(-1)) > own + other
    return not apart.all()


def _traffic(street: _Street) -> None:
    rng = street.rng
    for x in np.arange(9.0, FAR, 14.0):
        for lane, degrees in ((0.0, 0.0), (3.2, 180.0)):
            if rng.random() < 0.35:
                street.object("Car", x + rng.uniform(-3, 3), lane + rng.normal(0, 0.25), degrees + rng.normal(0, 2))


def _crossing_car(street: _Street) -> None:
    rng = street.rng
    if rng.random() < 0.35:
        side = rng.choice((-90.0, 90.0))
        street.object("Car", rng.uniform(10, 34), rng.uniform(-3, 7), side + rng.normal(0, 20))


def _parked_cars(street: _Street) -> None:
    rng = street.rng
    for side in PARKING:
        density = rng.uniform(0.1, 0.6)
        for x in np.arange(3.5, FAR, 6.2):
            if rng.random() < density:
                kind = "Van" if rng.random() < 0.08 else "Car"
                degrees = rng.choice((0.0, 180.0)) + rng.normal(0, 3)
                street.object(kind, x + rng.uniform(-0.6, 0.6), side + rng.normal(0, 0.12), degrees)


def _pedestrians(street: _Street) -> None:
    rng = street.rng
    for _ in range(rng.poisson(4.0)):
        x = 5.0 + 45.0 * rng.random() ** 1.3
        if rng.random() < 0.75:
            y = rng.uniform(-6.8, -4.4) if rng.random() < 0.55 else rng.uniform(7.6, 10.0)
        else:
            y = rng.uniform(-4.0, 7.0)
        street.object("Pedestrian", x, y, rng.uniform(-180.0, 180.0))


def _cyclists(street: _Street) -> None:
    rng = street.rng
    for _ in range(rng.poisson(2.2)):
        x = 6.0 + 44.0 * rng.random() ** 1.2
        if rng.random() < 0.75:
            y, degrees = (rng.uniform(-1.9, -1.2), 0.0) if rng.random() < 0.60 else (rng.uniform(4.4, 5.0), 180.0)
        else:
            y, degrees = rng.uniform(-6.0, 9.0), rng.uniform(-180.0, 180.0)
        street.object("Cyclist", x, y, degrees + rng.normal(0, 8))


def _buildings(street: _Street) -> None:
    rng = street.rng
    depth = 8.0
    for front, side in ((-7.2, -1.0), (10.4, 1.0)):
        x = rng.uniform(-5.0, 3.0)
        while x < 80.0:
            length, height = rng.uniform(6.0, 18.0), rng.uniform(4.0, 12.0)
            y = front + side * (rng.uniform(0.2, 2.5) + depth / 2)
            if rng.random() >= 0.20:
                street.put("Building", x + length / 2, y, 0.0, (length, depth, height), margin=None)
            x += length
            if rng.random() < 0.30:
                x += rng.uniform(1.0, 6.0)


def _poles(street: _Street) -> None:
    rng = street.rng
    for y in (-4.35, 7.5):
        x = rng.uniform(5.0, 20.0)
        while x < FAR:
            width, height = 2 * rng.uniform(0.05, 0.12), rng.uniform(3.0, 8.0)
            street.put("Pole", x, y, 0.0, (width, width, height))
            x += rng.uniform(8.0, 22.0)


def _trees(street: _Street) -> None:
    rng = street.rng
    for _ in range(rng.integers(0, 5)):
        x, y = rng.uniform(6.0, 55.0), rng.choice((-5.0, 8.2)) + rng.normal(0, 0.3)
        radius, height = rng.uniform(0.12, 0.25), rng.uniform(2.0, 3.5)
        crown = (rng.uniform(1.0, 2.0), rng.uniform(1.0, 2.0), rng.uniform(0.9, 1.6))
        street.put("Tree", x, y, 0.0, (2 * radius, 2 * radius, height), parts=bodies.tree(radius, height, crown))


def _look_alikes(street: _Street) -> None:
    """Things that a detector may take for objects."""
    rng = street.rng
    for _ in range(rng.integers(0, 5)):
        width, height = 2 * rng.uniform(0.12, 0.25), rng.uniform(0.9, 1.7)
        x, y = rng.uniform(5.0, 50.0), rng.choice((-5.2, 8.4)) + rng.uniform(-0.8, 0.8)
        street.put("Post", x, y, 0.0, (width, width, height))
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform(5.0, 50.0), rng.choice((-6.2, 9.2))
        street.put("Bin", x, y, rng.uniform(-180.0, 180.0), (0.6, 0.6, 1.1))
    for _ in range(rng.integers(0, 3)):
        size = (rng.uniform(2.4, 4.2), rng.uniform(1.5, 1.9), rng.uniform(1.0, 1.7))
        street.put("Container", rng.uniform(5.0, 50.0), rng.choice(PARKING), rng.normal(0, 4), size)
    for _ in range(rng.integers(0, 3)):
        size = (rng.uniform(2.0, 6.0), 0.7, rng.uniform(0.7, 1.4))
        street.put("Hedge", rng.uniform(5.0, 50.0), rng.choice((-6.6, 9.8)), 0.0, size)
