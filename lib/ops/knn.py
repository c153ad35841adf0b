"""Exact k nearest neighbours."""

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

MIN_BOX = 32  # points
LIKELY = 1.2  # times the squared distance of the last query's k-th neighbour: where the next one's is looked for first
SLACK = 1 + 1e-9  # for the rounding of a triangle inequality

def knn(query: Tensor, support: Tensor, k: int) -> Tensor:
    """For each query point the ``k`` nearest support points, nearest first, by exact Euclidean distance.

    query (B, N, 3) and support (B, M, 3) in metres -> (B, N, k) int64 indices into M. Equal distances come in the
    order of their indices, which decides which of several equally distant points is taken (clouds from a pixel grid do
    hold exact ties). Distances are compared in float64. No gradient flows through the choice.

    Raises InputError for wrong shapes, ``k`` outside 1..M, mixed devices or dtypes, or coordinates that are not finite.
    """
    check_clouds("knn", query=query, support=support)
    if not 1 <= k <= support.shape[1]:
        raise InputError(
            f"knn: {k} neighbours asked of {support.shape[1]} points: query {tuple(query.shape)}, "
            f"support {tuple(support.shape)}"
        )
    check_finite("knn", "query", query)
    check_finite("knn", "support", support)
    query, support = query.detach(), support.detach()
    if runs_kernels(query, support):
        return cuda.knn(query, support, k)
    if not runs_compiled(query, support):
        return reference.knn(query, support, k)

    index = torch.empty(*query.shape[:2], k, dtype=torch.int64)
    if query.shape[1] == 0:
        return index
    size = max(MIN_BOX, k)
    buckets = bucket_clouds([*support.numpy(), *(() if query is support else query.numpy())], size)
    supports, queries = buckets[: len(support)], buckets[-len(query) :]

    def search(b: int, start: int, stop: int) -> None:
        _search(*queries[b], *supports[b], support.shape[1] // size, index[b].numpy(), start, stop)

    pieces = [(b, start, stop) for b in range(len(supports)) for start, stop in split_range(query.shape[1])]
    run_side_by_side([lambda piece=piece: search(*piece) for piece in pieces])
    return index


@compiled()
def _search(q_order, q_points, q_low, q_high, order, points, low, high, full, out, start, stop):
    """The neighbours of the queries at the places start..stop, into out (N, k). full: boxes without an empty place."""
    k, q_size = out.shape[1], q_points.shape[2]
    boxes, _, size = points.shape
    room = 8 * size
    near = np.empty(boxes, np.int64)  # boxes of the support that a box of queries may need
    tried, distances, places = np.empty(size), np.empty(room + size), np.empty(room + size, np.int64)
    rank, spare = np.empty(room + size, np.int64), np.empty(room + size, np.int64)
    group, count = -1, 0
    x = y = z = last = 0.0
    for q in range(start, stop):
        px, py, pz = x, y, z
        lane = q % q_size
        new_group = q // q_size != group
        group = q // q_size
        x, y, z = q_points[group, 0, lane], q_points[group, 1, lane], q_points[group, 2, lane]
        if new_group:
            certain = _certain_reach(points, low, high, full, x, y, z)
            count = _boxes_within(low, high, q_points[group, :, lane], q_points[group, :, lane], certain, near)
        else:
            # Likely about as far as for the query before; if that is too near, the triangle inequality is certain.
            step = np.sqrt((x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2)
            certain = (np.sqrt(last) + step) ** 2 * SLACK
        reach = min(LIKELY * last, certain)
        while True:
            found = 0
            for i in range(count):
                b = near[i]
                dx = max(low[0, b] - x, x - high[0, b], 0.0)
                dy = max(low[1, b] - y, y - high[1, b], 0.0)
                dz = max(low[2, b] - z, z - high[2, b], 0.0)
                if dx * dx + dy * dy + dz * dz > reach:
                    continue
                if found > room:
                    _rank(distances, places, order, found, rank)
                    _keep(distances, places, rank, spare, found, k)
                    found, reach = k, min(reach, distances[k - 1])
                for j in range(size):
                    dx, dy, dz = points[b, 0, j] - x, points[b, 1, j] - y, points[b, 2, j] - z
                    tried[j] = dx * dx + dy * dy + dz * dz
                for j in range(size):
                    distances[found], places[found] = tried[j], b * size + j
                    found += tried[j] <= reach  # without a jump: the next one takes the place of one too far away
            if found >= k:
                break
            reach = certain
        _rank(distances, places, order, found, rank)
        for i in range(found):
            spare[rank[i]] = i
        row = out[q_order[q]]
        for i in range(k):
            row[i] = order[places[spare[i]]]
        last = distances[spare[k - 1]]
        if new_group:
            # Where the first query of a box finds k points within a radius, all find them within that and the box.
            width = 0.0
            for a in range(3):
                width += (q_high[a, group] - q_low[a, group]) ** 2
            limit = (np.sqrt(last) + np.sqrt(width)) ** 2 * SLACK
            count = _boxes_within(low, high, q_low[:, group], q_high[:, group], limit, near)


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
def _boxes_within(low, high, q_low, q_high, limit, near):
    """Puts the boxes within the squared distance ``limit`` of another one into ``near``; returns how many."""
    count = 0
    for b in range(low.shape[1]):
        dx = max(low[0, b] - q_high[0], q_low[0] - high[0, b], 0.0)
        dy = max(low[1, b] - q_high[1], q_low[1] - high[1, b], 0.0)
        dz = max(low[2, b] - q_high[2], q_low[2] - high[2, b], 0.0)
        near[count] = b
        count += dx * dx + dy * dy + dz * dz <= limit
    return count


@compiled()
def _rank(distances, places, order, found, rank):
    """rank[i]: how many candidates come before candidate i; equal distances in the order of their rows."""
    rank[:found] = 0
    whole = found // 4 * 4
    for j in range(0, whole, 4):  # four at a time: fewer passes over the ranks
        a, b, c, d = distances[j], distances[j + 1], distances[j + 2], distances[j + 3]
        for i in range(found):
            e = distances[i]
            rank[i] += (1 if a < e else 0) + (1 if b < e else 0) + (1 if c < e else 0) + (1 if d < e else 0)
    for j in range(whole, found):
        for i in range(found):
            rank[i] += 1 if distances[j] < distances[i] else 0
    if rank[:found].sum() == found * (found - 1) // 2:
        return  # no two distances are equal
    for i in range(found):
        for j in range(found):
            if distances[j] == distances[i] and order[places[j]] < order[places[i]]:
                rank[i] += 1


@compiled()
def _keep(distances, places, rank, spare, found, k):
    """Leaves the k first candidates, in the order of their ranks."""
    for i in range(found):
        spare[rank[i]] = i
    kept_distances, kept_places = distances[spare[:k]], places[spare[:k]]
    distances[:k], places[:k] = kept_distances, kept_places
