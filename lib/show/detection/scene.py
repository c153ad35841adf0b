"""What is drawn of a detector's frame, as a picture or as a page: points, boxes, classes and their colours."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lib.boxes import EDGES, NEAREST_DEPTH, Detections, camera_corners, camera_to_lidar, lidar_corners, lidar_to_camera
from lib.camera import Calibration
from lib.datasets.kitti_object import Frame

# Of Okabe & Ito's palette, which the colour-blind can tell apart; the last one is for any other class.
COLOURS = {"Car": "#0072b2", "Pedestrian": "#d55e00", "Cyclist": "#009e73"}
OTHER, TRUTH = "#cc79a7", "#222222"
QUADS = ((0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7))  # faces, by corners
THRESHOLD = 0.3  # detections with a lower score are not drawn at first


class Scene(NamedTuple):
    """One frame to look at.

    points (N, 3 or more): x, y, z in m (LiDAR frame), then what the reader gave. detections: what was found. truth: the
    labelled boxes, with scores of 1; None where nothing is known. image: the file of the camera's image; None where
    there is none. calibration: needed for the boxes in the image.
    """

    name: str
    points: np.ndarray
    detections: Detections
    truth: Detections | None = None
    image: Path | None = None
    calibration: Calibration | None = None

    def thinned(self, limit: int) -> Scene:
        """The scene with at most ``limit`` points, drawn at random but always the same ones."""
        if len(self.points) <= limit:
            return self
        rows = np.sort(np.random.default_rng(0).choice(len(self.points), limit, replace=False))
        return self._replace(points=self.points[rows])

    def above(self, threshold: float) -> Detections:
        """The detections with a score of ``threshold`` or more."""
        return self.detections.take(self.detections.scores >= threshold)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that detections or ground truth can have, in order."""
        return tuple(dict.fromkeys((*self.detections.classes, *(self.truth.classes if self.truth else ()))))


def scene_of(frame: Frame, detections: Detections) -> Scene:
    """The scene of a frame with its points: the labels of the classes that the detector knows are the ground truth."""
    truth = None
    if frame.objects is not None:
        objects = [label for label in frame.objects if label.type in detections.classes]
        boxes = np.array([label.camera_box for label in objects]).reshape(-1, 7)  # (M, 7), also without objects
        lidar = torch.from_numpy(camera_to_lidar(boxes, frame.calibration.lidar_to_camera)).float()
        labels = torch.tensor([detections.classes.index(label.type) for label in objects], dtype=torch.int64)
        truth = Detections(lidar, torch.ones(len(objects)), labels, detections.classes)
    return Scene(frame.name, frame.points, detections, truth, frame.image_path, frame.calibration)


def colour_of(name: str) -> str:
    """The colour of a class."""
    return COLOURS.get(name, OTHER)


def box_lines(boxes: np.ndarray) -> np.ndarray:
    """The 12 edges of LiDAR boxes (M, 7) as segments (M, 12, 2, 3), m: start and end."""
    return lidar_corners(boxes)[:, EDGES, :]  # (M, 8, 3) -> (M, 12, 2, 3)


def heading_lines(boxes: np.ndarray) -> np.ndarray:
    """From the middle of the top of LiDAR boxes (M, 7) to the middle of the front's upper edge: (M, 2, 3), m."""
    corners = lidar_corners(boxes)  # (M, 8, 3)
    return np.stack([corners[:, 4:].mean(axis=1), corners[:, 4:6].mean(axis=1)], axis=1)


def image_lines(boxes: np.ndarray, calibration: Calibration) -> np.ndarray:
    """The edges of LiDAR boxes (M, 7) in the image: segments (M, 12, 2, 2), px, u to the right and v down.

    An edge that reaches behind the camera is cut at a depth of 0.01 m. One that lies behind it altogether is nan.
    """
    cameras = lidar_to_camera(boxes.astype(np.float64), calibration.lidar_to_camera)  # (M, 7)
    corners = camera_corners(cameras)  # (M, 8, 3)
    homogeneous = corners @ calibration.P2[:, :3].T + calibration.P2[:, 3]  # (M, 8, 3): u depth, v depth, depth
    ends = homogeneous[:, EDGES, :]  # (M, 12, 2, 3)
    depth = ends[..., 2]  # (M, 12, 2)
    others = ends[..., ::-1, :]  # the other end of each edge
    step = others[..., 2] - depth
    behind = depth < NEAREST_DEPTH
    share = np.divide(NEAREST_DEPTH - depth, step, out=np.zeros_like(depth), where=behind & (step > 0))
    cut = ends + share[..., None] * (others - ends)
    seen = np.where(behind.all(axis=-1), np.nan, 1.0)[..., None, None]  # (M, 12, 1, 1)
    return seen * cut[..., :2] / np.maximum(cut[..., 2:], NEAREST_DEPTH)
