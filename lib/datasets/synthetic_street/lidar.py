"""The LiDAR of the street: 64 lasers over 84 degrees, with loss, range noise and reflectance.

All numbers are our choice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lib.camera import Calibration
from lib.datasets.synthetic_street.bodies import CABIN, COAT, PAINT, TROUSERS, WALL, Bodies, normals
from lib.datasets.synthetic_street.rays import GROUND, Fan, Hits
from lib.datasets.synthetic_street.world import OBJECTS, ROAD, World

LASERS = 32  # in each of the two blocks
ELEVATIONS = np.deg2rad([*(2.0 - np.arange(LASERS) / 3.0), *(-8.83 - np.arange(LASERS) / 2.0)])  # (64,) falling
AZIMUTHS = np.deg2rad(np.arange(-42.0, 42.0, 0.18)[::-1])  # (467,) falling: from left to right
DIRECTIONS = np.stack(
    (
        np.cos(ELEVATIONS)[:, None] * np.cos(AZIMUTHS),
        np.cos(ELEVATIONS)[:, None] * np.sin(AZIMUTHS),
        np.broadcast_to(np.sin(ELEVATIONS)[:, None], (len(ELEVATIONS), len(AZIMUTHS))),
    )
)  # (3, 64, 467) the unit vectors of the rays in the LiDAR frame
DIRECTIONS.flags.writeable = False
REACH = 80.0  # m
RANGE_NOISE, REFLECTANCE_NOISE = 0.02, 0.03  # standard deviations, m and 1

# The albedo is the share of the laser's light that a surface throws back. Of a material: from, to.
ALBEDO = {PAINT: (0.2, 0.9), CABIN: (0.05, 0.2), COAT: (0.1, 0.8), TROUSERS: (0.1, 0.8), WALL: (0.2, 0.6)}
OTHER_ALBEDO = (0.3, 0.5)
ROAD_ALBEDO, PAVEMENT_ALBEDO = 0.22, 0.35


class Scan(NamedTuple):
    """What the LiDAR sends, in the order of the rays: laser by laser from above, each from left to right."""

    points: np.ndarray  # (N, 4) float32: x, y, z in m (LiDAR frame), reflectance 0 to 1
    owner: np.ndarray  # (N,) the thing each point lies on; -1 for the ground


def fan_of(world: World) -> Fan:
    """The rays of one scan: 64 rows, 467 columns."""
    x, y, z = DIRECTIONS
    cos, sin = np.cos(world.heading), np.sin(world.heading)
    slopes = np.tan(ELEVATIONS)
    return Fan(
        world.eye, np.stack((cos * x - sin * y, sin * x + cos * y, z)), AZIMUTHS + world.heading, np.stack([slopes] * 2)
    )


def scan(
    world: World, fan: Fan, hits: Hits, rng: np.random.Generator, calibration: Calibration, size: tuple[int, int]
) -> Scan:
    """The points of a scan that lie in the image of `size` (width, height) px.

    A ray that meets a surface at an angle with cosine c is lost with probability 0.03 + 0.6 max(0, 1 - c / 0.12).
    Its range gets noise, N(0, 0.02 m). Its reflectance is albedo (0.35 + 0.65 c) + N(0, 0.03), within 0 and 0.99.
    """
    luck = rng.random(hits.distance.shape)  # drawn for every ray: what one ray meets changes no other ray's noise
    range_noise = rng.normal(0.0, RANGE_NOISE, hits.distance.shape)
    reflectance_noise = rng.normal(0.0, REFLECTANCE_NOISE, hits.distance.shape)
    albedo = draw_albedo(world.bodies, rng)

    rays = hits.distance <= REACH  # (H, W)
    distance, body = hits.distance[rays], hits.body[rays]  # (R,)
    directions = fan.directions[:, rays].T  # (R, 3)
    spots = fan.eye + distance[:, None] * directions
    ground = body == GROUND
    normal = np.tile((0.0, 0.0, 1.0), (len(body), 1))
    normal[~ground] = normals(world.bodies, body[~ground], spots[~ground])
    cosine = np.abs((normal * directions).sum(1))
    on_road = (spots[:, 1] > ROAD[0]) & (spots[:, 1] < ROAD[1])
    shade = np.where(on_road, ROAD_ALBEDO, PAVEMENT_ALBEDO)
    shade[~ground] = albedo[body[~ground]]

    kept = luck[rays] >= 0.03 + 0.6 * np.maximum(0.0, 1.0 - cosine / 0.12)
    reflectance = np.clip(shade * (0.35 + 0.65 * cosine) + reflectance_noise[rays], 0.0, 0.99)
    xyz = (distance + range_noise[rays])[:, None] * DIRECTIONS[:, rays].T  # the LiDAR frame
    points = np.column_stack((xyz, reflectance)).astype(np.float32)
    kept &= calibration.in_view(points[:, :3], size)
    owner = np.full(len(body), -1)
    owner[~ground] = world.bodies.owner[body[~ground]]
    return Scan(points[kept], owner[kept])


def draw_albedo(bodies: Bodies, rng: np.random.Generator) -> np.ndarray:
    """The albedo (n,) of bodies. Those of one thing and one material share it."""
    surfaces = list(zip(bodies.owner.tolist(), bodies.material.tolist(), strict=True))
    drawn = {
        (owner, material): rng.uniform(*ALBEDO.get(material, OTHER_ALBEDO))
        for owner, material in dict.fromkeys(surfaces)
    }
    return np.array([drawn[surface] for surface in surfaces])


def visible_shares(
    world: World, fan: Fan, hits: Hits, calibration: Calibration, size: tuple[int, int]
) -> dict[int, float]:
    """How much of each labelled thing the LiDAR sees: rays that meet it first / rays that would meet it alone.

    Rays whose hit lies outside the image do not count; noise and loss do not either. No entry: no ray at all.
    """
    shares = {}
    for thing, window in hits.alone.items():
        met = window.distance <= REACH  # (h, w)
        if world.things[thing].kind not in OBJECTS or not met.any():
            continue
        xyz = window.distance[met][:, None] * DIRECTIONS[:, window.rows, window.columns][:, met].T
        met[met] = calibration.in_view(xyz, size)
        if met.any():
            first = hits.body[window.rows, window.columns][met]
            mine = (first != GROUND) & (world.bodies.owner[first] == thing)
            shares[thing] = float(mine.mean())
    return shares
