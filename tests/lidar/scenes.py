"""Small made-up clouds for the tests of LiDAR detectors, and the objects of the real frames."""

import numpy as np
import torch

from lib.boxes import camera_to_lidar
from lib.datasets.kitti_object import Frame

NARROW = {"pillar": 8, "stages": (8, 8, 16), "layers": (1, 0, 1), "neck": 8}  # options for quick tests


def made_cloud(count: int = 2000, seed: int = 0) -> torch.Tensor:
    """Points (count, 4) spread over 0 to 30 m ahead and 15 m to both sides, some of them below the range."""
    low, size = torch.tensor([0.0, -15.0, -4.0, 0.0]), torch.tensor([30.0, 30.0, 4.0, 1.0])
    return torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) * size + low


def objects_of(frame: Frame, net: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (M, 7) float64 and labels (M,) of the objects of a real frame that a network is to find."""
    low, high = net.range[:2], net.range[3:5]
    found = [(camera_to_lidar(o.camera_box, frame.calibration.lidar_to_camera), o.type) for o in frame.objects]
    found = [(b, t) for b, t in found if t in net.classes and (low < b[:2]).all() and (b[:2] < high).all()]
    boxes = torch.from_numpy(np.array([box for box, _ in found]).reshape(-1, 7))
    return boxes, torch.tensor([net.classes.index(name) for _, name in found], dtype=torch.int64)
