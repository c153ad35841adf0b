"""Objects in a cloud of any format, without ground truth: reading a user's scan, its checks, and what is found."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from lib.boxes import Detections
from lib.camera import Calibration
from lib.clouds.axes import AXES, METRES
from lib.clouds.files import read_cloud
from lib.datasets.kitti_object import read_calibration
from lib.datasets.kitti_object.frames import read_image_size
from lib.errors import InputError
from lib.training.device import synchronise

LIDAR_AXES = "velodyne"  # of AXES: x ahead, y left, z up
GROUND = -1.73  # m; the LiDAR of KITTI stands so high, and the networks know no other height
GROUND_TOLERANCE = 0.6  # m; streets rise and fall
GROUND_WITHIN, GROUND_QUANTILE, GROUND_POINTS = 20.0, 0.1, 50  # m from the sensor; share of the points below; at least


class ScanSettings(NamedTuple):
    """How a user's cloud is brought to what a detector knows.

    axes: of AXES. reflectance: given to every point, for clouds without one. full: the value in the file that stands
    for a reflectance of 1. ground_height: z of the ground in the cloud, m, where it is not that of KITTI.
    """

    axes: str = LIDAR_AXES
    reflectance: float | None = None
    full: float = 1.0
    ground_height: float = GROUND

    @property
    def turn(self) -> np.ndarray:
        """(3, 3): turns a column of the file's coordinates into the LiDAR frame's."""
        return AXES[LIDAR_AXES][1].T @ AXES[self.axes][1]

    @property
    def rise(self) -> float:
        """How far the cloud is raised so that its ground lies where the networks know it, m."""
        return GROUND - self.ground_height


class View(NamedTuple):
    """The camera beside the LiDAR: its calibration, and (width, height) of its image in px."""

    calibration: Calibration
    size: tuple[int, int]


def read_scan(path: Path, settings: ScanSettings) -> np.ndarray:
    """A user's cloud as a detector takes it: (N, 4) float32, x, y, z in m (LiDAR frame, raised), reflectance 0 to 1.

    Raises InputError as `read_cloud` does, for a cloud without reflectance when none is given, and for one on another
    scale than 0 to ``full``.
    """
    cloud = read_cloud(path, reflectance=True)
    points = np.empty((len(cloud), 4), np.float32)
    points[:, :3] = cloud[:, :3] @ settings.turn.T
    points[:, 2] += settings.rise
    if settings.reflectance is not None:
        points[:, 3] = settings.reflectance
        return points
    if cloud.shape[1] < 4:
        raise InputError(
            f"{path} has no reflectance (intensity), which the detectors need: export it too, or give all points the "
            f"same with --reflectance 0"
        )
    low, high = float(cloud[:, 3].min()), float(cloud[:, 3].max())
    if low < 0.0 or high > settings.full:
        usual = next((full for full in (1, 255, 65535) if high <= full), None)
        fix = f"--reflectance-max {usual}" if low >= 0.0 and usual else "another value for all with --reflectance 0"
        raise InputError(
            f"{path}: reflectance runs from {low:g} to {high:g}, and must be from 0 to {settings.full:g}: give {fix}"
        )
    points[:, 3] = cloud[:, 3] / settings.full
    return points


def read_as_measured(path: Path, axes: str) -> np.ndarray:
    """The points of a cloud in the LiDAR frame, to be drawn: (N, 3) float32, or (N, 4) where it has a reflectance."""
    cloud = read_cloud(path, reflectance=True).astype(np.float32)
    cloud[:, :3] = cloud[:, :3] @ ScanSettings(axes).turn.T.astype(np.float32)
    return cloud


def as_measured(points: np.ndarray, settings: ScanSettings) -> np.ndarray:
    """x, y, z (N, 3) of a scan (N, 4) before it was raised: LiDAR frame, m."""
    return points[:, :3] - np.float32((0.0, 0.0, settings.rise))


def crop_to_view(points: np.ndarray, view: View, settings: ScanSettings) -> np.ndarray:
    """The points of a scan (N, 4) that the camera sees: the networks were trained on such.

    Raises InputError when there is none.
    """
    seen = points[view.calibration.in_view(as_measured(points, settings), view.size)]
    if len(seen) == 0:
        raise InputError("no point lies in the camera's view: give the scan, --calib and --image of one frame")
    return seen


def check_scan(points: np.ndarray, limits: tuple[float, ...], settings: ScanSettings) -> list[str]:
    """What looks wrong with a scan (N, 4), LiDAR frame, one line each.

    limits: low x, y, z and high x, y, z of the network, m. Raises InputError when no point lies within them.
    """
    low, high = np.array(limits[:3]), np.array(limits[3:])
    inside = ((points[:, :3] >= low) & (points[:, :3] < high)).all(axis=1)
    found = []
    distance = float(np.median(np.linalg.norm(points[:, :3], axis=1)))
    if not METRES[0] <= distance <= METRES[1]:
        found.append(f"the median distance from the sensor is {distance:.4g}: this does not look like metres")
    height = ground_of(points)
    off = height is not None and abs(height - GROUND) > GROUND_TOLERANCE
    if off or not inside.any():
        fits = [other for other in AXES if other != settings.axes and _fits(points, other, settings)]
        better = f": --axes {fits[0]} would put it there" if len(fits) == 1 else ""
        if not inside.any():
            raise InputError(
                f"no point lies where the network looks (x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g}, z "
                f"{low[2]:g} to {high[2]:g} m with --axes {settings.axes})" + (better or ": check axes and units")
            )
        here = height - settings.rise
        found.append(
            f"the ground seems to lie at z = {here:.2f} m, and the networks know it near {GROUND:g} m below a sensor "
            f"that looks along x" + (better or f": if the axes are right, give --ground-height {here:.1f}")
        )
    return found


def ground_of(points: np.ndarray) -> float | None:
    """Height z (m) of the ground near the sensor: a low quantile of the points (N, 3 or more). None: too few points."""
    near = points[np.hypot(points[:, 0], points[:, 1]) < GROUND_WITHIN, 2]
    return float(np.quantile(near, GROUND_QUANTILE)) if len(near) >= GROUND_POINTS else None


def _fits(points: np.ndarray, axes: str, settings: ScanSettings) -> bool:
    """Whether the scan, read in other axes, has its ground where it belongs and its points ahead."""
    file = as_measured(points, settings) @ settings.turn  # back to the file's coordinates
    turned = file @ settings._replace(axes=axes).turn.T
    height = ground_of(turned)
    ahead = float((turned[:, 0] > 0.0).mean())
    return height is not None and abs(height - GROUND) <= GROUND_TOLERANCE and ahead > 0.4


@torch.inference_mode()
def detect(
    net: nn.Module, points: np.ndarray, device: torch.device, settings: ScanSettings, amp: str = "off"
) -> tuple[Detections, float]:
    """(what the network finds in a scan (N, 4), on the CPU and at the height of the file; the seconds it took)."""
    cloud = torch.from_numpy(points).to(device)
    synchronise(device)
    start = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16"):
        found = net.detect([cloud])[0].within(net.range)
    synchronise(device)
    seconds = time.perf_counter() - start
    boxes, scores, labels = (values.cpu() for values in found[:3])
    boxes = boxes.float().clone()
    boxes[:, 2] -= settings.rise
    return Detections(boxes, scores.float(), labels, found.classes), seconds


def read_view(calib: Path, image: str) -> View:
    """The camera. image: its PNG file, or WIDTHxHEIGHT in px. Raises InputError for what is not there or no such."""
    calibration = read_calibration(calib)
    width, _, height = image.lower().partition("x")
    if width.isdecimal() and height.isdecimal() and int(width) and int(height):
        return View(calibration, (int(width), int(height)))
    if not Path(image).is_file():
        raise InputError(f"--image {image}: no such file; give a PNG, or the image's size as 1242x375")
    return View(calibration, read_image_size(Path(image)))
