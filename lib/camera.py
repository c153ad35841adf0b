"""Camera models, the calibration of KITTI, and rotations.

The pixel axes are the image's: u to the right, v down. There are two families of point clouds, both in metres.

* Scene flow: x to the left, y up, z forward (the depth). That is why the focal lengths of `Camera` are negative.
* Detection: the LiDAR frame and the rectified camera frame of KITTI, see `Calibration`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with the last column of its 3 x 4 projection matrix (P_rect of KITTI).

    f, cx, cy in px; p03, p13 in px m; p23 in m.
    """

    f: float
    cx: float
    cy: float
    p03: float = 0.0
    p13: float = 0.0
    p23: float = 0.0

    def project(self, xyz: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """Image positions of points.

        xyz: (..., 3) in metres, x left, y up, z forward. Returns (..., 2) in px, of the same library and type:
        u = (x f + cx z + p03) / (z + p23) and v = (y f + cy z + p13) / (z + p23). Points must lie in front of the
        camera.
        """
        x, y, z = xyz[..., 0], xyz[..., 1], xyz[..., 2]
        depth = z + self.p23
        u = (x * self.f + self.cx * z + self.p03) / depth
        v = (y * self.f + self.cy * z + self.p13) / depth
        stack = torch.stack if isinstance(xyz, torch.Tensor) else np.stack
        return stack((u, v), -1)  # (..., 2)

    @property
    def centre(self) -> np.ndarray:
        """The optical centre (3,) in metres: the one point without an image. The origin when p03 = p13 = p23 = 0."""
        return np.array([(self.cx * self.p23 - self.p03) / self.f, (self.cy * self.p23 - self.p13) / self.f, -self.p23])


FLYINGTHINGS3D_CAMERA = Camera(f=-1050.0, cx=479.5, cy=269.5)  # 960 x 540 px, baseline 1


@dataclass(frozen=True, eq=False)
class Calibration:
    """The calibration of one frame of KITTI's object benchmark, named as in its calib files. All in float64.

    LiDAR frame: x ahead, y left, z up. Rectified camera frame: x right, y down, z ahead. Metres.
    P2 (3, 4): rectified camera -> colour image; its last column in px m, px m, m. R0_rect (3, 3): the rectifying
    rotation. Tr_velo_to_cam (3, 4): LiDAR -> camera before rectification.
    """

    P2: np.ndarray
    R0_rect: np.ndarray
    Tr_velo_to_cam: np.ndarray

    @property
    def lidar_to_camera(self) -> np.ndarray:
        """M = R0_rect Tr_velo_to_cam as a 4 x 4 matrix: LiDAR frame -> rectified camera frame."""
        return np.vstack((self.R0_rect @ self.Tr_velo_to_cam, (0.0, 0.0, 0.0, 1.0)))

    def to_camera(self, xyz: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the LiDAR frame in the rectified camera frame, float64."""
        matrix = self.lidar_to_camera
        return xyz.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]

    def to_lidar(self, xyz: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the rectified camera frame in the LiDAR frame, float64: the inverse of `to_camera`."""
        matrix = np.linalg.inv(self.lidar_to_camera)
        return xyz.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]

    def project(self, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image positions of points of the rectified camera frame (..., 3).

        Returns (pixels, depth), float64: pixels (..., 2) in px and depth (...) in m, the third row of
        P2 [x y z 1], which contains P2[2, 3]. Where depth <= 0 a point has no image, and its pixels are nan.
        """
        image = xyz.astype(np.float64) @ self.P2[:, :3].T + self.P2[:, 3]  # (..., 3)
        depth = image[..., 2]
        front = np.where(depth > 0.0, depth, np.nan)
        return image[..., :2] / front[..., None], depth

    def in_view(self, xyz: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Which LiDAR points (..., 3) the camera sees: (...), bool.

        size: (width, height) of the image in px. Seen means depth > 0, 0 <= u < width and 0 <= v < height.
        """
        pixels, depth = self.project(self.to_camera(xyz))
        inside = ((pixels >= 0.0) & (pixels < size)).all(-1)  # False for nan
        return inside & (depth > 0.0)


def rotation_about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation matrix (3, 3) about an axis (3,) of any length but zero, by an angle in radians (Rodrigues' formula)."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
