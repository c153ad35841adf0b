"""Axes and units of users' clouds: turning them into this project's frame and back, and checks of a pair.

The networks know one frame only: x left, y up, z forward (the depth). It is in metres, with all points in front of the
camera.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from lib.errors import InputError

# name -> (what the axes are, matrix (3, 3) that turns a column of input coordinates into the project's)
AXES = {
    "as-is": ("x left, y up, z forward", np.eye(3)),
    "kitti-camera": ("x right, y down, z forward", np.diag([-1.0, -1.0, 1.0])),
    "velodyne": ("x forward, y left, z up", np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])),
}

METRES = (1.0, 200.0)  # m; a median distance from the sensor outside this range is warned about
BEHIND = 0.05  # a larger share of points behind the camera is warned about
SCALE_LIMIT = 4.0  # the larger cloud of a pair is less than so many times as large as the smaller
# Differences of the quantiles, in sizes of the source. From MISFIT on, other orders and signs of the axes are tried;
# one that comes below FIT is named as the mistake.
MISFIT, FIT = 0.5, 0.15
APART = 2.0  # sizes of the source; centres farther apart than this are warned about


def to_project(cloud: np.ndarray, axes: str) -> np.ndarray:
    """Points or vectors (N, 3) in the named axes -> (N, 3) float32 in the project's frame."""
    return np.ascontiguousarray(cloud @ AXES[axes][1].T, dtype=np.float32)


def from_project(vectors: np.ndarray, axes: str) -> np.ndarray:
    """The inverse of ``to_project``: vectors (N, 3) of the project's frame in the named axes, float32."""
    return np.ascontiguousarray(vectors @ AXES[axes][1], dtype=np.float32)


def check_pair(source: np.ndarray, target: np.ndarray) -> None:
    """Raises InputError when two clouds (N, 3), (M, 3) cannot be of one scene: other units, or other axes.

    Units are compared by the size of each cloud: the root mean square distance from its mean, m. Axes are compared by
    the 5, 50 and 95 % quantiles along each.
    """
    size, other = _size(source), _size(target)
    if size == 0.0 or other == 0.0:
        raise InputError(f"all points of the {'source' if size == 0.0 else 'target'} are at one place")
    if not 1.0 / SCALE_LIMIT < other / size < SCALE_LIMIT:
        raise InputError(f"the target is {other / size:.3g} times as large as the source: give both in metres")
    # each (3 quantiles, 3 axes)
    ours, theirs = (np.quantile(cloud, (0.05, 0.5, 0.95), axis=0) for cloud in (source, target))
    if np.abs(ours - theirs).max() < MISFIT * size:
        return
    name, misfit = min(
        ((name, np.abs(ours - turned).max()) for name, turned in _exchanged(theirs)), key=lambda pair: pair[1]
    )
    if misfit < FIT * size:
        raise InputError(
            f"source and target are in different axes: the target's ({name}) fit the source's (x, y, z); "
            f"give both in the same"
        )


def warnings_of(source: np.ndarray, target: np.ndarray, axes: str) -> list[str]:
    """What looks wrong with a pair that was read in the named axes, one line each. source (N, 3), target (M, 3)."""
    found = []
    for name, cloud in (("source", source), ("target", target)):
        distance = float(np.median(np.linalg.norm(cloud, axis=1)))
        if not METRES[0] <= distance <= METRES[1]:
            found.append(
                f"the {name}'s median distance from the sensor is {distance:.4g}: this does not look like "
                f"metres, and the networks know metres only"
            )
        behind = _behind(cloud, axes)
        if behind > BEHIND:
            better = [other for other in AXES if _behind(cloud, other) <= BEHIND]
            fix = f"--axes {better[0]} would put them in front" if better else "the networks know points in front only"
            found.append(
                f"{100 * behind:.0f} % of the {name}'s points have a depth of 0 or less with --axes {axes}: {fix}"
            )
    centres = np.median(source, axis=0), np.median(target, axis=0)
    apart = float(np.linalg.norm(centres[0] - centres[1]))
    if apart > APART * _size(source):
        found.append(
            f"the clouds' centres are {apart:.3g} apart, more than the source is large: are both in the frame "
            f"of the sensor?"
        )
    return found


def _size(cloud: np.ndarray) -> float:
    return math.sqrt(float(np.var(cloud, axis=0, dtype=np.float64).sum()))


def _behind(cloud: np.ndarray, axes: str) -> float:
    """Share of the points that lie behind the camera when the cloud is in the named axes."""
    return float((cloud @ AXES[axes][1][2] <= 0.0).mean())


def _exchanged(quantiles: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """All 47 other ways to order and negate the axes: (their names, the quantiles (3 quantiles, 3 axes))."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            if order == (0, 1, 2) and signs == (1, 1, 1):
                continue
            turned = [
                quantiles[:, k] if sign > 0 else -quantiles[::-1, k] for k, sign in zip(order, signs, strict=True)
            ]
            name = ", ".join(("" if sign > 0 else "-") + "xyz"[k] for k, sign in zip(order, signs, strict=True))
            yield name, np.stack(turned, axis=1)
