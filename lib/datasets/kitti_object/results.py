"""From a detector's boxes to KITTI's result lines."""

from __future__ import annotations

import numpy as np

from lib.boxes import Detections, lidar_to_camera, observation_angle, projected_box
from lib.camera import Calibration
from lib.datasets.kitti_object.labels import Label


def as_results(detections: Detections, calibration: Calibration, size: tuple[int, int]) -> list[Label]:
    """The result lines of one frame, in the order of the detections.

    detections: LiDAR boxes. size: (width, height) of the image in px. The 2-D box is the hull of the projected corners,
    cut at the image's border; a detection that the image does not show is left out, as the benchmark has no place for
    it. truncated and occluded are unknown: -1.
    """
    boxes = detections.boxes.detach().cpu().numpy().astype(np.float64)  # (M, 7)
    cameras = lidar_to_camera(boxes, calibration.lidar_to_camera)  # (M, 7)
    rectangles, visible = projected_box(cameras, calibration.P2, size)  # (M, 4), (M,)
    alphas = observation_angle(cameras)  # (M,)
    scores, labels = detections.scores.tolist(), detections.labels.tolist()
    return [
        Label(
            type=detections.classes[labels[i]],
            truncated=-1.0,
            occluded=-1,
            alpha=float(alphas[i]),
            box2d=tuple(rectangles[i].tolist()),
            box3d=tuple(cameras[i].tolist()),
            score=scores[i],
        )
        for i in np.flatnonzero(visible)
    ]
