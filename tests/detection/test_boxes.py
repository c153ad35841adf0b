"""The box convention of lib/boxes.py and the calibration of lib/camera.py, against values worked out by hand."""

import math

import numpy as np
import pytest
import torch

from lib import boxes
from lib.camera import Calibration
from lib.errors import InputError

HALF = math.pi / 2
AXES = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # LiDAR axes -> camera axes: no tilt
P2 = np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]])
PLAIN = Calibration(P2, np.eye(3), np.hstack((AXES, [[0.0], [0.0], [0.0]])))
SIZE = (1242, 375)


def tilted() -> Calibration:
    """A calibration with tilts and shifts like those of a real car."""
    a, b = 0.011, -0.007
    turn = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    nod = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    return Calibration(P2, nod, np.hstack((turn @ AXES, [[-0.004], [-0.076], [-0.272]])))


def random_boxes(count: int, seed: int = 0) -> np.ndarray:
    """LiDAR boxes (count, 7) ahead of the car."""
    generator = np.random.default_rng(seed)
    low, high = (5, -20, -2, 0.5, 0.5, 1, -math.pi), (70, 20, 1, 5, 2, 2, math.pi)
    return generator.uniform(low, high, (count, 7))


@pytest.mark.parametrize(
    ("angle", "wrapped"),
    [
        (0, 0),
        (math.pi, -math.pi),
        (-math.pi, -math.pi),
        (3, 3),
        (4, 4 - 2 * math.pi),
        (-4, 2 * math.pi - 4),
        (7 * HALF, -HALF),
    ],
)
def test_angles_wrap_to_minus_pi_included_pi_excluded(angle, wrapped):
    assert boxes.wrap_angle(np.array(float(angle))) == pytest.approx(wrapped, abs=1e-12)
    assert boxes.wrap_angle(torch.tensor(float(angle), dtype=torch.float64)).item() == pytest.approx(wrapped, abs=1e-12)


def test_no_rounding_leaves_pi():
    angles = np.nextafter(-math.pi, -4) * np.array([1, -1, 3, -3, 1001.0])
    assert (boxes.wrap_angle(angles) < math.pi).all() and (boxes.wrap_angle(angles) >= -math.pi).all()


def test_corners_of_a_lidar_box_by_hand():
    # 4 long, 2 wide, 1.5 high, turned a quarter to the left: it now drives along +y.
    corners = boxes.lidar_corners(np.array([10, 1, -1, 4, 2, 1.5, HALF]))
    expected = [(9, 3), (11, 3), (11, -1), (9, -1)]  # ahead left, ahead right, behind right, behind left
    np.testing.assert_allclose(corners[:4, :2], expected, atol=1e-12)
    np.testing.assert_allclose(corners[4:, :2], expected, atol=1e-12)
    np.testing.assert_allclose(corners[:, 2], [-1.75] * 4 + [-0.25] * 4, atol=1e-12)


def test_corners_of_a_camera_box_by_hand():
    # rotation_y = -pi/2 drives away from the camera: ahead is +z, left is -x.
    corners = boxes.camera_corners(np.array([1, 2, 10, 1.5, 2, 4, -HALF]))
    np.testing.assert_allclose(corners[:4, [0, 2]], [(0, 12), (2, 12), (2, 8), (0, 8)], atol=1e-12)
    np.testing.assert_allclose(corners[:, 1], [2] * 4 + [0.5] * 4, atol=1e-12)


def test_conversion_by_hand():
    # 10 m ahead, 1 m to the right, on the ground 1.7 m below the camera, driving away.
    lidar = boxes.camera_to_lidar(np.array([1, 1.7, 10, 1.5, 1.6, 3.9, -HALF]), PLAIN.lidar_to_camera)
    np.testing.assert_allclose(lidar, [10, -1, -0.95, 3.9, 1.6, 1.5, 0], atol=1e-12)
    # rotation_y = 0 drives to the right, which is -y of the LiDAR.
    right = boxes.camera_to_lidar(np.array([1, 1.7, 10, 1.5, 1.6, 3.9, 0]), PLAIN.lidar_to_camera)
    assert right[6] == pytest.approx(-HALF)


def test_there_and_back():
    lidar, matrix = random_boxes(500), tilted().lidar_to_camera
    camera = boxes.lidar_to_camera(lidar, matrix)
    assert np.abs(camera[:, :3] - lidar[:, :3]).max() > 1
    np.testing.assert_allclose(boxes.camera_to_lidar(camera, matrix), lidar, rtol=0, atol=1e-9)
    assert (camera[:, 6] >= -math.pi).all() and (camera[:, 6] < math.pi).all()
    back = boxes.lidar_to_camera(boxes.camera_to_lidar(camera, matrix), matrix)
    np.testing.assert_allclose(back, camera, rtol=0, atol=1e-9)


def test_both_forms_have_the_same_corners_in_the_same_order():
    lidar = random_boxes(100)
    camera = boxes.lidar_to_camera(lidar, PLAIN.lidar_to_camera)  # without tilt the two are exact
    np.testing.assert_allclose(PLAIN.to_camera(boxes.lidar_corners(lidar)), boxes.camera_corners(camera), atol=1e-9)


def test_points_there_and_back():
    calibration, points = tilted(), random_boxes(200)[:, :3]
    np.testing.assert_allclose(calibration.to_lidar(calibration.to_camera(points)), points, rtol=0, atol=1e-9)


def test_observation_angle_by_hand():
    # On the diagonal to the right (45 degrees), driving straight away.
    assert boxes.observation_angle(np.array([10.0, 1, 10, 1, 1, 1, -HALF])) == pytest.approx(-HALF - math.pi / 4)
    assert boxes.observation_angle(np.array([-10.0, 1, 10, 1, 1, 1, 3])) == pytest.approx(3 + math.pi / 4 - 2 * math.pi)


@pytest.mark.parametrize(
    ("yaw", "swapped"),
    [
        (0, False),
        (0.78, False),
        (0.79, True),
        (HALF, True),
        (-HALF, True),
        (2.35, True),
        (2.36, False),
        (-3.1, False),
        (-0.79, True),
    ],
)
def test_nearest_bev_box(yaw, swapped):
    expected = [9, -1, 11, 3] if swapped else [8, 0, 12, 2]
    np.testing.assert_allclose(boxes.nearest_bev(np.array([10, 1, 0, 4, 2, 1, yaw], float)), expected)


def test_projected_box_by_hand():
    # The near face, at z = 8, is the larger one: x from 0 to 2, y from 0.5 to 2.
    box = np.array([1, 2, 10, 1.5, 2, 4, -HALF])
    rectangle, visible = boxes.projected_box(box, P2, SIZE)
    expected = [600, 180 + 700 * 0.5 / 12, 600 + 700 * 2 / 8, 180 + 700 * 2 / 8]
    np.testing.assert_allclose(rectangle, expected, atol=1e-9)
    assert visible


def test_projected_box_is_clipped_to_the_last_pixel():
    rectangle, visible = boxes.projected_box(np.array([8, 2, 10, 1.5, 2, 4, -HALF]), P2, (1242, 300))
    assert visible and rectangle[2] == 1241 and rectangle[3] == 299


@pytest.mark.parametrize("x, z", [(40, 10), (-40, 10), (0, -10)], ids=("right of it", "left of it", "behind"))
def test_boxes_outside_the_image_are_not_visible(x, z):
    assert not boxes.projected_box(np.array([x, 2, z, 1.5, 2, 4, -HALF], float), P2, SIZE)[1]


def test_a_box_that_reaches_behind_the_camera_is_cut_there():
    # Beside the camera: x from 1 to 3, z from -3 to 5. What is ahead fills the image from x/z = 1/5 to the right edge.
    rectangle, visible = boxes.projected_box(np.array([2.0, 2, 1, 1.5, 2, 8, -HALF]), P2, SIZE)
    assert visible
    np.testing.assert_allclose(rectangle, [600 + 700 / 5, 180 + 700 * 0.5 / 5, 1241, 374], atol=1e-9)


def test_in_view_by_hand():
    points = np.array([[10, 0, 0], [-10, 0, 0], [10, 8.571, 0], [10, 8.572, 0], [10, 0, 2.571], [10, 0, 2.572]])
    assert PLAIN.in_view(points, SIZE).tolist() == [True, False, True, False, True, False]
    pixels, depth = PLAIN.project(PLAIN.to_camera(points[:2]))
    np.testing.assert_allclose(pixels[0], [600, 180])
    assert np.isnan(pixels[1]).all() and depth.tolist() == [10, -10]


def test_torch_gives_what_numpy_gives():
    lidar, matrix = random_boxes(24).reshape(2, 3, 4, 7), tilted().lidar_to_camera
    tensor, camera = torch.from_numpy(lidar), boxes.lidar_to_camera(lidar, matrix)
    pairs = [
        (boxes.lidar_corners(tensor), boxes.lidar_corners(lidar)),
        (boxes.lidar_to_camera(tensor, matrix), camera),
        (boxes.camera_to_lidar(torch.from_numpy(camera), matrix), boxes.camera_to_lidar(camera, matrix)),
        (boxes.camera_corners(torch.from_numpy(camera)), boxes.camera_corners(camera)),
        (boxes.observation_angle(torch.from_numpy(camera)), boxes.observation_angle(camera)),
        (boxes.nearest_bev(tensor), boxes.nearest_bev(lidar)),
        *zip(
            boxes.projected_box(torch.from_numpy(camera), P2, SIZE), boxes.projected_box(camera, P2, SIZE), strict=True
        ),
    ]
    for ours, theirs in pairs:
        assert isinstance(ours, torch.Tensor) and ours.shape[:3] == (2, 3, 4) and ours.shape == theirs.shape
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-9)
    assert boxes.lidar_to_camera(tensor.float(), matrix).dtype == torch.float32


def test_no_boxes_are_fine():
    none = np.zeros((0, 7))
    assert boxes.lidar_corners(none).shape == (0, 8, 3) and boxes.projected_box(none, P2, SIZE)[0].shape == (0, 4)


@pytest.mark.parametrize(
    "wrong", [np.zeros((3, 6)), torch.zeros(8), np.zeros(7, int), torch.zeros(7, dtype=torch.int64)]
)
def test_other_arrays_are_refused(wrong):
    with pytest.raises(InputError, match="boxes have"):
        boxes.lidar_corners(wrong)
