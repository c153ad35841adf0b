"""Small frames made by hand, for the tests of samples, augmentation and database."""

from collections.abc import Sequence

import numpy as np
import torch

from lib.boxes import camera_to_lidar, lidar_to_camera
from lib.camera import Calibration
from lib.datasets.kitti_object import Frame, Label
from lib.ops import points_in_boxes

CALIBRATION = Calibration(
    P2=np.array([[700.0, 0, 600, 40], [0, 700, 180, 0.2], [0, 0, 1, 0.003]]),
    R0_rect=np.eye(3),
    Tr_velo_to_cam=np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27]]),
)
CLASSES = ("Pedestrian", "Cyclist", "Car")
AREA = (0.0, -39.68, -3.0, 69.12, 39.68, 1.0)
CAR = (10.0, 2.0, -1.0, 4.0, 1.6, 1.5, 0.3)  # LiDAR boxes
FAR_CAR = (40.0, -8.0, -1.0, 4.0, 1.6, 1.5, -2.0)
WALKER = (20.0, -3.0, -0.8, 0.8, 0.6, 1.8, 1.0)


class Made(list):
    """Frames in memory."""

    @property
    def names(self) -> list[str]:
        return [frame.name for frame in self]


def label(type: str, box: Sequence[float], occluded: int = 0, height: float = 50.0) -> Label:
    """The label of a LiDAR box. height: of the 2-D box, in px."""
    camera = lidar_to_camera(np.array(box, np.float64), CALIBRATION.lidar_to_camera)
    return Label(type, 0.0, occluded, 0.0, (600.0, 100.0, 650.0, 100.0 + height), tuple(camera.tolist()))


def points_inside(box: Sequence[float], count: int, seed: int = 0) -> np.ndarray:
    """Points (count, 4) well inside a LiDAR box."""
    rng = np.random.default_rng(seed)
    own = rng.uniform(-0.45, 0.45, (count, 3)) * np.array(box[3:6])
    cos, sin = np.cos(box[6]), np.sin(box[6])
    xyz = np.stack((cos * own[:, 0] - sin * own[:, 1], sin * own[:, 0] + cos * own[:, 1], own[:, 2]), 1) + box[:3]
    return np.column_stack((xyz, rng.random(count))).astype(np.float32)


def frame(name: str, objects: Sequence[tuple[Label, int]], ground: int = 200) -> Frame:
    """A frame of objects with so many points each, and of points on the ground below all of them."""
    rng = np.random.default_rng(int(name))
    floor = np.column_stack((rng.uniform((1, -20, -2.0), (60, 20, -1.9), (ground, 3)), rng.random(ground)))
    inside = [points_inside(box_of(item), count, seed) for seed, (item, count) in enumerate(objects)]
    points = np.concatenate((floor.astype(np.float32), *inside))
    return Frame(name, points, None, (1242, 375), CALIBRATION, [item for item, _ in objects])


def box_of(item: Label) -> list[float]:
    """The LiDAR box of a label."""
    return camera_to_lidar(item.camera_box, CALIBRATION.lidar_to_camera).tolist()


def held(points: np.ndarray, boxes: np.ndarray) -> list[int]:
    """How many points each box holds."""
    return points_in_boxes(torch.as_tensor(points), torch.as_tensor(boxes)).sum(1).tolist()
