"""Camera model and rotations.

All point clouds of this project use one frame: x to the left, y up, z forward (the depth), in metres. The pixel axes
are the image's: u to the right, v down. That is why the focal lengths below are negative.
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


def rotation_about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation matrix (3, 3) about an axis (3,) of any length but zero, by an angle in radians (Rodrigues' formula)."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
