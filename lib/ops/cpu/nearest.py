"""Picks the k nearest of many points whose distances to a query are known, and puts them in order."""

import numpy as np

from lib.ops.cpu.compiled import compiled
from lib.ops.cpu.vectors import LANES, add_where, compress, count_chosen, load, spread, store


@compiled()
def likely_reach(tried: np.ndarray, number: int, k: int, guess: float, most: float) -> float:
    """A limit that k of the distances tried[:number], or a few more, do not exceed; -1: fewer are within ``most``.

    ``guess`` is the first limit tried. Only the points within the limit are ranked: counting is quicker than ranking.
    """
    plenty = k + k // 4 + 8
    few, enough = 0.0, -1.0
    reach = min(guess, most)
    for _ in range(8):
        n = _count_within(tried, number, reach)
        if n < k:
            if reach == most:
                return -1.0
            few = reach
            reach = min(reach * min((k + 4) / (n + 1), 4.0), most)
        else:
            enough = reach
            if n <= plenty:
                break
            reach *= (k + 4) / n
        if enough >= 0 and not few < reach < enough:
            reach = (few + enough) / 2
    if enough < 0:
        enough = most if _count_within(tried, number, most) >= k else -1.0
    return enough


@compiled()
def _count_within(tried, number, limit):
    """How many of tried[:number] are at most the limit."""
    most, n = spread(np.float32(limit)), 0
    for j in range(0, number, LANES):
        n += count_chosen(load(tried, j) <= most)
    return n


@compiled()
def candidates(
    tried: np.ndarray, order: np.ndarray, number: int, limit: float, keys: np.ndarray, places: np.ndarray
) -> int:
    """Collects the distances tried[:number] up to a limit, and their places in the order; returns how many."""
    most, kept = spread(np.float32(limit)), 0
    for j in range(0, number, LANES):
        key = load(tried, j)
        chosen = key <= most
        compress(key, chosen, keys, kept)
        compress(load(order, j), chosen, places, kept)
        kept += count_chosen(chosen)
    return kept


@compiled()
def rank(
    keys: np.ndarray,
    number: int,
    margin: float,
    order: np.ndarray,
    places: np.ndarray,
    later: np.ndarray,
    ranks: np.ndarray,
    rows: np.ndarray,
) -> bool:
    """Fills ``rows`` in the order of the keys; returns False where two keys differ by no more than the margin.

    keys[:number] are distances in float32, places[i] the place of key i in ``order``. keys has room for one vector
    more. later (float32) and ranks (int32) are scratch memory.
    """
    margin = spread(np.float32(margin))
    store(spread(np.float32(np.inf)), keys, number)
    for i in range(0, number, LANES):
        store(load(keys, i) + margin, later, i)
    for i in range(0, number, LANES):
        key, before = load(keys, i), spread(np.int32(0))
        for j in range(number):
            before = add_where(before, spread(later[j]) < key)
        store(before, ranks, i)
    total = 0
    for i in range(number):
        total += ranks[i]
        rows[ranks[i]] = order[places[i]]
    return total == number * (number - 1) // 2


@compiled()
def insert(
    points: np.ndarray,
    order: np.ndarray,
    places: np.ndarray,
    number: int,
    query: np.ndarray,
    distances: np.ndarray,
    rows: np.ndarray,
) -> None:
    """Fills ``rows`` (k,) with the nearest of places[:number], by distances in float64. Ties go to the lower row.

    points and order are those of ``Buckets``; query (3,); distances (k,) is scratch memory.
    """
    x, y, z = query
    size, k = points.shape[2], len(rows)
    filled = 0
    for i in range(number):
        row, b, at = order[places[i]], places[i] // size, places[i] % size
        dx, dy, dz = points[b, 0, at] - x, points[b, 1, at] - y, points[b, 2, at] - z
        d = dx * dx + dy * dy + dz * dz
        j = filled
        while j > 0 and (d < distances[j - 1] or (d == distances[j - 1] and row < rows[j - 1])):
            if j < k:
                distances[j], rows[j] = distances[j - 1], rows[j - 1]
            j -= 1
        if j < k:
            distances[j], rows[j] = d, row
            filled = min(filled + 1, k)
