"""The search for nearest neighbours: boxes of points, a sieve in float32, distances in float64."""

import numpy as np

from lib.ops.cpu.compiled import compiled
from lib.ops.cpu.nearest import candidates, insert, likely_reach, rank
from lib.ops.cpu.vectors import LANES, compress, count_chosen, larger, load, narrow, spread, store

QUERIES = 16  # side by side in a box: they look for points together, as one run
REACH_FACTOR = 1.2  # reach that a run tries first / squared distance of the k-th point from its middle
NEXT_REACH_FACTOR = 1.5  # reach that the next run collects points in / the same squared distance
MAX_RANKED = 256  # candidates ranked against each other; more are nearly equal, and are inserted one by one
MAX_POINTS = 2**30  # of a cloud: places are numbers of 32 bits
# Float32 rules points out. It works with coordinates from the middle of a run, and squared distances T by them. With
# u = 2^-24 and H from the middle to the corners of the run, a point at the exact distance d from a query of the run (or
# from its box) is at most d + H from the middle. Its rounding, the query's and that of their difference are within
# u (d + H), u H and u d, together e = 2 u (d + H). To first order |T - d^2| <= 2 d e + 3 u d^2 <= 9 u (d^2 + H^2), as
# 2 d H <= d^2 + H^2. It stays below 10 u with all else, float64's own rounding included. TINY is more than underflow
# takes. So if T <= t for one point, every point that is no further off has a T at most 20 u (t + H^2) above t.
# SLACK is 32 u.
SLACK = 2.0**-19
TINY = 1e-37
HUGE = 1e30  # squared metres; larger squares might overflow in float32, so float64 takes them


@compiled()
def search(
    q_order: np.ndarray,
    q_points: np.ndarray,
    order: np.ndarray,
    points: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    full: int,
    out: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """The neighbours of the queries at the places start..stop, into out (N, k). full: the number of full boxes.

    Queries that lie side by side form a run. For a run, all points within some distance, the reach, of its box are
    collected. They include every point within the reach of each of its queries. So a query that has k of them within
    the reach has found its neighbours. The reach is a guess, and is extended where it was too short.
    Distances in float32 rule points out. Where float32 cannot decide for sure, float64 does.
    """
    k, q_size, room = out.shape[1], q_points.shape[2], len(order) + LANES
    flat, numbers = points.reshape(-1), np.arange(room).astype(np.int32)
    # The points around a run of queries, and the near ones among them: coordinates relative to its middle, and places.
    wide, nearby = _list(room), _list(room)
    tried, near, exact = np.empty(room, np.float32), np.empty(room, np.int32), np.empty(k)
    keys, places = np.empty(room, np.float32), np.empty(room, np.int32)  # the candidates of a query
    later, ranks, rows = (
        np.empty(MAX_RANKED, np.float32),
        np.empty(MAX_RANKED, np.int32),
        np.empty(MAX_RANKED + k, np.int64),
    )
    middle = 0.0
    q = start
    while q < stop:
        queries, lane = q_points[q // q_size], q % q_size
        end = min(lane // QUERIES * QUERIES + QUERIES, q_size, lane + stop - q)
        box = _box(queries, lane, end)
        origin, sides, corner = _middle(box)
        if corner > HUGE:  # too wide for float32
            while lane < end:
                insert(points, order, numbers, len(order), queries[:, lane], exact, out[q_order[q]])
                lane += 1
                q += 1
            continue

        # The reach that k points have from the middle of the run: about that of its queries.
        guess, limit = middle, NEXT_REACH_FACTOR * middle
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

        reach = REACH_FACTOR * middle
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
                if kept <= MAX_RANKED and rank(keys, kept, bound - likely, order, places, later, ranks, rows):
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
    """The middle of a box; its sides as seen from there, in float32; the squared distance of its corners."""
    lx, hx, ly, hy, lz, hz = box
    x, y, z = lx + (hx - lx) / 2, ly + (hy - ly) / 2, lz + (hz - lz) / 2
    f = np.float32
    sides = f(lx - x), f(hx - x), f(ly - y), f(hy - y), f(lz - z), f(hz - z)
    dx, dy, dz = max(hx - x, x - lx), max(hy - y, y - ly), max(hz - z, z - lz)
    return (x, y, z), sides, dx * dx + dy * dy + dz * dz


@compiled()
def _safe(limit, corner):
    """A limit in float32 that loses no point: see SLACK.

    Take any point whose squared distance in float32 is at most ``limit``, and another one that is really no further
    away. Then the squared distance of the other in float32 is at most the result.
    """
    return limit + SLACK * (limit + corner) + TINY if limit < HUGE else np.inf


@compiled()
def _distances(points, number, x, y, z, out):
    """out = the squared distances of (x, y, z) to the first ``number`` points of a list, in float32."""
    xs, ys, zs, _ = points
    x, y, z = spread(np.float32(x)), spread(np.float32(y)), spread(np.float32(z))
    for j in range(0, number, LANES):
        dx, dy, dz = load(xs, j) - x, load(ys, j) - y, load(zs, j) - z
        store(dx * dx + dy * dy + dz * dz, out, j)


@compiled()
def _points_around(points, flat, low, high, box, origin, limit, tried, numbers, near, found):
    """Collects the points of all boxes within the squared distance ``limit`` of a box; returns how many, padded."""
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
        compress(load(numbers, b), within, near, chosen)
        chosen += count_chosen(within)
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
    """Collects those of the first ``number`` points of a list within the squared distance ``limit`` of a box.

    The last vector is filled up with points at infinity. Returns how many points there are without these.
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
        taken = count_chosen(chosen)
        if taken > 0:  # neighbours are in the list side by side: often there is none in a vector
            compress(x, chosen, xs, kept)
            compress(y, chosen, ys, kept)
            compress(z, chosen, zs, kept)
            compress(load(order, j), chosen, places, kept)
            kept += taken
    store(spread(np.float32(np.inf)), xs, kept)
    store(spread(np.int32(0)), places, kept)
    return kept


@compiled()
def _certain_reach(points, low, high, full, x, y, z):
    """A squared distance that k points do not exceed: that of the furthest point in the nearest full box."""
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
