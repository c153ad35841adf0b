"""Which detections find an object, frame by frame: what a report needs besides the scores of the whole set.

This is plainer than the rules of lib/metrics/kitti_detection.py: every object of the frame counts, however hard it is
to see, and nothing is neutral.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lib.boxes import Detections
from lib.metrics.kitti_detection import STRICT
from lib.ops import box_iou

LIMITS = STRICT["3d"]
OTHER_LIMIT = 0.5  # of classes that KITTI does not score


class Matches(NamedTuple):
    """The K detections and M objects of frames, ready to be joined over frames."""

    score: np.ndarray  # (K,) of detections
    found: np.ndarray  # (K,) bool: finds an object
    kind: np.ndarray  # (K,) class names
    distance: np.ndarray  # (K,) m from the sensor, of the object that is found, else of the detection
    object_kind: np.ndarray  # (M,) class names
    object_distance: np.ndarray  # (M,) m


def match(detections: Detections, truth: Detections) -> Matches:
    """The matches of one frame.

    By falling score, each detection takes the free object of its class that it overlaps most. It finds it when their
    3-D overlap is larger than KITTI asks for: Car 0.7, Pedestrian and Cyclist 0.5.
    """
    kinds, object_kinds = _kinds(detections), _kinds(truth)
    distances, object_distances = _distances(detections), _distances(truth)
    overlaps = box_iou(detections.boxes, truth.boxes).numpy()  # (K, M)
    found = np.zeros(len(kinds), bool)
    free = np.ones(len(object_kinds), bool)
    for k in np.argsort(-detections.scores.numpy(), kind="stable"):
        overlap = np.where(free & (object_kinds == kinds[k]), overlaps[k], 0.0)  # (M,)
        if len(overlap) and overlap.max() > LIMITS.get(kinds[k], OTHER_LIMIT):
            best = int(overlap.argmax())
            found[k], free[best], distances[k] = True, False, object_distances[best]
    return Matches(detections.scores.numpy(), found, kinds, distances, object_kinds, object_distances)


def join(parts: list[Matches]) -> Matches:
    """The matches of several frames in one."""
    return Matches(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def precision(matches: Matches) -> float:
    """The average precision of all detections together, 0 to 1: the mean, over the objects, of the share of right
    detections among those that score as high as the one that finds the object; 0 for an object not found. NaN: none.
    """
    if len(matches.object_kind) == 0:
        return float("nan")
    found = matches.found[np.argsort(-matches.score, kind="stable")]
    right = np.cumsum(found)
    return float((right / np.arange(1, len(found) + 1))[found].sum() / len(matches.object_kind))


def within(matches: Matches, kind: str, low: float, high: float) -> Matches:
    """Those of one class at a distance of [low, high) m."""
    mine = (matches.kind == kind) & (matches.distance >= low) & (matches.distance < high)
    objects = (matches.object_kind == kind) & (matches.object_distance >= low) & (matches.object_distance < high)
    return Matches(*(values[mine] for values in matches[:4]), *(values[objects] for values in matches[4:]))


def _kinds(detections: Detections) -> np.ndarray:
    return np.array([detections.classes[label] for label in detections.labels.tolist()], dtype=str)


def _distances(detections: Detections) -> np.ndarray:
    """On the ground, m."""
    return np.linalg.norm(detections.boxes[:, :2].numpy().astype(np.float64), axis=1)
