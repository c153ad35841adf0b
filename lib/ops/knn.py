"""Exact k nearest neighbours."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops import cuda, reference
from lib.ops.backend import runs_compiled, runs_kernels
from lib.ops.buckets import bucket_clouds
from lib.ops.checks import check_clouds, check_finite
from lib.ops.compiled import compiled, untraced
from lib.ops.nearest import candidates, insert, likely_reach, rank
from lib.ops.threads import run_side_by_side, split_range
from lib.ops.vectors import LANES, count, larger, load, narrow, pack, spread, store

MIN_BOX = 32  # points
FEW = 512  # queries of a cloud; they are done before another thread has begun
RUN = 16  # queries side by side in a box that look for points together
FURTHER = 1.2  # times the squared distance of the k-th point from the middle of a run: the reach tried for the run
WIDER = 1.5  # times the same of the run before: where the points around the next run are looked for first
MANY = 256  # points that are ranked against each other; more are as good as equal, and are inserted one by one
MOST = 2**30  # points of a cloud: their places are numbers of 32 bits
# Float32 sifts: coordinates from the middle of a run, and squared distances T by them. With u = 2^-24 and H from the
# middle to the corners of the run, a point at the exact distance d from a query of the run (or from its box) is at most
# d + H from the middle. Its rounding, the query's and that of their difference are within u (d + H), u H and u d,
# together e = 2 u (d + H), so that to first order |T - d^2| <= 2 d e + 3 u d^2 <= 9 u (d^2 + H^2), as
# 2 d H <= d^2 + H^2; below 10 u with all else, float64's own rounding included. TINY is more than underflow takes.
# So where T <= t, whatever is no further off has a T at most 20 u (t + H^2) above t: SLACK is 32 u.
SLACK = 2.0**-19
TINY = 1e-37
HUGE = 1e30  # squared metres; the square of nothing beyond that is looked at in float32, where it might overflow


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
    for query, support, k in searches:
        check_clouds("knn", query=query, support=support)
        if not 1 <= k <= support.shape[1]:
            raise InputError(
                f"knn: {k} neighbours asked of {support.shape[1]} points: query {tuple(query.shape)}, "
                f"support {tuple(support.shape)}"
            )
    kernels = [runs_kernels(query, support) for query, support, _ in searches]
    if not any(kernels) and all(runs_compiled(q, s) and s.shape[1] <= MOST for q, s, _ in searches):
        return _compiled_knn(searches)
    if not torch.compiler.is_compiling():  # it would compile anew for every cloud, by whose id they are told apart
        _check_values(searches)
    several = zip(searches, kernels, strict=True)
    return [(cuda if kernel else reference).knn(q.detach(), s.detach(), k) for (q, s, k), kernel in several]


def _check_values(searches: Sequence[tuple[Tensor, Tensor, int]]) -> None:
    """Raises InputError for a coordinate that is not finite. Reads a cloud of several searches once."""
    looked_at: set[int] = set()
    for query, support, _ in searches:
        for name, cloud in (("query", query), ("support", support)):
            if id(cloud) not in looked_at:
                check_finite("knn", name, cloud)
                looked_at.add(id(cloud))


@untraced
def _compiled_knn(searches: Sequence[tuple[Tensor, Tensor, int]]) -> list[Tensor]:
    """All boxes first, then all searches, in pieces that the threads take in turn."""
    _check_values(searches)
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
    Points are sifted by float32; candidates that it cannot tell apart for sure are compared in float64.
    """
    k, q_size, room = out.shape[1], q_points.shape[2], len(order) + LANES
    flat, numbers = points.reshape(-1), np.arange(room).astype(np.int32)
    # The points around a run of queries, and those of them that are near: three coordinates from its middle, places.
    wide, nearby = _list(room), _list(room)
    tried, near, exact = np.empty(room, np.float32), np.empty(room, np.int32), np.empty(k)
    keys, places = np.empty(room, np.float32), np.empty(room, np.int32)  # the candidates of a query
    later, ranks, rows = np.empty(MANY, np.float32), np.empty(MANY, np.int32), np.empty(MANY + k, np.int64)
    middle = 0.0
    q = start
    while q < stop:
        queries, lane = q_points[q // q_size], q % q_size
        end = min(lane // RUN * RUN + RUN, q_size, lane + stop - q)
        box = _box(queries, lane, end)
        origin, sides, corner = _middle(box)
        if corner > HUGE:  # too wide for float32
            while lane < end:
                insert(points, order, numbers, len(order), queries[:, lane], exact, out[q_order[q]])
                lane += 1
                q += 1
            continue

        # The reach that k points have from the middle of the run: about that of its queries.
        guess, limit = middle, WIDER * middle
        safe = _safe(limit, corner)
        around = _points_around(points, flat, low, high, box, origin, safe, tried, numbers, near, wide)
        _distances(wide, around, 0.0, 0.0, 0.0, tried)
        middle = likely_reach(tried, around, k, guess, limit)
        if middle < 0:
            limit = _safe(_certain_reach(points, low, high, full, *origin), corner)
            safe = _safe(limit, corner)
            around = _points_around(points, flat, low, high, box, origin, safe, tried, numbers, near, wide)
            _distances(wide, around, 0.0, 0.0, 0.0, tried)
            middle = likely_reach(tried, around, k, limit, limit)

        reach = FURTHER * middle
        while True:
            if reach > limit:
                limit = reach
                safe = _safe(limit, corner)
                around = _points_around(points, flat, low, high, box, origin, safe, tried, numbers, near, wide)
            found = _points_within(wide, around, sides, _safe(reach, corner), nearby)
            likely = middle
            while lane < end:
                x, y, z = queries[0, lane] - origin[0], queries[1, lane] - origin[1], queries[2, lane] - origin[2]
                _distances(nearby, found, x, y, z, tried)
                likely = likely_reach(tried, found, k, likely, reach)
                if likely < 0:
                    break
                bound, row = _safe(likely, corner), out[q_order[q]]
                kept = min(candidates(tried, nearby[3], found, bound, keys, places), found)  # without the filling
                if kept <= MANY and rank(keys, kept, bound - likely, order, places, later, ranks, rows):
                    for i in range(k):
                        row[i] = rows[i]
                else:
                    insert(points, order, places, kept, queries[:, lane], exact, row)
                lane += 1
                q += 1
            if lane == end:
                break
            # All points found are within the reach of the middle plus the box: so are k of them from this query.
            reach = likely_reach(tried, found, k, max(reach, 4 * corner), np.inf)


@compiled()
def _list(room):
    return np.empty(room, np.float32), np.empty(room, np.float32), np.empty(room, np.float32), np.empty(room, np.int32)


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
def _middle(box):
    """The middle of a box; its sides from there, in float32; the squared distance of its corners, at most."""
    lx, hx, ly, hy, lz, hz = box
    x, y, z = lx + (hx - lx) / 2, ly + (hy - ly) / 2, lz + (hz - lz) / 2
    f = np.float32
    sides = f(lx - x), f(hx - x), f(ly - y), f(hy - y), f(lz - z), f(hz - z)
    dx, dy, dz = max(hx - x, x - lx), max(hy - y, y - ly), max(hz - z, z - lz)
    return (x, y, z), sides, dx * dx + dy * dy + dz * dz


@compiled()
def _safe(limit, corner):
    """What the squared distances in float32 of all that is as near as points with one up to ``limit`` do not exceed."""
    return limit + SLACK * (limit + corner) + TINY if limit < HUGE else np.inf


@compiled()
def _distances(points, number, x, y, z, out):
    """The squared distances of a place to the first ``number`` points of a list."""
    xs, ys, zs, _ = points
    x, y, z = spread(np.float32(x)), spread(np.float32(y)), spread(np.float32(z))
    for j in range(0, number, LANES):
        dx, dy, dz = load(xs, j) - x, load(ys, j) - y, load(zs, j) - z
        store(dx * dx + dy * dy + dz * dz, out, j)


@compiled()
def _points_around(points, flat, low, high, box, origin, limit, tried, numbers, near, found):
    """Collects the points of all boxes within a squared distance of a box; returns how many, in whole vectors."""
    lx, hx, ly, hy, lz, hz = box
    boxes, _, size = points.shape
    for b in range(boxes):
        dx = max(low[0, b] - hx, lx - high[0, b], 0.0)
        dy = max(low[1, b] - hy, ly - high[1, b], 0.0)
        dz = max(low[2, b] - hz, lz - high[2, b], 0.0)
        tried[b] = dx * dx + dy * dy + dz * dz
    tried[boxes : boxes + LANES] = np.inf
    chosen = 0
    most = spread(np.float32(limit))
    for b in range(0, boxes, LANES):
        within = load(tried, b) <= most
        pack(load(numbers, b), within, near, chosen)
        chosen += count(within)
    xs, ys, zs, places = found
    x, y, z = spread(origin[0]), spread(origin[1]), spread(origin[2])
    to = 0
    for i in range(min(chosen, boxes)):
        start = near[i] * size
        for j in range(0, size, LANES):
            store(narrow(load(flat, 3 * start + j) - x), xs, to)
            store(narrow(load(flat, 3 * start + size + j) - y), ys, to)
            store(narrow(load(flat, 3 * start + 2 * size + j) - z), zs, to)
            store(load(numbers, start + j), places, to)
            to += LANES
    return to


@compiled()
def _points_within(points, number, sides, limit, found):
    """Collects those of the first ``number`` points of a list that are within a squared distance of a box.

    Fills a vector up with points at infinity, behind all others.
    """
    lx, hx, ly, hy, lz, hz = sides
    lx, hx, ly, hy, lz, hz = spread(lx), spread(hx), spread(ly), spread(hy), spread(lz), spread(hz)
    zero, most = spread(np.float32(0)), spread(np.float32(limit))
    px, py, pz, order = points
    xs, ys, zs, places = found
    kept = 0
    for j in range(0, number, LANES):
        x, y, z = load(px, j), load(py, j), load(pz, j)
        dx, dy, dz = larger(x - hx, lx - x), larger(y - hy, ly - y), larger(z - hz, lz - z)
        dx, dy, dz = larger(dx, zero), larger(dy, zero), larger(dz, zero)
        chosen = dx * dx + dy * dy + dz * dz <= most
        taken = count(chosen)
        if taken > 0:  # neighbours are in the list side by side: often there is none in a vector
            pack(x, chosen, xs, kept)
            pack(y, chosen, ys, kept)
            pack(z, chosen, zs, kept)
            pack(load(order, j), chosen, places, kept)
            kept += taken
    store(spread(np.float32(np.inf)), xs, kept)
    store(spread(np.int32(0)), places, kept)
    return kept


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
