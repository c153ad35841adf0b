"""synthetic-drive: a street seen from a moving car. Synthetic, made to resemble KITTI Scene Flow 2015.

How a scene is made. The camera is KITTI's camera 2 (P_rect_02 of most frames: f 721.5 px, 1242 x 375), 1.65 m above a
flat road. Along both sides stand building fronts with bays and doors, fences with posts, hedges, trees (a trunk and a
crown of ellipsoids), poles with lamps or signs, parked cars and vans; sometimes a building closes the street. Cars,
vans and trucks drive with the camera's direction or against it, pedestrians walk on the pavements. The camera drives
about 1 m between the frames (0.2 to 2 m) and turns by a degree or so. Road and pavement give no points, and points
below -1.4 m in both frames are dropped as the KITTI reader does. Points are those visible in both frames and nearer
than 35 m (lib/datasets/scene_flow/raycast.py).
"""

from __future__ import annotations

import numpy as np

from lib.camera import Camera, rotation_about
from lib.datasets.scene_flow import shapes
from lib.datasets.scene_flow.raycast import Image, Pose, Render, RigidObject, render
from lib.datasets.scene_flow.shapes import Body
from lib.datasets.scene_flow.synthetic import ProceduralScenes
from lib.datasets.scene_flow.transforms import drop_ground

IMAGE = Image(Camera(f=-721.5377, cx=609.5593, cy=172.854, p03=44.85728, p13=0.2163791, p23=0.002745884), 1242, 375)
STREAM = 102
MAX_DEPTH = 35.0  # m
RAY_SPACING = 2.4  # px; that is 80,652 rays, and more than half of them meet the road or the sky
ROAD = -1.65  # m, the height of the road below the camera
FAR = 48.0  # m, where the street's furniture ends
UP = np.array([0.0, 1.0, 0.0])


def open_part(part: str, num_scenes: int | None, seed: int) -> ProceduralScenes:
    """One part of the set: "train" (of num_scenes scenes), "validation" or "test". Raises InputError for another."""
    return ProceduralScenes("synthetic-drive", STREAM, build, IMAGE.camera, part, num_scenes, seed)


def build(rng: np.random.Generator) -> Render:
    """One scene: about 15 to 40 thousand points."""
    objects = layout(rng)
    rays = IMAGE.rays(RAY_SPACING, rng)
    eye = IMAGE.camera.centre
    with np.errstate(divide="ignore"):  # the depth at which a ray meets the road; a level ray never does
        road = np.where(rays[:, 1] < 0.0, eye[2] + (ROAD - eye[1]) / rays[:, 1], np.inf)
    made = render(objects, IMAGE, rays, np.minimum(road, MAX_DEPTH))
    above = drop_ground(made.pc1, made.pc2)
    return Render(made.pc1[above], made.pc2[above], made.owner[above])


def layout(rng: np.random.Generator) -> list[RigidObject]:
    """The objects of a scene with their poses in both frames. The first holds all that stands still.

    They are made in the street's frame: x left, y up from the road, z along the street, the camera above the origin.
    """
    heading = _turn(rng.normal(0.0, 3.0))  # street to first camera
    first = Pose(heading, np.array([0.0, ROAD, 0.0]))
    speed = float(np.clip(rng.normal(1.0, 0.35), 0.2, 2.0))  # m per frame
    yaw = rng.normal(0.0, 0.6 if rng.random() < 0.7 else 2.0)  # degrees per frame
    turn = _turn(-yaw)
    travel = _turn(0.5 * yaw) @ np.array([0.0, 0.0, speed])  # where the second camera is, in the first's frame

    def seen(bodies: list[Body], velocity: np.ndarray) -> RigidObject:
        step = heading @ velocity
        return RigidObject(tuple(bodies), (first, Pose(turn @ heading, turn @ (first.shift + step - travel))))

    lane = rng.uniform(1.6, 2.0)  # m, half a lane; the camera drives in the right one
    left, right = 3.0 * lane + rng.uniform(2.2, 3.7), lane + rng.uniform(2.2, 3.7)  # m to the kerbs, past parked cars
    scene = [seen(_side(rng, 1.0, left) + _side(rng, -1.0, right) + _end(rng), np.zeros(3))]
    for direction, x in ((1.0, 0.0), (-1.0, 2.0 * lane)):
        z = rng.uniform(7.0, 22.0)
        while z < FAR and rng.random() < 0.75:
            velocity = np.array([0.0, 0.0, direction * rng.uniform(0.2, 1.5)])
            vehicle = _vehicle(rng, np.array([x + rng.normal(0.0, 0.15), 0.0, z]), direction)
            scene.append(seen(vehicle, velocity))
            z += rng.uniform(9.0, 25.0)
    for _ in range(rng.poisson(2.0)):
        side = rng.choice((-1.0, 1.0))
        place = np.array([side * ((left if side > 0 else right) + rng.uniform(0.5, 1.5)), 0.0, rng.uniform(5.0, 32.0)])
        walk = np.array([rng.normal(0.0, 0.02), 0.0, rng.choice((-1.0, 1.0)) * rng.uniform(0.05, 0.2)])
        scene.append(seen(_pedestrian(rng, place), walk))
    return scene


def _turn(degrees: float) -> np.ndarray:
    """Rotation (3, 3) about the vertical; a positive angle turns z towards x, to the left."""
    return rotation_about(UP, np.deg2rad(degrees))


def _side(rng: np.random.Generator, side: float, kerb: float) -> list[Body]:
    """All that stands still on one side (+1 left, -1 right) of the street, from the kerb outwards."""
    bodies = []
    z = rng.uniform(4.0, 12.0)
    while z < FAR:  # parked vehicles
        if rng.random() < 0.5:
            bodies += _vehicle(rng, np.array([side * (kerb - 1.1), 0.0, z]), -side)
        z += rng.uniform(6.0, 10.0)
    z = rng.uniform(3.0, 8.0)
    while z < FAR:  # trees, poles
        place = np.array([side * (kerb + rng.uniform(0.4, 1.2)), 0.0, z])
        kind = rng.random()
        bodies += _tree(rng, place) if kind < 0.45 else _pole(rng, place, side)
        z += rng.uniform(3.0, 11.0)
    front = kerb + rng.uniform(1.8, 6.0)
    z = -4.0
    while z < FAR:  # building fronts, fences, hedges or a gap
        length = rng.uniform(5.0, 14.0)
        kind = rng.random()
        if kind < 0.6:
            bodies += _building(rng, side, front + rng.uniform(0.0, 1.5), z, length)
        elif kind < 0.75:
            bodies += _fence(rng, side * front, z, length)
        elif kind < 0.9:
            bodies.append(_hedge(rng, side * front, z, length))
        z += length + rng.choice((0.0, 0.0, 3.0))
    return bodies


def _end(rng: np.random.Generator) -> list[Body]:
    """A building across the end of the street, or none."""
    if rng.random() < 0.6:
        return []
    half = np.array([rng.uniform(6.0, 15.0), rng.uniform(3.0, 6.0), 4.0])
    return [
        shapes.box(half).placed(
            (rng.normal(0.0, 4.0), half[1], rng.uniform(24.0, 34.0) + half[2]), _turn(rng.normal(0.0, 8.0))
        )
    ]


def _building(rng: np.random.Generator, side: float, x: float, z: float, length: float) -> list[Body]:
    """A front with a few bays, doorsteps or balconies on it."""
    half = np.array([4.0, rng.uniform(2.0, 6.0), 0.5 * length])
    bodies = [shapes.box(half).placed((side * (x + half[0]), half[1], z + half[2]))]
    for _ in range(rng.integers(1, 5)):
        bay = rng.uniform((0.15, 0.5, 0.4), (0.4, 1.5, 1.4))
        bodies.append(shapes.box(bay).placed((side * x, rng.uniform(bay[1], 4.0), z + rng.uniform(0.1, 0.9) * length)))
    return bodies


def _fence(rng: np.random.Generator, x: float, z: float, length: float) -> list[Body]:
    """Posts and two rails, or a low wall between the posts."""
    height = rng.uniform(0.9, 1.8)
    count = int(length / 1.5) + 1
    bodies = [
        shapes.box((0.06, 0.5 * height, 0.06)).placed((x, 0.5 * height, p)) for p in np.linspace(z, z + length, count)
    ]
    panel = 0.42 * height if rng.random() < 0.5 else 0.05
    levels = (0.5,) if panel > 0.05 else (0.4, 0.9)
    return bodies + [
        shapes.box((0.03, panel, 0.5 * length)).placed((x, level * height, z + 0.5 * length)) for level in levels
    ]


def _hedge(rng: np.random.Generator, x: float, z: float, length: float) -> Body:
    half = np.array([rng.uniform(0.3, 0.7), rng.uniform(0.5, 1.3), 0.5 * length])
    return shapes.polytope(rng, half, 5).placed((x, half[1], z + half[2]))


def _tree(rng: np.random.Generator, place: np.ndarray) -> list[Body]:
    trunk, height = rng.uniform(0.1, 0.3), rng.uniform(2.0, 3.5)
    bodies = [shapes.cylinder(trunk, trunk, 0.5 * height).placed(place + (0.0, 0.5 * height, 0.0))]
    for _ in range(rng.integers(2, 6)):
        half = rng.uniform(0.5, 1.5, 3)
        bodies.append(shapes.ellipsoid(half).placed(place + rng.normal(0.0, 0.6, 3) + (0.0, height + 0.5, 0.0)))
    return bodies


def _pole(rng: np.random.Generator, place: np.ndarray, side: float) -> list[Body]:
    """A lamp post with its arm over the road, a sign, or a bare pole."""
    radius, height = rng.uniform(0.05, 0.15), rng.uniform(2.5, 7.0)
    bodies = [shapes.cylinder(radius, radius, 0.5 * height).placed(place + (0.0, 0.5 * height, 0.0))]
    kind = rng.integers(3)
    if kind == 0:
        bodies.append(shapes.box((0.8, 0.06, 0.12)).placed(place + (-side * 0.8, height, 0.0)))
    elif kind == 1:
        bodies.append(shapes.box((0.35, 0.35, 0.03)).placed(place + (0.0, 2.3, -radius)))
    return bodies


def _vehicle(rng: np.random.Generator, place: np.ndarray, direction: float) -> list[Body]:
    """A car, a van or a truck on four wheels. direction +1: it faces along the street, -1: against it."""
    kind = rng.choice(3, p=(0.75, 0.15, 0.1))
    length, wide, low, high = ((4.3, 1.75, 0.8, 1.5), (5.2, 1.95, 1.1, 2.2), (7.5, 2.3, 1.2, 3.2))[kind] * rng.uniform(
        0.9, 1.1, 4
    )
    clearance, wheel = 0.2, 0.32
    z, wide = 0.5 * length, 0.5 * wide
    hull = shapes.box((wide, 0.5 * (low - clearance), z)).placed((0.0, 0.5 * (low + clearance), 0.0))
    cabin = shapes.box((0.92 * wide, 0.5 * (high - low), z)).placed((0.0, 0.5 * (high + low), 0.0))
    front, rear = ((0.45, 0.9), (0.75, 1.0), (1.0, 1.0))[kind]  # share of the half length that the cabin's foot reaches
    slant = (0.9, 0.4, 0.0)[kind]  # how far the windscreens lean, per metre of height
    cabin = cabin.cut((0.0, slant, 1.0), front * z + slant * low).cut((0.0, slant, -1.0), rear * z + slant * low)
    cabin = cabin.cut((1.0, 0.3, 0.0), 0.92 * wide + 0.3 * low).cut((-1.0, 0.3, 0.0), 0.92 * wide + 0.3 * low)
    sideways = rotation_about(np.array([0.0, 0.0, 1.0]), np.pi / 2)
    wheels = [
        shapes.cylinder(wheel, wheel, 0.12).placed((x * (wide - 0.1), wheel, 0.6 * end * z), sideways)
        for x in (-1, 1)
        for end in (-1, 1)
    ]
    pose = _turn(rng.normal(0.0, 2.0) + (0.0 if direction > 0 else 180.0))
    return [body.placed(place, pose) for body in (hull, cabin, *wheels)]


def _pedestrian(rng: np.random.Generator, place: np.ndarray) -> list[Body]:
    """Legs, trunk and head."""
    tall = rng.uniform(1.5, 1.9)
    stride = rng.uniform(0.0, 0.2)
    leg = shapes.cylinder(0.09, 0.09, 0.24 * tall)
    legs = [leg.placed(place + (0.1 * s, 0.24 * tall, s * stride)) for s in (-1, 1)]
    return [
        *legs,
        shapes.ellipsoid((0.25, 0.24 * tall, 0.16)).placed(place + (0.0, 0.66 * tall, 0.0)),
        shapes.ellipsoid((0.1, 0.13, 0.11)).placed(place + (0.0, 0.93 * tall, 0.0)),
    ]
