"""A cloud in spatial order, cut into small boxes, so that the sampling and the search can skip whole boxes.

All distances are dx dx + dy dy + dz dz in float64. Rounding keeps order: a rounded sum or product never falls when an
operand grows. So the computed distance to a box never exceeds that to a point in it, not even in the last bit, and
skipping a box never changes a result.
"""

from collections import deque
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lib.ops.cpu.compiled import compiled
from lib.ops.cpu.threads import WORTH_A_THREAD, run_side_by_side

_latest: deque[tuple] = deque(maxlen=16)  # key, cloud, boxes

BOX_POINTS = 32  # of most searches, and of the sampling, which then takes the boxes that are there
FINEST = 8  # points; within a box the points are ordered on, down to groups of so many


class Buckets(NamedTuple):
    """Box b holds the places b * size .. (b + 1) * size of the order; the last one may hold fewer."""

    order: np.ndarray  # (boxes * size,) int64: the row of the cloud at each place; at least N behind the last one
    points: np.ndarray  # (boxes, 3, size) float64: coordinates by place; infinite behind the last one
    low: np.ndarray  # (3, boxes)
    high: np.ndarray  # (3, boxes)


def bucket_clouds(clouds: list[np.ndarray], size: int) -> list[Buckets]:
    """Clouds (N, 3), N >= 1, float32 or float64, finite, in boxes of ``size`` points.

    A network searches the same few clouds again and again: the latest are remembered, by their coordinates.
    """
    known = [_remembered(cloud, size) for cloud in clouds]
    new = [cloud for cloud, buckets in zip(clouds, known, strict=True) if buckets is None]
    made = _make(new, size)
    _latest.extend((*_key(cloud, size), cloud.copy(), buckets) for cloud, buckets in zip(new, made, strict=True))
    rest = iter(made)
    return [next(rest) if buckets is None else buckets for buckets in known]


def _key(cloud: np.ndarray, size: int) -> tuple[int, tuple[int, ...], bytes]:
    """Size, shape and first point: most clouds differ in these already."""
    return size, cloud.shape, cloud[0].tobytes()


def _remembered(cloud: np.ndarray, size: int) -> Buckets | None:
    key = _key(cloud, size)
    for *other_key, other, buckets in list(_latest):
        if key == tuple(other_key) and np.array_equal(cloud, other):
            return buckets
    return None


def _make(clouds: list[np.ndarray], size: int) -> list[Buckets]:
    """Cuts each cloud in two first: a thread then sorts one half, also where there is only one cloud."""
    made = []
    for cloud in clouds:
        boxes = -(-len(cloud) // size)
        parts = np.empty(boxes * size, np.int64), np.empty((boxes, 3, size)), np.empty((3, boxes)), np.empty((3, boxes))
        made.append(Buckets(*parts))
    rows = [np.empty((len(cloud), 4)) for cloud in clouds]
    each = list(zip(clouds, rows, made, strict=True))
    starts = [partial(_begin, cloud, size, r, m.order, m.points) for cloud, r, m in each]
    few = sum(map(len, rows)) <= WORTH_A_THREAD
    middles = [start() for start in starts] if few else run_side_by_side(starts)
    pieces = []
    for (_, r, m), middle in zip(each, middles, strict=True):
        for start, stop in pairwise(sorted({0, middle, len(r)})):
            pieces.append(partial(_finish, r, size, *m, start, stop))
    if few:
        for piece in pieces:
            piece()
    else:
        run_side_by_side(pieces)
    return made


@compiled()
def _begin(cloud, size, rows, order, points):
    """Fills rows (N, 4) with the points and their numbers, and cuts them in two; returns where.

    The numbers are exact in float64, and so move with their points.
    """
    count = len(cloud)
    for j in range(count):
        rows[j, 0], rows[j, 1], rows[j, 2], rows[j, 3] = cloud[j, 0], cloud[j, 1], cloud[j, 2], j
    for j in range(count, len(order)):
        order[j] = j
    points[len(points) - 1] = np.inf  # behind the last point
    return _cut(rows, size, 0, count) if count > size else count  # a box is never cut


@compiled()
def _finish(rows, size, order, points, low, high, start, stop):
    """The boxes of the rows start..stop."""
    _sort(rows, size, start, stop)
    _boxes(rows, order, points, low, high, start, stop)


@compiled()
def _sort(rows, size, first, last):
    """Orders the rows first..last as a KD-tree does whose leaves are the boxes. A box starts at ``first``."""
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
    """Halves the rows start..stop along their widest axis, if possible between two boxes; returns the place."""
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
    """Moves the rows start..stop: along the axis, no row before ``place`` is then above a row from ``place`` on."""
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
    for j in range(low, high):  # without a branch: rows j and i always change places
        x, y, z, row = rows[j, 0], rows[j, 1], rows[j, 2], rows[j, 3]
        value = rows[j, axis]
        rows[j, 0], rows[j, 1], rows[j, 2], rows[j, 3] = rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3]
        rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3] = x, y, z, row
        i += (value < pivot) | (equal & (value == pivot))  # the row stays in front
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
