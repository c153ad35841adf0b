"""Filters of rows, the drawing of points, and the augmentation. All randomness comes from the generator passed in."""

from __future__ import annotations

import numpy as np

from lib.camera import rotation_about

GROUND_HEIGHT = -1.4  # m; the KITTI camera stands 1.65 m above the road

SCALE = (0.95, 1.05)  # per axis
ROTATION = np.deg2rad(10.0)  # about y
SHIFT = 1.0  # m per axis, both clouds together
SHIFT_TARGET = 0.3  # m per axis, the second cloud alone


def within_depth(pc1: np.ndarray, pc2: np.ndarray, max_depth: float) -> np.ndarray:
    """Mask (n,) of the rows of two aligned clouds (n, 3) that are nearer than max_depth (m) in both."""
    return (pc1[:, 2] < max_depth) & (pc2[:, 2] < max_depth)


def drop_ground(pc1: np.ndarray, pc2: np.ndarray) -> np.ndarray:
    """Mask (n,) of the rows to keep: all but those below -1.4 m in both aligned clouds (n, 3)."""
    return ~((pc1[:, 1] < GROUND_HEIGHT) & (pc2[:, 1] < GROUND_HEIGHT))


def draw(rng: np.random.Generator, rows: int, count: int) -> np.ndarray:
    """`count` row numbers out of `rows`: without replacement, or with replacement when there are fewer rows."""
    return rng.choice(rows, count, replace=rows < count)


def augment(
    xyz1: np.ndarray, moved: np.ndarray, xyz2: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The published FlyingThings3D augmentation of a training sample.

    xyz1 (N, 3): the source; moved (N, 3): where each of its points goes (xyz1 + flow); xyz2 (M, 3): the target. Metres.
    All three are scaled per axis by U(0.95, 1.05), then turned about y by U(-10, 10) degrees, then shifted per axis by
    U(-1, 1) m. After that, `moved` and xyz2 are shifted per axis by U(-0.3, 0.3) m. The new flow is moved - xyz1. The
    published code also adds jitter, but clips it to 0: there is none here. Returns the new (xyz1, moved, xyz2), of the
    inputs' type.
    """
    scale = np.diag(rng.uniform(*SCALE, 3))
    rotation = rotation_about(np.array([0.0, 1.0, 0.0]), rng.uniform(-ROTATION, ROTATION))
    matrix = (rotation @ scale).T.astype(xyz1.dtype)  # row vectors: p -> p @ matrix
    shift = rng.uniform(-SHIFT, SHIFT, 3).astype(xyz1.dtype)
    shift_target = shift + rng.uniform(-SHIFT_TARGET, SHIFT_TARGET, 3).astype(xyz1.dtype)
    return xyz1 @ matrix + shift, moved @ matrix + shift_target, xyz2 @ matrix + shift_target
