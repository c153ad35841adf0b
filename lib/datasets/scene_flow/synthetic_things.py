"""synthetic-things: rigid objects flying in front of a background. Synthetic, made to resemble FlyingThings3D.

How a scene is made. The camera is FlyingThings3D's (f 1050 px, 960 x 540). Large boxes, stones, cylinders and domes
stand at 12 m and more, many scenes also have a wall or a floor; together they are the background, which only moves
because the camera moves. In front of it fly 10 to 24 objects: single solids (ellipsoids, boxes, cylinders, prisms,
pyramids, stones, lenses, half balls) and assemblies of solids (tables, chairs, dumbbells, crosses, lamps, aeroplanes,
rings, ladders, random clusters), of random proportions and orientation, 6 to 34 m away. Every object has its own
translation and rotation, and the camera translates and turns; one factor for each scene makes some scenes slow and
others fast, with a median flow of about 1 m over scenes. Points are those visible in both frames and nearer than 35 m
(lib/datasets/scene_flow/raycast.py).
"""

from __future__ import annotations

import numpy as np

from lib.camera import FLYINGTHINGS3D_CAMERA, rotation_about
from lib.datasets.scene_flow import shapes
from lib.datasets.scene_flow.raycast import Image, Pose, Render, RigidObject, render
from lib.datasets.scene_flow.shapes import Body
from lib.datasets.scene_flow.synthetic import ProceduralScenes

IMAGE = Image(FLYINGTHINGS3D_CAMERA, width=960, height=540)
STREAM = 101
MAX_DEPTH = 35.0  # m
RAY_SPACING = 3.0  # px: 57,600 rays
NEAR_BACKGROUND = 12.0  # m, the nearest that the sphere around a background body comes


def open_part(part: str, num_scenes: int | None, seed: int) -> ProceduralScenes:
    """One part of the set: "train" (of num_scenes scenes), "validation" or "test". Raises InputError for another."""
    return ProceduralScenes("synthetic-things", STREAM, build, IMAGE.camera, part, num_scenes, seed)


def build(rng: np.random.Generator) -> Render:
    """One scene: about 15 to 50 thousand points."""
    return render(layout(rng), IMAGE, IMAGE.rays(RAY_SPACING, rng), MAX_DEPTH)


def layout(rng: np.random.Generator) -> list[RigidObject]:
    """The objects of a scene with their poses in both frames. The first is the background."""
    pace = np.clip(rng.lognormal(0.35, 0.45), 0.3, 1.7)
    turn = rotation_about(_direction(rng), np.deg2rad(rng.normal(0.0, 1.8)) * pace)
    travel = _direction(rng) * rng.uniform(0.1, 0.9) * pace  # the world's, as the camera sees it
    still = Pose(np.eye(3), np.zeros(3))
    scene = [RigidObject(_background(rng), (still, Pose(turn, travel)))]
    for _ in range(rng.integers(10, 25)):
        place = _in_view(rng, rng.uniform(6.0, 34.0), border=1.1)
        size = np.exp(rng.uniform(np.log(55.0), np.log(220.0))) / IMAGE.camera.f * -place[2]
        bodies = tuple(rng.choice(FAMILIES)(rng, min(size, 0.4 * place[2])))
        pose = Pose(_orientation(rng), place)
        spin = rotation_about(_direction(rng), np.deg2rad(rng.normal(0.0, 7.0)) * pace)
        step = _direction(rng) * rng.gamma(3.0, 0.25) * pace
        later = Pose(turn @ spin @ pose.rotation, turn @ (place + step) + travel)
        scene.append(RigidObject(bodies, (pose, later)))
    return scene


def _background(rng: np.random.Generator) -> tuple[Body, ...]:
    bodies = []
    if rng.random() < 0.4:  # a wall or floor; it faces the camera and tilts up to about 65 degrees
        normal = np.array([rng.normal(0.0, 0.7), rng.normal(0.0, 0.7), -1.0])
        bodies.append(shapes.half_space(normal, -rng.uniform(20.0, 46.0)))
    for _ in range(rng.integers(4, 10)):
        half = np.exp(rng.uniform(np.log(1.2), np.log(7.0), 3))
        body = rng.choice(BIG_SOLIDS)(rng, half)
        distance = max(rng.uniform(17.0, 42.0), NEAR_BACKGROUND + body.radius)
        place = _in_view(rng, distance, border=1.25)
        bodies.append(body.placed(place, _orientation(rng)))
    return tuple(bodies)


def _in_view(rng: np.random.Generator, depth: float, border: float) -> np.ndarray:
    """A point (3,) at a depth, uniform in the image widened by the factor `border`."""
    half_width = border * 0.5 * IMAGE.width / -IMAGE.camera.f
    half_height = border * 0.5 * IMAGE.height / -IMAGE.camera.f
    return depth * np.array([rng.uniform(-half_width, half_width), rng.uniform(-half_height, half_height), 1.0])


def _direction(rng: np.random.Generator) -> np.ndarray:
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def _orientation(rng: np.random.Generator) -> np.ndarray:
    """A rotation (3, 3), uniform over all of them."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


# Solids for the background: (rng, half sizes (3,)) -> Body.
BIG_SOLIDS = (
    lambda rng, half: shapes.box(half),
    lambda rng, half: shapes.polytope(rng, half, 6),
    lambda rng, half: shapes.cylinder(*half),
    lambda rng, half: shapes.ellipsoid(half).cut((0.0, 1.0, 0.0), rng.uniform(0.0, 0.5) * half[1]),
)


# Families of flying objects: (rng, size) -> bodies within about `size` metres of the origin.


def _solid(rng: np.random.Generator, size: float) -> list[Body]:
    a, b, c = size * rng.uniform(0.3, 0.9, 3)
    kind = rng.integers(8)
    if kind == 0:
        return [shapes.ellipsoid((a, b, c))]
    if kind == 1:
        return [shapes.box((a, b, c))]
    if kind == 2:
        return [shapes.cylinder(a, b, c)]
    if kind == 3:
        return [shapes.frustum(rng.integers(3, 8), a, a, b)]
    if kind == 4:
        return [shapes.frustum(rng.integers(3, 13), a, 0.3 * rng.random() * a, b)]
    if kind == 5:
        return [shapes.polytope(rng, (a, b, c), rng.integers(4, 12))]
    if kind == 6:
        return [shapes.lens(size * 0.9, 0.6 * a)]
    return [shapes.ellipsoid((a, b, c)).cut(_direction(rng), 0.2 * size)]


def _table(rng: np.random.Generator, size: float) -> list[Body]:
    wide, deep, leg = size * rng.uniform((0.5, 0.4, 0.3), (0.8, 0.7, 0.6))
    thin = size * rng.uniform(0.05, 0.1)
    legs = [
        shapes.box((thin, leg, thin)).placed((x * (wide - thin), -leg, z * (deep - thin)))
        for x in (-1, 1)
        for z in (-1, 1)
    ]
    return [shapes.box((wide, thin, deep)), *legs]


def _chair(rng: np.random.Generator, size: float) -> list[Body]:
    back = size * rng.uniform(0.3, 0.55)
    return [*_table(rng, size * 0.8), shapes.box((back, 0.4 * size, 0.07 * size)).placed((0.0, 0.4 * size, 0.3 * size))]


def _dumbbell(rng: np.random.Generator, size: float) -> list[Body]:
    left, right = size * rng.uniform(0.2, 0.4, 2)
    bar = shapes.cylinder(0.08 * size, 0.08 * size, 0.7 * size)
    return [
        bar,
        shapes.ellipsoid((left, left, left)).placed((0.0, -0.7 * size, 0.0)),
        shapes.ellipsoid((right, right, right)).placed((0.0, 0.7 * size, 0.0)),
    ]


def _cross(rng: np.random.Generator, size: float) -> list[Body]:
    thick = size * rng.uniform(0.1, 0.25, 3)
    halves = size * rng.uniform(0.5, 1.0, 3)
    return [shapes.box(np.where(np.arange(3) == k, halves[k], thick[k])) for k in range(rng.integers(2, 4))]


def _lamp(rng: np.random.Generator, size: float) -> list[Body]:
    shade = size * rng.uniform(0.25, 0.5)
    foot = size * rng.uniform(0.2, 0.4)
    return [
        shapes.cylinder(0.04 * size, 0.04 * size, 0.8 * size),
        shapes.frustum(12, shade, 0.5 * shade, 0.6 * shade).placed((0.0, 0.7 * size, 0.0)),
        shapes.lens(foot, 0.4 * foot).placed((0.0, -0.8 * size, 0.0)),
    ]


def _aeroplane(rng: np.random.Generator, size: float) -> list[Body]:
    span, chord = size * rng.uniform((0.7, 0.12), (1.0, 0.25))
    thin = 0.04 * size
    return [
        shapes.ellipsoid((0.14 * size, 0.14 * size, size)),
        shapes.box((span, thin, chord)).placed((0.0, 0.0, size * rng.uniform(-0.1, 0.2))),
        shapes.box((0.4 * span, thin, 0.6 * chord)).placed((0.0, 0.0, -0.85 * size)),
        shapes.box((thin, 0.3 * size, 0.6 * chord)).placed((0.0, 0.25 * size, -0.85 * size)),
    ]


def _ring(rng: np.random.Generator, size: float) -> list[Body]:
    count = rng.integers(6, 11)
    radius, thick = 0.75 * size, size * rng.uniform(0.08, 0.2)
    half = radius * np.tan(np.pi / count) + 0.3 * thick
    return [
        shapes.box((thick, thick, half)).placed(
            (radius * np.cos(a), 0.0, radius * np.sin(a)), rotation_about(np.array([0.0, 1.0, 0.0]), -a)
        )
        for a in 2.0 * np.pi * np.arange(count) / count
    ]


def _ladder(rng: np.random.Generator, size: float) -> list[Body]:
    half, thin, rungs = size * rng.uniform(0.2, 0.45), 0.06 * size, rng.integers(3, 7)
    rails = [shapes.box((thin, size, thin)).placed((side * half, 0.0, 0.0)) for side in (-1, 1)]
    rung = shapes.cylinder(thin, thin, half).placed(rotation=rotation_about(np.array([0.0, 0.0, 1.0]), np.pi / 2))
    return rails + [rung.placed((0.0, y, 0.0)) for y in np.linspace(-0.8, 0.8, rungs) * size]


def _cluster(rng: np.random.Generator, size: float) -> list[Body]:
    return [
        _solid(rng, 0.6 * size)[0].placed(0.5 * size * _direction(rng), _orientation(rng))
        for _ in range(rng.integers(2, 5))
    ]


FAMILIES = (_solid, _solid, _solid, _table, _chair, _dumbbell, _cross, _lamp, _aeroplane, _ring, _ladder, _cluster)
