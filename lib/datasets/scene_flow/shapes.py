"""Convex bodies, and where a ray enters them.

A body is the intersection of quadrics |A (x - c)|^2 <= 1 and half-spaces n . x <= h. With A of rank 3 a quadric is an
ellipsoid, with rank 2 an endless elliptic cylinder. A ray o + t d is inside each of them for one interval of t, and so
inside the body from the largest entry to the smallest exit, or never. All lengths are in metres. Cylinders, prisms and
frusta stand along y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

NO_PLANES = (np.zeros((0, 3)), np.zeros(0))


@dataclass(frozen=True)
class Body:
    """quadrics: pairs A (k, 3), c (3,). normals (P, 3), offsets (P,): half-spaces. centre (3,), radius: a sphere."""

    quadrics: tuple[tuple[np.ndarray, np.ndarray], ...]
    normals: np.ndarray
    offsets: np.ndarray
    centre: np.ndarray
    radius: float

    def placed(self, shift: Sequence[float] = (0.0, 0.0, 0.0), rotation: np.ndarray | None = None) -> Body:
        """The body after x -> rotation x + shift."""
        rotation = np.eye(3) if rotation is None else rotation
        shift = np.asarray(shift, dtype=np.float64)
        normals = self.normals @ rotation.T
        return Body(
            tuple((a @ rotation.T, rotation @ c + shift) for a, c in self.quadrics),
            normals,
            self.offsets + normals @ shift,
            rotation @ self.centre + shift,
            self.radius,
        )

    def cut(self, normal: Sequence[float], offset: float) -> Body:
        """The part of the body with normal . x <= offset."""
        return replace(
            self,
            normals=np.vstack([self.normals, np.asarray(normal, dtype=np.float64)]),
            offsets=np.append(self.offsets, offset),
        )

    def entry(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Ray parameter t (R,) of the first point of the body on origin (3,) + t directions (R, 3), t >= 0.

        inf where the ray misses it, 0 where the origin lies inside.
        """
        start = np.full(len(directions), -np.inf)
        end = np.full(len(directions), np.inf)
        for matrix, centre in self.quadrics:
            o = matrix @ (origin - centre)  # (k,)
            d = directions @ matrix.T  # (R, k)
            a = np.maximum(np.einsum("rk,rk->r", d, d), 1e-18)  # 0 along a cylinder's axis
            b = d @ o
            discriminant = b * b - a * (o @ o - 1.0)
            root = np.sqrt(np.maximum(discriminant, 0.0))
            start = np.maximum(start, np.where(discriminant < 0.0, np.inf, (-b - root) / a))
            end = np.minimum(end, (-b + root) / a)
        for normal, height in zip(self.normals, self.offsets - self.normals @ origin, strict=True):
            slope = directions @ normal  # (R,)
            t = height / np.where(slope == 0.0, 1e-300, slope)
            start = np.where(slope < 0.0, np.maximum(start, t), start)
            end = np.where(slope < 0.0, end, np.minimum(end, t))
        return np.where((start < end) & (end > 0.0), np.maximum(start, 0.0), np.inf)


def half_space(normal: Sequence[float], offset: float) -> Body:
    """All x with normal . x <= offset: a wall or a floor without end."""
    return Body((), *NO_PLANES, np.zeros(3), np.inf).cut(normal, offset)


def ellipsoid(half: Sequence[float]) -> Body:
    """half: the three half axes."""
    half = np.asarray(half, dtype=np.float64)
    return Body(((np.diag(1.0 / half), np.zeros(3)),), *NO_PLANES, np.zeros(3), half.max())


def box(half: Sequence[float]) -> Body:
    """half: the half edge lengths along x, y, z."""
    half = np.asarray(half, dtype=np.float64)
    return Body((), np.vstack([np.eye(3), -np.eye(3)]), np.concatenate([half, half]), np.zeros(3), np.linalg.norm(half))


def cylinder(radius_x: float, radius_z: float, half_height: float) -> Body:
    """An elliptic cylinder with flat ends."""
    matrix = np.array([[1.0 / radius_x, 0.0, 0.0], [0.0, 0.0, 1.0 / radius_z]])
    return Body(
        ((matrix, np.zeros(3)),),
        np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]),
        np.array([half_height, half_height]),
        np.zeros(3),
        np.hypot(max(radius_x, radius_z), half_height),
    )


def frustum(sides: int, bottom: float, top: float, half_height: float) -> Body:
    """A regular prism, pyramid, or cut pyramid. bottom, top: how far the sides are from the axis at each end."""
    angles = 2.0 * np.pi * np.arange(sides) / sides
    slope = (top - bottom) / (2.0 * half_height)
    normals = np.stack([np.cos(angles), np.full(sides, -slope), np.sin(angles)], axis=1)
    normals = np.vstack([normals, [[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]])
    offsets = np.append(np.full(sides, 0.5 * (bottom + top)), [half_height, half_height])
    return Body((), normals, offsets, np.zeros(3), np.hypot(max(bottom, top) / np.cos(np.pi / sides), half_height))


def polytope(rng: np.random.Generator, half: Sequence[float], faces: int) -> Body:
    """A random convex stone: a box (half edge lengths) cut by `faces` random planes."""
    half = np.asarray(half, dtype=np.float64)
    normals = rng.normal(size=(faces, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    stone = box(half)
    for normal in normals:
        stone = stone.cut(normal / half, rng.uniform(0.6, 1.0))
    return stone


def lens(radius: float, thickness: float) -> Body:
    """The intersection of two equal balls: a disc about y. thickness: at its centre, less than 2 radius."""
    bend = (radius**2 + 0.25 * thickness**2) / thickness  # the balls' radius
    lift = bend - 0.5 * thickness
    ball = np.eye(3) / bend
    return Body(
        ((ball, np.array([0.0, lift, 0.0])), (ball, np.array([0.0, -lift, 0.0]))),
        *NO_PLANES,
        np.zeros(3),
        max(radius, 0.5 * thickness),
    )
