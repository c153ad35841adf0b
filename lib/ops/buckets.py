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

FEW = 2048  # points; they are sorted before another thread has begun
FINEST = 8  # points; the order goes on inside of a box down to runs of so many


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
        numbered = np.empty((len(cloud), 4))  # a point and its number, exact in float64, move as one vector
        numbered[:, :3], numbered[:, 3] = cloud, np.arange(len(cloud))
        rows.append(numbered)

    def finish(r: np.ndarray, m: Buckets, start: int, stop: int) -> None:
        _sort(r, size, start, stop)
        _boxes(r, m.order, m.points, m.low, m.high, start, stop)

    if sum(map(len, rows)) <= FEW:
        for r, m in zip(rows, made, strict=True):
            finish(r, m, 0, len(r))
        return made
    middles = run_side_by_side([lambda r=r: _cut(r, size, 0, len(r)) for r in rows])
    pieces = []
    for r, m, middle in zip(rows, made, middles, strict=True):
        cuts = (0, middle, len(r)) if len(r) > size else (0, len(r))  # a box is never cut
        pieces += [(r, m, start, stop) for start, stop in pairwise(cuts)]
    run_side_by_side([lambda piece=piece: finish(*piece) for piece in pieces])
    return made


@compiled()
def _sort(rows, size, first, last):
    """Orders the rows first..last as the leaves of a KD-tree whose leaves are the boxes; first is a box's start."""
    starts, stops = np.empty(128, np.int64), np.empty(128, np.int64)  # segments still to be cut
    starts[0], stops[0] = first, last
    left = 1
    while left > 0:
        left -= 1
        start, stop = starts[left], stops[left]
        if stop - start <= FINEST:
            continue
        middle = _cut(rows, size, start, stop)
        starts[left], stops[left] = start, middle
        starts[left + 1], stops[left + 1] = middle, stop
        left += 2


@compiled()
def _cut(rows, size, start, stop):
    """Halves the rows start..stop along their widest axis, between two boxes where there are two; the place."""
    boxes = (stop - start + size - 1) // size
    middle = start + (boxes // 2 * size if boxes > 1 else (stop - start) // 2)
    axis, widest = 0, -1.0
    for a in range(3):
        low = high = rows[start, a]
        for j in range(start + 1, stop):
            value = rows[j, a]
            low = value if value < low else low
            high = value if value > high else high
        if high - low > widest:
            axis, widest = a, high - low
    _select(rows, axis, start, stop, middle)
    return middle


@compiled()
def _select(rows, axis, start, stop, place):
    """Moves the rows start..stop so that those before ``place`` are not above those from it on along the axis."""
    low, high = start, stop
    while low < place < high:
        a, b, c = rows[low, axis], rows[(low + high) // 2, axis], rows[high - 1, axis]
        pivot = max(min(a, b), min(max(a, b), c))  # the median of three
        i = _partition(rows, axis, low, high, pivot, False)
        if place <= i:
            high = i
        elif i > low:
            low = i
        else:  # none is below the pivot: the equal ones go first
            low = _partition(rows, axis, low, high, pivot, True)


@compiled()
def _partition(rows, axis, low, high, pivot, equal):
    """Moves the rows below the pivot, or not above it, to the front of low..high; returns where the others begin."""
    i = low
    for j in range(low, high):  # without a jump: the next row takes the place of one that belongs behind
        x, y, z, row = rows[j, 0], rows[j, 1], rows[j, 2], rows[j, 3]
        value = rows[j, axis]
        rows[j, 0], rows[j, 1], rows[j, 2], rows[j, 3] = rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3]
        rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3] = x, y, z, row
        i += (value < pivot) | (equal & (value == pivot))
    return i


@compiled()
def _boxes(rows, order, points, low, high, first, last):
    """The boxes of the places first..last; first is a box's start."""
    size = points.shape[2]
    for start in range(first, last, size):
        box, stop = start // size, min(start + size, last)
        for j in range(start, stop):
            order[j] = np.int64(rows[j, 3])
        for a in range(3):
            low[a, box] = high[a, box] = rows[start, a]
            for j in range(start, stop):
                points[box, a, j - start] = rows[j, a]
                low[a, box] = min(low[a, box], rows[j, a])
                high[a, box] = max(high[a, box], rows[j, a])
