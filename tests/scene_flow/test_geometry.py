"""Camera and rotations."""

import numpy as np
import pytest
import torch

from lib.camera import FLYINGTHINGS3D_CAMERA, Camera, rotation_about

KITTI_CAMERA = Camera(-721.5377, 609.5593, 172.854, 44.85728, 0.2163791, 0.002745884)


def test_flyingthings_by_hand():
    # 2 m to the left and 1 m up at 10 m: left is smaller u, up is smaller v.
    u, v = FLYINGTHINGS3D_CAMERA.project(np.array([2.0, 1.0, 10.0]))
    assert (u, v) == pytest.approx((479.5 - 210.0, 269.5 - 105.0))


def test_kitti_is_the_projection_matrix_applied_to_unflipped_coordinates():
    matrix = np.array([[721.5377, 0, 609.5593, 44.85728], [0, 721.5377, 172.854, 0.2163791], [0, 0, 1, 0.002745884]])
    points = np.random.default_rng(0).uniform((-8, -1, 4), (8, 3, 35), (50, 3))
    homogeneous = np.column_stack([points * (-1, -1, 1), np.ones(50)]) @ matrix.T
    np.testing.assert_allclose(KITTI_CAMERA.project(points), homogeneous[:, :2] / homogeneous[:, 2:], rtol=1e-12)


@pytest.mark.parametrize("camera", [FLYINGTHINGS3D_CAMERA, KITTI_CAMERA])
def test_numpy_and_torch_agree_and_keep_type_and_leading_shape(camera):
    points = np.random.default_rng(1).uniform((-8, -1, 4), (8, 3, 35), (2, 5, 3))
    pixels = camera.project(points)
    tensor = camera.project(torch.from_numpy(points).float())
    assert isinstance(pixels, np.ndarray) and pixels.shape == (2, 5, 2) and pixels.dtype == np.float64
    assert isinstance(tensor, torch.Tensor) and tensor.shape == (2, 5, 2) and tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), pixels, rtol=1e-5)


@pytest.mark.parametrize("camera", [FLYINGTHINGS3D_CAMERA, KITTI_CAMERA])
def test_points_on_a_ray_from_the_centre_share_their_pixel(camera):
    ray = np.array([0.3, -0.2, 1.0])
    pixels = camera.project(camera.centre + np.array([[1.0], [7.0], [30.0]]) * ray)
    np.testing.assert_allclose(pixels, np.broadcast_to(pixels[:1], (3, 2)), atol=1e-9)


def test_rotation_turns_z_to_x_about_y_and_is_orthonormal():
    np.testing.assert_allclose(rotation_about(np.array([0.0, 3.0, 0.0]), np.pi / 2) @ (0, 0, 1), (1, 0, 0), atol=1e-15)
    matrix = rotation_about(np.array([1.0, -2.0, 0.5]), 0.7)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(matrix) == pytest.approx(1.0)
    assert np.trace(matrix) == pytest.approx(1.0 + 2.0 * np.cos(0.7))
