"""Which of the points that are tried for a query are its nearest: how far they reach, and their order."""

import numpy as np

from lib.ops.compiled import compiled
from lib.ops.vectors import LANES, add_where, count, load, pack, spread, store


@compiled()
def likely_reach(tried: np.ndarray, number: int, k: int, guess: float, most: float) -> float:
    """What at least k of the ``number`` tried ones do not exceed, and few others; -1 if that is above ``most``.

    Counting is quick. It spares ranking points that are not among the k.
    """
    plenty = k + k // 4 + 8
    few, enough = 0.0, -1.0
    reach = min(guess, most)
    for _ in range(8):
        n = _count(tried, number, reach)
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
        enough = most if _count(tried, number, most) >= k else -1.0
    return enough


@compiled()
def _count(tried, number, limit):
    """How many of the first ones are at most the limit."""
    most, n = spread(np.float32(limit)), 0
    for j in range(0, number, LANES):
        n += count(load(tried, j) <= most)
    return n


@compiled()
def candidates(
    tried: np.ndarray, order: np.ndarray, number: int, limit: float, keys: np.ndarray, places: np.ndarray
) -> int:
    """Collects the tried distances up to a limit and the places they belong to; returns how many."""
    most, kept = spread(np.float32(limit)), 0
    for j in range(0, number, LANES):
        key = load(tried, j)
        chosen = key <= most
        pack(key, chosen, keys, kept)
        pack(load(order, j), chosen, places, kept)
        kept += count(chosen)
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
    """Puts the rows of the places in the order of their keys; False where two keys are within the margin.

    keys have room for a vector more; later (float32) and ranks (int32) are for use here.
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
    """The rows (k) of the nearest of some places, by distances in float64; equal ones in the order of their rows.

    points and order as of ``Buckets``; query (3,); distances (k,) are for use here.
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
