"""The rigid motion of a scene: known motions, points that move on their own, and clouds that determine none."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lib.ops import InputError
from lib.predict.rigid_motion import FOLLOWS, fit_rigid_motion

TURN = Rotation.from_rotvec([0.02, -0.15, 0.05])
SHIFT = np.array([0.3, -0.1, 1.2])


def scene(points=2000, seed=0):
    return np.random.default_rng(seed).uniform((-20, -2, 4), (20, 5, 35), (points, 3))


def flow_of(cloud, turn=TURN, shift=SHIFT):
    return turn.apply(cloud) + shift - cloud


def assert_motion(fit, turn=TURN, shift=SHIFT, tolerance=1e-9):
    assert np.abs(fit.rotation - turn.as_matrix()).max() <= tolerance
    assert np.abs(fit.translation - shift).max() <= 40 * tolerance  # the scene lies up to 40 m from the origin


@pytest.mark.parametrize(
    "turn", [TURN, Rotation.identity(), Rotation.from_rotvec([0, np.pi, 0]), Rotation.from_rotvec([3.0, 0.2, -0.4])]
)
def test_an_exact_motion_comes_back(turn):
    cloud = scene()
    fit = fit_rigid_motion(cloud, flow_of(cloud, turn))
    assert_motion(fit, turn)
    assert np.linalg.det(fit.rotation) == pytest.approx(1.0) and fit.follows.all() and fit.distances.max() < 1e-9


def test_float32_clouds():
    cloud = scene().astype(np.float32)
    assert_motion(fit_rigid_motion(cloud, flow_of(cloud).astype(np.float32)), tolerance=1e-6)


def test_three_points():
    cloud = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert_motion(fit_rigid_motion(cloud, flow_of(cloud)))


def test_a_plane_is_enough_and_is_not_mirrored():
    cloud = scene() * (1, 0, 1)
    fit = fit_rigid_motion(cloud, flow_of(cloud))
    assert_motion(fit)
    assert np.linalg.det(fit.rotation) == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45])
def test_points_that_move_on_their_own_do_not_count(share):
    """Vehicles: blocks of points, each with a motion of its own, up to almost half of the scene."""
    cloud = scene()
    flow = flow_of(cloud)
    moving = cloud[:, 0] > np.quantile(cloud[:, 0], 1 - share)
    flow[moving] += (0.5, 0.0, -2.0)
    fit = fit_rigid_motion(cloud, flow)
    assert_motion(fit)
    assert np.array_equal(fit.follows, ~moving)


def test_noise_is_averaged():
    cloud, rng = scene(), np.random.default_rng(1)
    fit = fit_rigid_motion(cloud, flow_of(cloud) + rng.normal(0, 0.02, cloud.shape))
    assert_motion(fit, tolerance=1e-3)
    assert fit.follows.mean() > 0.99
    assert fit.follows.tolist() == (fit.distances < FOLLOWS).tolist()


def test_it_is_the_least_of_the_trimmed_sum():
    """The half is the nearest half, and no change of the motion fits that half better."""
    cloud, rng = scene(400), np.random.default_rng(2)
    flow = flow_of(cloud) + rng.normal(0, 0.05, cloud.shape)
    fit = fit_rigid_motion(cloud, flow)
    half = np.argsort(fit.distances)[:201]

    def trimmed(rotation, translation):
        return np.sum((cloud[half] @ rotation.T + translation - cloud[half] - flow[half]) ** 2)

    least = trimmed(fit.rotation, fit.translation)
    assert least == pytest.approx(np.sum(np.sort(fit.distances)[:201] ** 2))
    for _ in range(50):
        turned = Rotation.from_rotvec(rng.normal(0, 1e-4, 3)).as_matrix() @ fit.rotation
        assert trimmed(turned, fit.translation) >= least
        assert trimmed(fit.rotation, fit.translation + rng.normal(0, 1e-3, 3)) >= least


LINE = "no rigid motion: half of the points or more lie on one line, so any turn about it would do"


@pytest.mark.parametrize(
    "cloud, said",
    [
        (scene(2), "a rigid motion needs at least 3 points, not 2"),
        (np.outer(np.arange(50.0), (1, 2, 3)) + 5, LINE),
        (np.ones((50, 3)), LINE),
    ],
)
def test_clouds_that_determine_no_motion(cloud, said):
    with pytest.raises(InputError) as error:
        fit_rigid_motion(cloud, np.zeros_like(cloud))
    assert str(error.value) == said


def test_lines_for_reading():
    cloud = scene()
    flow = flow_of(cloud, Rotation.from_rotvec([0, np.radians(3), 0]))
    flow[:100] += 5
    assert fit_rigid_motion(cloud, flow).lines() == [
        ("rigid", "turn of 3.000 degrees about (0.0000, 1.0000, 0.0000), then by (0.3000, -0.1000, 1.2000) m"),
        ("follow", "95.0 % of the points follow it within 0.1 m"),
    ]
