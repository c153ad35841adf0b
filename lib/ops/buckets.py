"""A cloud in spatial order, cut into small boxes: what the compiled sampling and search skip whole boxes by.

Everything is in float64 with one rule for distances, dx dx + dy dy + dz dz. Subtraction, product and sum are rounded
but never fall when their operands grow, so the distance to a box computed by the same rule is at most that to any point
in it, to the last bit: skipping a box never changes a result.
"""

from collections import deque
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lib.ops.compiled import compiled
from lib.ops.threads import run_side_by_side

_latest: deque[tuple[np.ndarray, int, "Buckets"]] = deque(maxlen=16)  # cloud, points a box, boxes

FINEST = 4  # points; the order goes on inside of a box down to runs of so many


class Buckets(NamedTuple):
    """Box b holds the places b * size .. (b + 1) * size of the order; the last one may hold fewer."""

    order: np.ndarray  # (boxes * size,) int64: the row of the cloud at each place; at least N behind the last one
    points: np.ndarray  # (boxes, 3, size) float64: coordinates by place; infinite behind the last one
    low: np.ndarray  # (3, boxes)
    high: np.ndarray  # (3, boxes)


def bucket_clouds(clouds: list[np.ndarray], size: int) -> list[Buckets]:
    """Clouds (N, 3), N >= 1, float32 or float64, in boxes of ``size`` points.

    A network searches the same few clouds again and again: the latest are remembered, by their coordinates.
    """
    known = [_remembered(cloud, size) for cloud in clouds]
    new = [cloud for cloud, buckets in zip(clouds, known, strict=True) if buckets is None]
    made = _make(new, size)
    _latest.extend((cloud.copy(), size, buckets) for cloud, buckets in zip(new, made, strict=True))
    rest = iter(made)
    return [next(rest) if buckets is None else buckets for buckets in known]


def _remembered(cloud: np.ndarray, size: int) -> Buckets | None:
    for other, other_size, buckets in list(_latest):
        if size == other_size and cloud.shape == other.shape and (cloud[0] == other[0]).all():
            if np.array_equal(cloud, other):
                return buckets
    return None


def _make(clouds: list[np.ndarray], size: int) -> list[Buckets]:
    """Cuts each cloud in two first, so that every thread has a half to sort, be it of one cloud or of many."""
    made, rows = [], []
    for cloud in clouds:
        boxes = -(-len(cloud) // size)
        points, low, high = np.full((boxes, 3, size), np.inf), np.empty((3, boxes)), np.empty((3, boxes))
        made.append(Buckets(np.arange(boxes * size), points, low, high))
        rows.append(np.array(cloud, np.float64, order="C"))
    middles = run_side_by_side([
        lambda r=r, m=m: _cut(r, m.order, size, 0, len(r)) for r, m in zip(rows, made, strict=True)
    ])

    def finish(r: np.ndarray, m: Buckets, start: int, stop: int) -> None:
        _sort(r, m.order, size, start, stop)
        _boxes(r, m.points, m.low, m.high, start, stop)

    pieces = []
    for r, m, middle in zip(rows, made, middles, strict=True):
        cuts = (0, middle, len(r)) if len(r) > size else (0, len(r))  # a box is never cut
        pieces += [(r, m, start, stop) for start, stop in pairwise(cuts)]
    run_side_by_side([lambda piece=piece: finish(*piece) for piece in pieces])
    return made


@compiled()
def _sort(points, order, size, first, last):
    """Orders the points first..last as the leaves of a KD-tree whose leaves are the boxes; first is a box's start."""
    starts, stops = np.empty(128, np.int64), np.empty(128, np.int64)  # segments still to be cut
    starts[0], stops[0] = first, last
    left = 1
    while left > 0:
        left -= 1
        start, stop = starts[left], stops[left]
        if stop - start <= FINEST:
            continue
        middle = _cut(points, order, size, start, stop)
        starts[left], stops[left] = start, middle
        starts[left + 1], stops[left + 1] = middle, stop
        left += 2


@compiled()
def _cut(points, order, size, start, stop):
    """Halves the points start..stop along their widest axis, between two boxes where there are two; the place."""
    boxes = (stop - start + size - 1) // size
    middle = start + (boxes // 2 * size if boxes > 1 else (stop - start) // 2)
    axis, widest = 0, -1.0
    for a in range(3):
        low = high = points[start, a]
        for j in range(start + 1, stop):
            value = points[j, a]
            low = value if value < low else low
            high = value if value > high else high
        if high - low > widest:
            axis, widest = a, high - low
    _select(points, order, axis, start, stop, middle)
    return middle


@compiled()
def _select(points, order, axis, start, stop, place):
    """Moves rows of start..stop so that those before ``place`` are not above those from it on along the axis."""
    low, high = start, stop - 1
    while low < high:
        a, b, c = points[low, axis], points[(low + high) // 2, axis], points[high, axis]
        pivot = max(min(a, b), min(max(a, b), c))  # the median of three
        i, j = low, high
        while i <= j:
            while points[i, axis] < pivot:
                i += 1
            while points[j, axis] > pivot:
                j -= 1
            if i <= j:
                for a in range(3):
                    points[i, a], points[j, a] = points[j, a], points[i, a]
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            return


@compiled()
def _boxes(rows, points, low, high, first, last):
    """The boxes of the places first..last; first is a box's start."""
    size = points.shape[2]
    for start in range(first, last, size):
        box, stop = start // size, min(start + size, last)
        for a in range(3):
            low[a, box] = high[a, box] = rows[start, a]
            for j in range(start, stop):
                points[box, a, j - start] = rows[j, a]
                low[a, box] = min(low[a, box], rows[j, a])
                high[a, box] = max(high[a, box], rows[j, a])
