"""Loops over boxes. A table (N, 8) holds what ``reference_boxes.upright`` gives of N boxes.

The arithmetic is that of ``reference_boxes``, operation by operation, and so the results have the same bits.
"""

import numpy as np

from lib.ops.cpu.compiled import compiled

SURELY = 1 + 1e-9  # a factor that leaves no doubt, whatever the rounding: boxes so much further apart share nothing
BOUNDED_FROM = 1e-3  # the least threshold beside which the rounding of a quick bound is nothing


@compiled()
def overlaps(first: np.ndarray, second: np.ndarray, volumes: bool, out: np.ndarray, start: int, stop: int) -> None:
    """out[i, j]: intersection over union of row i of first, for start..stop, and row j of second.

    volumes: of the boxes; else of the rectangles seen from above.
    """
    reach1, reach2 = _reach(first), _reach(second)
    for i in range(start, stop):
        for j in range(len(second)):
            if _are_far(first[i], second[j], reach1[i] + reach2[j]):
                out[i, j] = 0.0
            else:
                out[i, j] = _box_iou(first[i], second[j]) if volumes else _bev_iou(first[i], second[j])


@compiled()
def suppress(table: np.ndarray, threshold: float, limit: int) -> np.ndarray:
    """The places (K,) that stay of a table sorted by falling score: `rotated_nms`, with a threshold of 0 or more."""
    order = np.argsort(table[:, 0])  # by x: the neighbours of a box are near it in this order
    x, reach = table[:, 0][order], _reach(table)
    furthest = reach.max() if len(table) > 0 else 0.0
    waiting = np.full(len(table), True)
    kept = np.empty(min(limit, len(table)), np.int64)
    count = 0
    for best in range(len(table)):
        if count == limit:
            break
        if not waiting[best]:
            continue
        waiting[best] = False
        kept[count] = best
        count += 1
        span = (reach[best] + furthest) * SURELY
        for place in range(np.searchsorted(x, table[best, 0] - span), len(table)):
            if x[place] > table[best, 0] + span:
                break
            j = order[place]
            if waiting[j] and not _are_far(table[best], table[j], reach[best] + reach[j]):
                if threshold < BOUNDED_FROM or _bound(table[best], table[j]) > threshold:
                    waiting[j] = _bev_iou(table[best], table[j]) <= threshold
    return kept[:count]


@compiled()
def _reach(table):
    """Half the diagonals, seen from above."""
    out = np.empty(len(table))
    for i in range(len(table)):
        out[i] = np.sqrt(table[i, 2] * table[i, 2] + table[i, 3] * table[i, 3])
    return out


@compiled()
def _are_far(first, second, reach):
    """True for boxes that share nothing, by the circles round them; False where these may meet."""
    dx, dy = first[0] - second[0], first[1] - second[1]
    return dx * dx + dy * dy > reach * reach * SURELY


@compiled()
def _bound(first, second):
    """An overlap that `_bev_iou` does not exceed: of the second and the straight rectangle round the first."""
    dx, dy = first[0] - second[0], first[1] - second[1]
    cos = abs(first[4] * second[4] + first[5] * second[5])
    sin = abs(first[5] * second[4] - first[4] * second[5])
    half_x, half_y = first[2] * cos + first[3] * sin, first[2] * sin + first[3] * cos
    x, y = abs(second[4] * dx + second[5] * dy), abs(second[4] * dy - second[5] * dx)
    shared_x = min(x + half_x, second[2]) - max(x - half_x, -second[2])
    shared_y = min(y + half_y, second[3]) - max(y - half_y, -second[3])
    both = max(shared_x, 0.0) * max(shared_y, 0.0) * SURELY
    rest = _area(first) + _area(second) - both
    return both / rest * SURELY if rest > both else 1.0


@compiled()
def columns(points: np.ndarray) -> np.ndarray:
    """x, y, z of points (N, 3 or more) as (3, N) float64."""
    out = np.empty((3, len(points)))
    for i in range(len(points)):
        out[0, i], out[1, i], out[2, i] = points[i, 0], points[i, 1], points[i, 2]
    return out


@compiled()
def mark_inside(points: np.ndarray, table: np.ndarray, out: np.ndarray, start: int, stop: int) -> None:
    """out (M, N): whether point n lies in box m, for the boxes start..stop. points (3, N)."""
    for m in range(start, stop):
        box_x, box_y, length, width, cos, sin, box_z, height = table[m]
        inside = out[m]
        for n in range(points.shape[1]):
            dx, dy, dz = points[0, n] - box_x, points[1, n] - box_y, points[2, n] - box_z
            ahead, left = cos * dx + sin * dy, cos * dy - sin * dx
            inside[n] = (abs(ahead) <= length) & (abs(left) <= width) & (abs(dz) <= height)


@compiled()
def _bev_iou(first, second):
    both = _intersection(first, second)
    return _ratio(both, _area(first) + _area(second) - both)


@compiled()
def _box_iou(first, second):
    low1, high1 = first[6] - first[7], first[6] + first[7]
    low2, high2 = second[6] - second[7], second[6] + second[7]
    tall = min(high1, high2) - max(low1, low2)
    if tall <= 0.0:
        return 0.0
    both = _intersection(first, second) * tall
    return _ratio(both, _area(first) * (high1 - low1) + _area(second) * (high2 - low2) - both)


@compiled()
def _area(box):
    return 4.0 * box[2] * box[3]


@compiled()
def _ratio(part, whole):
    return part / whole if whole > 0.0 else 0.0


@compiled()
def _intersection(first, second):
    """``reference_boxes.bev_intersection`` of two rows."""
    length1, width1, cos1, sin1 = first[2], first[3], first[4], first[5]
    length2, width2, cos2, sin2 = second[2], second[3], second[4], second[5]
    dx, dy = first[0] - second[0], first[1] - second[1]
    cos, sin = cos1 * cos2 + sin1 * sin2, sin1 * cos2 - cos1 * sin2
    x, y = cos2 * dx + sin2 * dy, cos2 * dy - sin2 * dx
    ahead_x, ahead_y, left_x, left_y = length1 * cos, length1 * sin, -width1 * sin, width1 * cos
    if abs(x) >= length2 + (abs(ahead_x) + abs(left_x)) or abs(y) >= width2 + (abs(ahead_y) + abs(left_y)):
        return 0.0
    own_x, own_y = cos1 * dx + sin1 * dy, cos1 * dy - sin1 * dx
    if abs(own_x) >= length1 + (abs(length2 * cos) + abs(width2 * sin)):
        return 0.0
    if abs(own_y) >= width1 + (abs(length2 * sin) + abs(width2 * cos)):
        return 0.0

    start_x, start_y = x + ahead_x + left_x, y + ahead_y + left_y
    origin_x, origin_y = _into(start_x, length2), _into(start_y, width2)
    last_x = last_y = twice = 0.0
    for corner in range(1, 5):
        if corner == 1:
            stop_x, stop_y = x - ahead_x + left_x, y - ahead_y + left_y
        elif corner == 2:
            stop_x, stop_y = x - ahead_x - left_x, y - ahead_y - left_y
        elif corner == 3:
            stop_x, stop_y = x + ahead_x - left_x, y + ahead_y - left_y
        else:
            stop_x, stop_y = x + ahead_x + left_x, y + ahead_y + left_y
        step_x, step_y = stop_x - start_x, stop_y - start_y
        a, b = _crossing(-length2 - start_x, step_x), _crossing(length2 - start_x, step_x)
        c, d = _crossing(-width2 - start_y, step_y), _crossing(width2 - start_y, step_y)
        a, b = min(a, b), max(a, b)
        c, d = min(c, d), max(c, d)
        a, c = min(a, c), max(a, c)
        b, d = min(b, d), max(b, d)
        b, c = min(b, c), max(b, c)
        for way in (a, b, c, d, 2.0):  # the last: the end of the edge
            at_x, at_y = start_x + way * step_x, start_y + way * step_y
            if way > 1.0:
                at_x, at_y = stop_x, stop_y
            point_x, point_y = _into(at_x, length2) - origin_x, _into(at_y, width2) - origin_y
            twice += (last_x + point_x) * (point_y - last_y)
            last_x, last_y = point_x, point_y
        start_x, start_y = stop_x, stop_y
    return max(min(twice / 2.0, min(_area(first), _area(second))), 0.0)


@compiled()
def _into(value, half):
    return max(min(value, half), -half)


@compiled()
def _crossing(distance, step):
    if abs(distance) < abs(step) and (distance > 0.0) == (step > 0.0):
        return distance / step
    return 0.0
