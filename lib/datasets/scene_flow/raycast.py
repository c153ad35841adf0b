"""Rendering two frames of moving rigid objects as a pair of aligned point clouds, by exact ray casting.

Rays leave the camera through a jittered pixel grid. Each stops at the first surface of frame 1; that is a point. The
point moves with its object to frame 2. It is kept if it is still inside the image, nearer than the depth limit, and
visible: a second ray, from the camera of frame 2 to the moved point, must meet no surface before it. So every point is
visible in both frames, and row i of both clouds is the same point: the "without occlusion" protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lib.camera import Camera
from lib.datasets.scene_flow.shapes import Body

TOLERANCE = 1e-5  # a surface nearer to the point than this share of its distance is the point's own surface


class Pose(NamedTuple):
    """Object to camera frame: x -> rotation x + shift, rotation (3, 3), shift (3,) in metres."""

    rotation: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class RigidObject:
    """Bodies that move together. poses: in the camera frames of frame 1 and frame 2."""

    bodies: tuple[Body, ...]
    poses: tuple[Pose, Pose]

    def move(self, points: np.ndarray) -> np.ndarray:
        """Where points (n, 3) of this object, given in frame 1's camera frame, are in frame 2's."""
        first, second = self.poses
        return ((points - first.shift) @ first.rotation) @ second.rotation.T + second.shift


class Render(NamedTuple):
    """pc1, pc2: (n, 3) float32 aligned clouds in metres; owner: (n,) index of the object each row belongs to."""

    pc1: np.ndarray
    pc2: np.ndarray
    owner: np.ndarray


class Image(NamedTuple):
    """The camera and its image size in px."""

    camera: Camera
    width: int
    height: int

    def rays(self, spacing: float, rng: np.random.Generator) -> np.ndarray:
        """Ray directions (R, 3) with z = 1, one at a random place in each cell of a grid `spacing` px wide."""
        columns, rows = int(self.width / spacing), int(self.height / spacing)
        cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)  # (R, 2)
        pixels = (cells + rng.random(cells.shape)) * (self.width / columns, self.height / rows) - 0.5
        directions = (pixels - (self.camera.cx, self.camera.cy)) / self.camera.f
        return np.column_stack([directions, np.ones(len(directions))])

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Mask (n,) of the points (n, 3) in front of the camera whose image lies inside the image's border."""
        ahead = points[:, 2] > self.camera.centre[2] + 0.1
        u, v = self.camera.project(np.where(ahead[:, None], points, (0.0, 0.0, 1.0))).T
        return ahead & (u >= -0.5) & (u <= self.width - 0.5) & (v >= -0.5) & (v <= self.height - 0.5)


def cast(
    objects: Sequence[RigidObject], frame: int, eye: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The first surface on each ray eye (3,) + t directions (R, 3), in the camera frame of `frame` (0 or 1).

    Returns t (R,) and the index (R,) of the object that is met. Where nothing is met they are inf and -1. A body is
    tried only with the rays that pass through the sphere around it.
    """
    nearest = np.full(len(directions), np.inf)
    owner = np.full(len(directions), -1)
    lengths = np.sqrt(np.einsum("rk,rk->r", directions, directions))
    units = (directions / lengths[:, None]).astype(np.float32)
    for index, item in enumerate(objects):
        rotation, shift = item.poses[frame]
        origin = (eye - shift) @ rotation  # (3,), the eye in the object's frame
        for body in item.bodies:
            rays = _towards(units, rotation @ body.centre + shift - eye, body.radius)
            if len(rays) == 0:
                continue
            t = body.entry(origin, directions[rays] @ rotation)
            closer = t < nearest[rays]
            nearest[rays[closer]] = t[closer]
            owner[rays[closer]] = index
    return nearest, owner


def _towards(units: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Indices of the unit rays (R, 3) that may meet the sphere around centre (3,), as seen from the eye."""
    distance = np.linalg.norm(centre)
    if radius >= distance:
        return np.arange(len(units))
    cosine = np.sqrt(1.0 - (radius / distance) ** 2)
    return np.flatnonzero(units @ (centre / distance).astype(np.float32) >= cosine - 1e-6)  # 1e-6: float32 rounding


def render(objects: Sequence[RigidObject], image: Image, rays: np.ndarray, max_depth: float | np.ndarray) -> Render:
    """The points of the objects that the rays (R, 3) meet in frame 1 and that are visible in frame 2 too.

    max_depth: metres, one number or one for each ray (R,). One for each ray stops it at a floor that gives no points.
    In frame 2 the largest number counts for all.
    """
    eye = image.camera.centre
    t, owner = cast(objects, 0, eye, rays)
    start = eye + np.where(np.isfinite(t), t, 0.0)[:, None] * rays
    kept = np.isfinite(t) & (start[:, 2] < max_depth) & (t > 0.0)
    start, owner = start[kept], owner[kept]

    moved = np.empty_like(start)
    for index in np.unique(owner):
        moved[owner == index] = objects[index].move(start[owner == index])
    kept = image.contains(moved) & (moved[:, 2] < np.max(max_depth))
    start, moved, owner = start[kept], moved[kept], owner[kept]

    met, _ = cast(objects, 1, eye, moved - eye)
    kept = met >= 1.0 - TOLERANCE
    return Render(start[kept].astype(np.float32), moved[kept].astype(np.float32), owner[kept])
