"""The six metrics: by hand, at their thresholds, and against an independent plain-Python formulation."""

import math

import numpy as np
import pytest
import torch

from lib.camera import FLYINGTHINGS3D_CAMERA, Camera
from lib.errors import InputError
from lib.metrics.scene_flow import METRICS, average, scene_flow_metrics

KITTI_CAMERA = Camera(-721.5377, 609.5593, 172.854, 44.85728, 0.2163791, 0.002745884)
CAMERAS = {"ft3d": FLYINGTHINGS3D_CAMERA, "kitti": KITTI_CAMERA}


def reference(predicted, flow, xyz1, camera):
    """The definitions once more, a point at a time, with the projection matrix written out."""
    rows = [[-camera.f, 0, camera.cx, camera.p03], [0, -camera.f, camera.cy, camera.p13], [0, 0, 1, camera.p23]]

    def pixel(point):
        x, y, z = -point[0], -point[1], point[2]
        u, v, w = (r[0] * x + r[1] * y + r[2] * z + r[3] for r in rows)
        return u / w, v / w

    sums = dict.fromkeys(METRICS, 0.0)
    for p, g, start in zip(predicted.tolist(), flow.tolist(), xyz1.tolist(), strict=True):
        e = math.dist(p, g)
        r = e / (math.hypot(*g) + 1e-4)
        here, true, guess = (
            pixel(start),
            pixel([a + b for a, b in zip(start, g, strict=True)]),
            pixel([a + b for a, b in zip(start, p, strict=True)]),
        )
        e2 = math.dist(guess, true)
        length = math.dist(true, here)
        sums["EPE3D"] += e
        sums["ACC3DS"] += e < 0.05 or r < 0.05
        sums["ACC3DR"] += e < 0.1 or r < 0.1
        sums["Outliers3D"] += e > 0.3 or r > 0.1
        sums["EPE2D"] += e2
        sums["ACC2D"] += e2 < 3 or e2 / (length + 1e-5) < 0.05
    return {name: total / len(flow) for name, total in sums.items()}


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("scale", [0.02, 0.1, 0.5])
def test_independent_formulation(name, scale):
    rng = np.random.default_rng(3)
    xyz1 = rng.uniform((-8, -1, 4), (8, 3, 35), (400, 3))
    flow = rng.normal(0, 1, (400, 3)) * rng.choice((0.0, 0.2, 1.0, 4.0), (400, 1))
    predicted = flow + rng.normal(0, scale, (400, 3))
    got = scene_flow_metrics(predicted, flow, xyz1, CAMERAS[name])
    expected = reference(predicted, flow, xyz1, CAMERAS[name])
    assert tuple(got) == METRICS
    assert got == pytest.approx(expected, rel=1e-10)
    shares = [expected[k] for k in ("ACC3DS", "ACC3DR", "Outliers3D", "ACC2D")]
    assert any(0.0 < share < 1.0 for share in shares)


def test_by_hand():
    xyz1 = np.array([[0.0, 0.0, 10.0], [1.0, 0.0, 10.0], [0.0, 2.0, 10.0], [0.0, 0.0, 21.0]])
    flow = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    off = np.array([[0.0, 0.0, 0.0], [0.07, 0.0, 0.0], [0.0, 0.04, 0.0], [0.4, 0.0, 0.0]])
    # e = 0, 0.07, 0.04, 0.4; r = 0, 0.07, 400, 0.2. At 10 m a metre is 105 px, at 21 m 50 px:
    # e2 = 0, 7.35, 4.2, 20 px; |g| = 105, 105, 0, 100 px, so e2 / |g| = 0, 0.07, huge, 0.2.
    got = scene_flow_metrics(flow + off, flow, xyz1, FLYINGTHINGS3D_CAMERA)
    assert got == pytest.approx(
        {"EPE3D": 0.51 / 4, "ACC3DS": 2 / 4, "ACC3DR": 3 / 4, "Outliers3D": 2 / 4, "EPE2D": 31.55 / 4, "ACC2D": 1 / 4}
    )


@pytest.mark.parametrize("name", CAMERAS)
def test_perfect_prediction(name):
    flow = np.random.default_rng(0).normal(size=(20, 3))
    got = scene_flow_metrics(flow, flow, np.full((20, 3), 10.0), CAMERAS[name])
    assert got == {"EPE3D": 0.0, "ACC3DS": 1.0, "ACC3DR": 1.0, "Outliers3D": 0.0, "EPE2D": 0.0, "ACC2D": 1.0}


@pytest.mark.parametrize("name", CAMERAS)
def test_zero_flow_is_judged_by_the_absolute_thresholds(name):
    xyz1, zero = np.array([[0.0, 0.0, 10.0]]), np.zeros((1, 3))
    near = scene_flow_metrics(np.array([[0.02, 0.0, 0.0]]), zero, xyz1, CAMERAS[name])
    assert (near["ACC3DS"], near["ACC3DR"], near["ACC2D"]) == (1.0, 1.0, 1.0)
    assert near["Outliers3D"] == 1.0  # r = 0.02 / 1e-4 is far above 0.1: the definition's own doing
    assert scene_flow_metrics(zero, zero, xyz1, CAMERAS[name])["Outliers3D"] == 0.0
    far = scene_flow_metrics(np.array([[0.2, 0.0, 0.0]]), zero, xyz1, CAMERAS[name])
    assert (far["ACC3DS"], far["ACC3DR"], far["ACC2D"]) == (0.0, 0.0, 0.0)


def below(x):
    return math.nextafter(x, 0.0)


def above(x):
    return math.nextafter(x, math.inf)


@pytest.mark.parametrize("metric,threshold", [("ACC3DS", 0.05), ("ACC3DR", 0.1)])
def test_accuracy_threshold_on_e_is_strict(metric, threshold):
    def share(error):  # with no true flow, r = e / 1e-4 decides nothing
        return scene_flow_metrics(
            np.array([[error, 0, 0]]), np.zeros((1, 3)), np.array([[0, 0, 10.0]]), FLYINGTHINGS3D_CAMERA
        )[metric]

    assert (share(below(threshold)), share(threshold), share(above(threshold))) == (1.0, 0.0, 0.0)


def test_outlier_threshold_on_e_is_strict():
    def share(error):  # the true flow points along y, far longer than the error: r < 0.1
        return scene_flow_metrics(
            np.array([[error, 8.0, 0.0]]), np.array([[0.0, 8.0, 0.0]]), np.array([[0, 0, 10.0]]), FLYINGTHINGS3D_CAMERA
        )["Outliers3D"]

    assert (share(0.3), share(above(0.3))) == (0.0, 1.0)


@pytest.mark.parametrize(
    "metric,threshold,inside", [("ACC3DS", 0.05, 1.0), ("ACC3DR", 0.1, 1.0), ("Outliers3D", 0.1, 0.0)]
)
def test_relative_thresholds_count_the_epsilon(metric, threshold, inside):
    def share(length):
        flow = np.array([[length, 0.0, 0.0]])
        return scene_flow_metrics(flow + (0.0, 0.2, 0.0), flow, np.array([[0, 0, 10.0]]), FLYINGTHINGS3D_CAMERA)[metric]

    exact = 0.2 / threshold - 1e-4  # here r equals the threshold; without the epsilon it would be 0.2 / threshold
    assert share(exact + 1e-6) == inside
    assert share(exact - 1e-6) == 1.0 - inside


def test_image_threshold_is_strict_at_three_pixels():
    camera = Camera(f=-64.0, cx=0.0, cy=0.0)  # powers of two: every step below is exact

    def share(error):
        predicted, start = np.array([[error, 0, 0]]), np.array([[0, 0, 16.0]])
        return scene_flow_metrics(predicted, np.zeros((1, 3)), start, camera)["ACC2D"]

    assert (share(below(0.75)), share(0.75)) == (1.0, 0.0)


def test_float32_tensors_are_measured_in_float64():
    flow = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    predicted = (flow + 0.01).requires_grad_()
    xyz1 = torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) + torch.tensor([0.0, 0.0, 9.0])
    arrays = [a.detach().double().numpy() for a in (predicted, flow, xyz1)]
    assert scene_flow_metrics(predicted, flow, xyz1, KITTI_CAMERA) == scene_flow_metrics(*arrays, KITTI_CAMERA)


def test_average_counts_every_scene_alike():
    one = {name: float(k) for k, name in enumerate(METRICS)}
    two = {name: 3.0 * k for k, name in enumerate(METRICS)}
    assert average([one, two]) == {name: 2.0 * k for k, name in enumerate(METRICS)}


def test_average_of_nothing_is_an_error():
    with pytest.raises(InputError, match="^no scene to average over$"):
        average([])


@pytest.mark.parametrize(
    "shapes", [((4, 3), (5, 3), (4, 3)), ((4, 3), (4, 3), (5, 3)), ((4, 2),) * 3, ((0, 3),) * 3, ((1, 4, 3),) * 3]
)
def test_wrong_shapes(shapes):
    with pytest.raises(InputError, match="^metrics need three arrays"):
        scene_flow_metrics(*(np.zeros(shape) for shape in shapes), KITTI_CAMERA)
