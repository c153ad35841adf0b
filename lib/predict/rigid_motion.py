"""The rigid motion that most points of a scene share. A moving sensor sees the still world move so."""

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from lib.errors import InputError

FOLLOWS = 0.1  # m; a point follows the motion if its flow ends nearer than this to where the motion takes it
STARTS, START_POINTS = 50, 2000  # so many starts, each from 3 points; so many points to compare them on
MAX_ITERATIONS = 100
LINE = 1e-6  # points lie on a line if they extend less than this share of its length across it


class RigidMotion(NamedTuple):
    """p -> rotation p + translation, and which points move so.

    rotation (3, 3) and translation (3,), float64, metres. distances (N,) float64, metres: from where the motion takes
    each point to where its flow takes it.
    """

    rotation: np.ndarray
    translation: np.ndarray
    distances: np.ndarray

    @property
    def follows(self) -> np.ndarray:
        """(N,) bool: the points that end within FOLLOWS of the motion."""
        return self.distances < FOLLOWS

    def lines(self) -> list[tuple[str, str]]:
        """(name, value) for reading: axis and angle of the turn, translation, and how much of the scene follows."""
        turn = Rotation.from_matrix(self.rotation).as_rotvec(degrees=True)
        angle = float(np.linalg.norm(turn))
        axis = turn / angle if angle > 0.0 else turn
        return [
            ("rigid", f"turn of {angle:.3f} degrees about ({_row(axis)}), then by ({_row(self.translation)}) m"),
            ("follow", f"{100 * self.follows.mean():.1f} % of the points follow it within {FOLLOWS:g} m"),
        ]


def fit_rigid_motion(source: np.ndarray, flow: np.ndarray) -> RigidMotion:
    """The rotation R and translation t that minimise, over the half H of the points that they fit best,

        sum over i in H of | R p_i + t - (p_i + f_i) |^2

    source p and flow f (N, 3), metres, N >= 3. This is least trimmed squares (Rousseeuw 1984): almost half of the
    points may move in any other way. The algorithm is FAST-LTS (Rousseeuw & Van Driessen 2006). Its step: fit a motion
    to the current half, then take the half that this motion fits best; no step raises the sum. Steps are made from many
    random starts on a part of the points, then from the best of them on all points, until the half stays the same.
    A motion is fitted by Kabsch's method. The seed of the starts is fixed.
    Raises InputError for fewer than 3 points, and when the half lies on a line: then R is not determined.
    """
    if len(source) < 3:
        raise InputError(f"a rigid motion needs at least 3 points, not {len(source)}")
    before = np.asarray(source, dtype=np.float64)
    after = before + flow
    _check_spread(before)
    distances = _distances(_start(before, after), before, after)
    chosen = np.arange(0)
    for _ in range(MAX_ITERATIONS):
        nearest = _half(distances)
        if np.array_equal(nearest, chosen):
            break
        chosen = nearest
        _check_spread(before[chosen])
        motion = _fit(before[chosen], after[chosen])
        distances = _distances(motion, before, after)
    return RigidMotion(*motion, distances)


Motion = tuple[np.ndarray, np.ndarray]  # rotation (3, 3), translation (3,)


def _start(before: np.ndarray, after: np.ndarray) -> Motion:
    """The best of many motions, on a part of the points. Each comes by two steps from all points or from three."""
    generator = np.random.default_rng(0)
    if len(before) > START_POINTS:
        some = generator.choice(len(before), START_POINTS, replace=False)
        before, after = before[some], after[some]
    found = []
    for chosen in [np.arange(len(before)), *(generator.choice(len(before), 3, replace=False) for _ in range(STARTS))]:
        for _ in range(2):
            if not _is_spread(before[chosen]):
                break
            motion = _fit(before[chosen], after[chosen])
            distances = _distances(motion, before, after)
            chosen = _half(distances)
            found.append((float(np.sum(distances[chosen] ** 2)), len(found), motion))
    return min(found)[2]


def _fit(before: np.ndarray, after: np.ndarray) -> Motion:
    """Least squares over all points (n, 3)."""
    centre, moved = before.mean(axis=0), after.mean(axis=0)
    rotation = Rotation.align_vectors(after - moved, before - centre)[0].as_matrix()
    return rotation, moved - rotation @ centre


def _distances(motion: Motion, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(n,) metres: how far each point (n, 3) ends from where the motion takes it."""
    rotation, translation = motion
    return np.linalg.norm(before @ rotation.T + translation - after, axis=1)


def _half(distances: np.ndarray) -> np.ndarray:
    """Sorted indices of the nearer half, one more than half and at least 3."""
    size = max(3, len(distances) // 2 + 1)
    return np.sort(np.argsort(distances, kind="stable")[:size])


def _is_spread(points: np.ndarray) -> bool:
    """Whether points (n, 3) lie on no line."""
    extents = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)  # (3,), falling
    return extents[1] > LINE * extents[0]


def _check_spread(points: np.ndarray) -> None:
    if not _is_spread(points):
        raise InputError("no rigid motion: half of the points or more lie on one line, so any turn about it would do")


def _row(vector: np.ndarray) -> str:
    return ", ".join(f"{round(float(value), 4) + 0.0:.4f}" for value in vector)
