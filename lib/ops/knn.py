"""Exact k nearest neighbours."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lib.ops import cuda, reference
from lib.ops.backend import runs_compiled, runs_kernels
from lib.ops.buckets import bucket_clouds
from lib.ops.checks import check_clouds, check_finite
from lib.ops.compiled import compiled
from lib.ops.errors import InputError
from lib.ops.threads import run_side_by_side, split_range
from lib.ops.vectors import LANES, pack

MIN_BOX = 32  # points
FEW = 512  # queries of a cloud; they are done before another thread has begun
RUN = 8  # queries side by side in a box that look for points together
FURTHER = 1.2  # times the squared distance of the k-th point from the middle of a run: the reach tried for the run
WIDER = 1.5  # times the same of the run before: where the points around the next run are looked for first
MANY = 256  # points that are ranked against each other; more are as good as equal, and are inserted one by one
NOWHERE = 2**62  # a row behind all others


def knn(query: Tensor, support: Tensor, k: int) -> Tensor:
    """For each query point the ``k`` nearest support points, nearest first, by exact Euclidean distance.

    query (B, N, 3) and support (B, M, 3) in metres -> (B, N, k) int64 indices into M. Equal distances come in the
    order of their indices, which decides which of several equally distant points is taken (clouds from a pixel grid do
    hold exact ties). Distances are compared in float64. No gradient flows through the choice.

    Raises InputError for wrong shapes, ``k`` outside 1..M, mixed devices or dtypes, or coordinates that are not finite.
    """
    return knn_each((query, support, k))[0]


def knn_each(*searches: tuple[Tensor, Tensor, int]) -> list[Tensor]:
    """``knn`` of each (query, support, k), all on one device. On a CPU the threads share the lot."""
    looked_at: set[int] = set()
    for search in searches:
        _check(*search, looked_at)
    kernels = [runs_kernels(query, support) for query, support, _ in searches]
    if not any(kernels) and all(runs_compiled(query, support) for query, support, _ in searches):
        return _compiled_knn(searches)
    several = zip(searches, kernels, strict=True)
    return [(cuda if kernel else reference).knn(q.detach(), s.detach(), k) for (q, s, k), kernel in several]


def _check(query: Tensor, support: Tensor, k: int, looked_at: set[int]) -> None:
    """Raises InputError as ``knn`` does; coordinates of the tensors in ``looked_at`` (their ids) are not read again."""
    check_clouds("knn", query=query, support=support)
    if not 1 <= k <= support.shape[1]:
        raise InputError(
            f"knn: {k} neighbours asked of {support.shape[1]} points: query {tuple(query.shape)}, "
            f"support {tuple(support.shape)}"
        )
    for name, cloud in (("query", query), ("support", support)):
        if id(cloud) not in looked_at:
            check_finite("knn", name, cloud)
            looked_at.add(id(cloud))


def _compiled_knn(searches: Sequence[tuple[Tensor, Tensor, int]]) -> list[Tensor]:
    """All boxes first, then all searches, in pieces that the threads take in turn."""
    size = max([MIN_BOX, *(-(-k // LANES) * LANES for *_, k in searches)])  # whole vectors
    clouds = {id(cloud): cloud for *pair, _ in searches for cloud in pair if cloud.shape[1] > 0}
    buckets = iter(bucket_clouds([one for cloud in clouds.values() for one in cloud.detach().numpy()], size))
    known = {key: [next(buckets) for _ in cloud] for key, cloud in clouds.items()}  # a list of clouds a batch
    found, pieces = [], []
    for query, support, k in searches:
        count, full = query.shape[1], support.shape[1] // size
        index = torch.empty(*query.shape[:2], k, dtype=torch.int64)
        parts = split_range(count) if count > FEW else [(0, count)] if count else []
        for b, rows in enumerate(index.numpy()):
            for start, stop in parts:
                args = (*known[id(query)][b][:2], *known[id(support)][b], full, rows, start, stop)
                pieces.append(partial(_search, *args))
        found.append(index)
    run_side_by_side(pieces)
    return found


@compiled()
def _search(q_order, q_points, order, points, low, high, full, out, start, stop):
    """The neighbours of the queries at the places start..stop, into out (N, k). full: boxes without an empty place.

    The points within a reach of a box around queries are all that are within that reach of any of them: where a query
    finds k of them within the reach, these are its neighbours. A reach is a guess; one that is too short is extended.
    """
    k, q_size = out.shape[1], q_points.shape[2]
    room = points.shape[0] * points.shape[2] + LANES
    wide = np.empty((3, room)), np.empty(room, np.int64)  # the points around a run of queries, and their rows
    nearby = np.empty((3, room)), np.empty(room, np.int64)  # those of them that are near
    numbers, near = np.arange(len(points) + LANES), np.empty(len(points) + LANES, np.int64)  # of boxes
    tried, distances, rows = np.empty(room), np.empty(room), np.empty(room, np.int64)
    keys, rank, first = np.empty(MANY, np.float32), np.empty(MANY, np.int32), np.empty(MANY + k, np.int64)
    middle = 0.0
    q = start
    while q < stop:
        queries, lane = q_points[q // q_size], q % q_size
        end = min(lane // RUN * RUN + RUN, q_size, lane + stop - q)
        box = _box(queries, lane, end)

        # The reach that k points have from the middle of the run: about that of its queries.
        x, y, z = (box[0] + box[1]) / 2, (box[2] + box[3]) / 2, (box[4] + box[5]) / 2
        guess, limit = middle, WIDER * middle
        found = _points_around(points, order, low, high, box, limit, tried, numbers, near, *wide)
        _distances(wide[0], found, x, y, z, tried)
        middle = _likely_reach(tried, found, k, guess, limit)
        if middle < 0:
            limit = _certain_reach(points, low, high, full, x, y, z)
            found = _points_around(points, order, low, high, box, limit, tried, numbers, near, *wide)
            _distances(wide[0], found, x, y, z, tried)
            middle = _likely_reach(tried, found, k, limit, limit)

        reach = FURTHER * middle
        if reach > limit:
            found = _points_around(points, order, low, high, box, reach, tried, numbers, near, *nearby)
        else:
            found = _points_within(*wide, found, box, reach, tried, *nearby)
        while True:
            while lane < end:
                _distances(nearby[0], found, queries[0, lane], queries[1, lane], queries[2, lane], tried)
                likely = _likely_reach(tried, found, k, middle, reach)
                if likely < 0:
                    break
                kept = 0
                for j in range(0, found, LANES):
                    pack(tried, likely, nearby[1], j, rows, kept)
                    kept += pack(tried, likely, tried, j, distances, kept)
                if kept > MANY or not _rank(distances, kept, keys, rank, first):
                    _insert(distances, rows, kept, k, first)
                row = out[q_order[q]]
                for i in range(k):
                    row[i] = rows[first[i]]
                lane += 1
                q += 1
            if lane == end:
                break
            # All points found are within the reach of the middle plus the box: so are k of them from this query.
            width = (box[1] - box[0]) ** 2 + (box[3] - box[2]) ** 2 + (box[5] - box[4]) ** 2
            reach = _likely_reach(tried, found, k, max(reach, width), np.inf)
            found = _points_around(points, order, low, high, box, reach, tried, numbers, near, *nearby)


@compiled()
def _box(points, start, stop):
    """The smallest and largest coordinate of points (3, ...) along each axis in turn."""
    lx = hx = points[0, start]
    ly = hy = points[1, start]
    lz = hz = points[2, start]
    for j in range(start + 1, stop):
        lx, hx = min(lx, points[0, j]), max(hx, points[0, j])
        ly, hy = min(ly, points[1, j]), max(hy, points[1, j])
        lz, hz = min(lz, points[2, j]), max(hz, points[2, j])
    return lx, hx, ly, hy, lz, hz


@compiled()
def _distances(points, count, x, y, z, out):
    """The squared distances of a place to points (3, ...)."""
    for j in range(count):
        dx, dy, dz = points[0, j] - x, points[1, j] - y, points[2, j] - z
        out[j] = dx * dx + dy * dy + dz * dz


@compiled()
def _points_around(points, order, low, high, box, limit, tried, numbers, near, found, rows):
    """Collects the points within a squared distance of a box, and their rows; returns how many, in whole vectors."""
    lx, hx, ly, hy, lz, hz = box
    boxes, _, size = points.shape
    for b in range(boxes):
        dx = max(low[0, b] - hx, lx - high[0, b], 0.0)
        dy = max(low[1, b] - hy, ly - high[1, b], 0.0)
        dz = max(low[2, b] - hz, lz - high[2, b], 0.0)
        tried[b] = dx * dx + dy * dy + dz * dz
    tried[boxes : boxes + LANES] = np.inf
    chosen = 0
    for b in range(0, boxes, LANES):
        chosen += pack(tried, limit, numbers, b, near, chosen)
    xs, ys, zs = found
    count = 0
    for b in near[: min(chosen, boxes)]:
        _gaps(points[b], size, box, tried)
        places = order[b * size : (b + 1) * size]
        for j in range(0, size, LANES):
            pack(tried, limit, points[b, 0], j, xs, count)
            pack(tried, limit, points[b, 1], j, ys, count)
            pack(tried, limit, points[b, 2], j, zs, count)
            count += pack(tried, limit, places, j, rows, count)
    return _fill(found, rows, count)


@compiled()
def _points_within(points, order, count, box, limit, tried, found, rows):
    """The same among the first ``count`` points of a list."""
    xs, ys, zs = found
    px, py, pz = points
    _gaps(points, count, box, tried)
    kept = 0
    for j in range(0, count, LANES):
        taken = pack(tried, limit, order, j, rows, kept)
        if taken > 0:  # neighbours are in the list side by side: often there is none in a vector
            pack(tried, limit, px, j, xs, kept)
            pack(tried, limit, py, j, ys, kept)
            pack(tried, limit, pz, j, zs, kept)
            kept += taken
    return _fill(found, rows, kept)


@compiled()
def _gaps(points, count, box, out):
    """The squared distances of points (3, ...) to a box."""
    lx, hx, ly, hy, lz, hz = box
    for j in range(count):
        x, y, z = points[0, j], points[1, j], points[2, j]
        dx, dy, dz = max(x - hx, lx - x, 0.0), max(y - hy, ly - y, 0.0), max(z - hz, lz - z, 0.0)
        out[j] = dx * dx + dy * dy + dz * dz


@compiled()
def _fill(points, rows, count):
    """Fills a vector up with points at infinity, behind all others."""
    points[:, count : count + LANES] = np.inf
    rows[count : count + LANES] = NOWHERE
    return (count + LANES - 1) // LANES * LANES


@compiled()
def _likely_reach(tried, count, k, guess, most):
    """A number that at least k of the tried ones do not exceed, and few others; -1 if there is none up to ``most``.

    Counting is quick. It spares ranking points that are not among the k.
    """
    plenty = k + k // 4 + 4
    few, enough = 0.0, -1.0
    reach = min(guess, most)
    for _ in range(8):
        n = 0
        for j in range(count):
            n += tried[j] <= reach
        if n < k:
            if reach == most:
                return -1.0
            few = reach
            reach = min(reach * min((k + 2) / (n + 1), 4.0), most)
        else:
            enough = reach
            if n <= plenty:
                break
            reach *= (k + 2) / n
        if enough >= 0 and not few < reach < enough:
            reach = (few + enough) / 2
    if enough < 0:
        n = 0
        for j in range(count):
            n += tried[j] <= most
        enough = most if n >= k else -1.0
    return enough


@compiled()
def _certain_reach(points, low, high, full, x, y, z):
    """A squared distance within which there are k points: the furthest one of the nearest box that holds so many."""
    if full == 0:
        return np.inf
    home, nearest = 0, np.inf
    for b in range(full):
        dx = max(low[0, b] - x, x - high[0, b], 0.0)
        dy = max(low[1, b] - y, y - high[1, b], 0.0)
        dz = max(low[2, b] - z, z - high[2, b], 0.0)
        d = dx * dx + dy * dy + dz * dz
        if d < nearest:
            home, nearest = b, d
    furthest = 0.0
    for j in range(points.shape[2]):
        dx, dy, dz = points[home, 0, j] - x, points[home, 1, j] - y, points[home, 2, j] - z
        furthest = max(furthest, dx * dx + dy * dy + dz * dz)
    return furthest


@compiled()
def _rank(distances, count, keys, rank, first):
    """Puts the places of the distances in their order into ``first``; False where two are too alike.

    In 32 bits: rounding may make two distances equal but never swaps them.
    """
    whole = (count + 15) // 16 * 16  # whole vectors
    for i in range(whole):
        keys[i] = distances[i] if i < count else np.inf
        rank[i] = 0
    for j in range(0, count, 4):  # four at a time: fewer passes over the ranks
        a, b, c, d = keys[j], keys[j + 1], keys[j + 2], keys[j + 3]
        for i in range(whole):
            e = keys[i]
            rank[i] += np.int32(a < e) + np.int32(b < e) + np.int32(c < e) + np.int32(d < e)
    total = 0
    for i in range(count):
        total += rank[i]
        first[rank[i]] = i
    return total == count * (count - 1) // 2


@compiled()
def _insert(distances, rows, count, k, first):
    """Puts the places of the k first distances into ``first``; equal distances in the order of their rows."""
    filled = 0
    for i in range(count):
        d, row = distances[i], rows[i]
        j = filled
        while j > 0:
            other = first[j - 1]
            if distances[other] < d or (distances[other] == d and rows[other] < row):
                break
            if j < k:
                first[j] = other
            j -= 1
        if j < k:
            first[j] = i
            filled = min(filled + 1, k)
