"""Overlaps of KITTI boxes, pair by pair, in float64: 2-D boxes, turned rectangles on the ground, upright 3-D boxes.

Every function takes two arrays of P boxes and compares box k of the first with box k of the second.
"""

from __future__ import annotations

import numpy as np


def image_intersection(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """Shared area (P,) in px^2 of 2-D boxes (P, 4): left, top, right, bottom in px. Boxes that only touch share 0."""
    low = np.maximum(boxes1[:, :2], boxes2[:, :2])  # (P, 2)
    high = np.minimum(boxes1[:, 2:], boxes2[:, 2:])
    return np.maximum(high - low, 0).prod(axis=1)


def image_area(boxes: np.ndarray) -> np.ndarray:
    """Area (P,) in px^2 of 2-D boxes (P, 4): left, top, right, bottom in px."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def image_iou(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """Intersection over union (P,) of 2-D boxes (P, 4): left, top, right, bottom in px."""
    shared = image_intersection(boxes1, boxes2)
    return ratio(shared, image_area(boxes1) + image_area(boxes2) - shared)


def ground_intersection(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """Shared area (P,) in m^2 of turned rectangles (P, 5): centre a, centre b, length, width (m), yaw (rad).

    The length lies along (cos yaw, sin yaw). The first rectangle is moved into the frame of the second one, where the
    second one is |a| <= length / 2, |b| <= width / 2, and its outline is clipped there, one axis after the other.
    Exact but for rounding; rectangles that only touch share 0.
    """
    # Far rectangles share nothing: the circles around them are apart. Few pairs are left to clip.
    radius = (np.hypot(boxes1[:, 2], boxes1[:, 3]) + np.hypot(boxes2[:, 2], boxes2[:, 3])) / 2
    near = np.hypot(*(boxes1[:, :2] - boxes2[:, :2]).T) < radius  # (P,)
    first, second = boxes1[near], boxes2[near]  # (Q, 5)

    shift = _turn(first[:, None, :2] - second[:, None, :2], -second[:, 4])  # (Q, 1, 2)
    signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])  # corners, counter-clockwise
    outline = _turn(signs * first[:, None, 2:4] / 2, first[:, 4] - second[:, 4]) + shift  # (Q, 4, 2)
    for axis in (0, 1):
        outline = _clip(outline, axis, second[:, 2 + axis] / 2)  # 4, then 12, then 36 points

    # The shoelace formula, measured from the first point: points on one line parallel to an axis give exactly 0.
    outline = outline - outline[:, :1]
    after = np.roll(outline, -1, axis=1)
    area = ((outline[..., 0] + after[..., 0]) * (after[..., 1] - outline[..., 1])).sum(axis=1) / 2
    smaller = np.minimum(first[:, 2] * first[:, 3], second[:, 2] * second[:, 3])
    shared = np.zeros(len(boxes1))
    shared[near] = np.clip(area, 0, smaller)  # rounding may leave the area just outside
    return shared


def ground_iou(boxes1: np.ndarray, boxes2: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Intersection over union (P,) of turned rectangles (P, 5). shared: what ground_intersection gives for them."""
    return ratio(shared, boxes1[:, 2] * boxes1[:, 3] + boxes2[:, 2] * boxes2[:, 3] - shared)


def upright_iou(
    boxes1: np.ndarray, boxes2: np.ndarray, heights1: np.ndarray, heights2: np.ndarray, shared: np.ndarray
) -> np.ndarray:
    """Intersection over union (P,) of upright 3-D boxes.

    boxes1, boxes2: the rectangles (P, 5) they stand on; heights1, heights2: (P, 2), lowest and highest value of the
    vertical axis (m); shared: what ground_intersection gives for the rectangles.
    """
    tall = np.minimum(heights1[:, 1], heights2[:, 1]) - np.maximum(heights1[:, 0], heights2[:, 0])
    volume1, volume2 = (
        box[:, 2] * box[:, 3] * (height[:, 1] - height[:, 0])
        for box, height in ((boxes1, heights1), (boxes2, heights2))
    )
    both = shared * np.maximum(tall, 0)
    return ratio(both, volume1 + volume2 - both)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)


def _turn(points: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Points (Q, K, 2), those of row q turned counter-clockwise by yaw[q] (rad)."""
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    return np.stack([cos * points[..., 0] - sin * points[..., 1], sin * points[..., 0] + cos * points[..., 1]], axis=-1)


def _clip(outline: np.ndarray, axis: int, half: np.ndarray) -> np.ndarray:
    """Closed outlines (Q, K, 2) cut to the strip |coordinate `axis`| <= half (Q,): (Q, 3 K, 2).

    Each edge is broken where it crosses the two lines of the strip. Then every point outside is moved straight onto the
    nearer line. A walk along a line encloses nothing, so the area is that of the part inside the strip.
    """
    step = np.roll(outline, -1, axis=1) - outline  # (Q, K, 2) from each point to the next
    lines = half[:, None, None] * np.array([-1.0, 1.0])  # (Q, 1, 2)
    distance = lines - outline[..., axis, None]  # (Q, K, 2) from each point to both lines
    along = step[..., axis, None] * np.ones(2)  # (Q, K, 2)
    where = np.divide(distance, along, out=np.zeros_like(distance), where=np.abs(distance) < np.abs(along))
    where = np.sort(np.clip(where, 0, 1), axis=-1)  # 0: the edge does not cross that line, its start is repeated
    points = outline[:, :, None] + np.insert(where, 0, 0, axis=-1)[..., None] * step[:, :, None]  # (Q, K, 3, 2)
    points[..., axis] = np.clip(points[..., axis], -half[:, None, None], half[:, None, None])
    return points.reshape(len(outline), 3 * outline.shape[1], 2)  # (Q, K, 3, 2) -> (Q, 3 K, 2)
