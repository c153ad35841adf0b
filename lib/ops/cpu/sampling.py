"""Furthest point sampling, box by box."""

import numpy as np

from lib.ops.cpu.compiled import compiled

MAXIMA = 8  # of the distances in a box, side by side: independent ones become vector instructions


@compiled()
def sample(order: np.ndarray, points: np.ndarray, low: np.ndarray, high: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64: the rows that are picked from a cloud of ``Buckets``. A box is skipped where no pick is near."""
    boxes, _, size = points.shape
    picks = np.zeros(count, np.int64)
    nearest = np.full((boxes, size), np.inf)  # squared distance to the nearest pick so far, by place
    for lane in range(size):
        if points[boxes - 1, 0, lane] == np.inf:
            nearest[boxes - 1, lane] = -1.0  # behind the last point
    furthest = np.full(boxes, np.inf)  # the largest of them in each box
    gap = np.empty(boxes)
    place = 0
    while order[place] != 0:
        place += 1
    for i in range(1, count):
        box, lane = place // size, place % size
        x, y, z = points[box, 0, lane], points[box, 1, lane], points[box, 2, lane]
        for b in range(boxes):
            dx = max(low[0, b] - x, x - high[0, b], 0.0)
            dy = max(low[1, b] - y, y - high[1, b], 0.0)
            dz = max(low[2, b] - z, z - high[2, b], 0.0)
            gap[b] = dx * dx + dy * dy + dz * dz
        best = -1.0
        for b in range(boxes):
            if gap[b] < furthest[b]:  # the last pick may be nearer to points of this box than those before it
                furthest[b] = _update(points[b], nearest[b], x, y, z)
            best = max(best, furthest[b])
        pick = len(order)
        for b in range(boxes):
            if furthest[b] == best:
                for lane in range(size):
                    j = b * size + lane
                    if nearest[b, lane] == best and order[j] < pick:  # the lowest row of equals
                        pick, place = order[j], j
        picks[i] = pick
    return picks


@compiled()
def _update(points, nearest, x, y, z):
    """Takes the pick at x, y, z into account in one box; returns the largest distance left in it."""
    for j in range(len(nearest)):
        dx, dy, dz = points[0, j] - x, points[1, j] - y, points[2, j] - z
        d = dx * dx + dy * dy + dz * dz
        nearest[j] = d if d < nearest[j] else nearest[j]
    lanes = nearest[:MAXIMA].copy()  # independent maxima, so that this loop becomes vector instructions
    for start in range(MAXIMA, len(nearest), MAXIMA):
        for lane in range(MAXIMA):
            d = nearest[start + lane]
            lanes[lane] = d if d > lanes[lane] else lanes[lane]
    return lanes.max()
