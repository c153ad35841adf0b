"""Loops that put points into the cells of a grid."""

import numpy as np

from lib.ops.cpu.compiled import compiled

SPREAD = 0x9E3779B1  # an odd number near 2^32 over the golden ratio: neighbouring cells land far apart in the table


@compiled()
def find_cells(
    cloud: np.ndarray, low: np.ndarray, size: np.ndarray, shape: np.ndarray, max_points: int, max_cells: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cells of a cloud (N, 3 or more), in the order of their first points: rows, counts, places.

    low, size (3,) float32 and shape (3,) of the grid. rows (N,): cell times max_points plus the place in the cell, and
    -1 for a point that is left out. counts (P,): points in each cell. places (P, 3): z, y, x of each.
    """
    total = len(cloud)
    rows = np.full(total, -1, np.int64)
    counts = np.zeros(min(total, max_cells), np.int64)
    places = np.empty((len(counts), 3), np.int64)
    slots = 16  # of a hash table: a power of two, at least half of it free
    while slots < 2 * len(counts):
        slots *= 2
    keys, owners = np.full(slots, -1, np.int64), np.empty(slots, np.int64)  # the cell's number in the grid, and here
    cells = 0
    for i in range(total):
        x = np.floor((np.float32(cloud[i, 0]) - low[0]) / size[0])
        y = np.floor((np.float32(cloud[i, 1]) - low[1]) / size[1])
        z = np.floor((np.float32(cloud[i, 2]) - low[2]) / size[2])
        if not (0 <= x < shape[0] and 0 <= y < shape[1] and 0 <= z < shape[2]):
            continue
        key = (np.int64(z) * shape[1] + np.int64(y)) * shape[0] + np.int64(x)
        slot = ((key * SPREAD) >> 16) & (slots - 1)
        while keys[slot] != key and keys[slot] >= 0:
            slot = (slot + 1) & (slots - 1)
        if keys[slot] < 0:
            if cells == max_cells:
                continue
            keys[slot], owners[slot] = key, cells
            places[cells, 0], places[cells, 1], places[cells, 2] = np.int64(z), np.int64(y), np.int64(x)
            cells += 1
        cell = owners[slot]
        if counts[cell] < max_points:
            rows[i] = cell * max_points + counts[cell]
            counts[cell] += 1
    return rows, counts[:cells], places[:cells]


@compiled()
def fill_cells(cloud: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """out (P S, C), zeros before: each point of the cloud (N, C) in its row."""
    for i in range(len(cloud)):
        if rows[i] >= 0:
            for c in range(cloud.shape[1]):
                out[rows[i], c] = cloud[i, c]
