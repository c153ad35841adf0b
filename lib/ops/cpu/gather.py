"""Loops that move rows: neighbours of a query, rows of all clouds, several tables side by side."""

import numpy as np

from lib.ops.cpu.compiled import compiled


@compiled()
def offsets(points: np.ndarray, table: np.ndarray, rows: np.ndarray, out: np.ndarray, start: int, stop: int) -> None:
    """out (N, K, 3) = table (M, 3) at rows (N, K) - points (N, 3), for the points start..stop."""
    for r in range(start, stop):
        x, y, z = points[r, 0], points[r, 1], points[r, 2]
        for k in range(rows.shape[1]):
            near, offset = table[rows[r, k]], out[r, k]
            offset[0], offset[1], offset[2] = near[0] - x, near[1] - y, near[2] - z


@compiled()
def flatten(index: np.ndarray, points: int, rows: np.ndarray) -> int:
    """rows = index + the cloud's first row; returns how many are outside of the cloud."""
    wrong = 0
    for b in range(len(index)):
        for i in range(index.shape[1]):
            j = index[b, i]
            wrong += (j < 0) | (j >= points)
            rows[b, i] = j + b * points
    return wrong


@compiled()
def copy_columns(table: np.ndarray, out: np.ndarray, column: int, start: int, stop: int) -> None:
    """The rows start..stop of table (N, C) into the columns of out from ``column`` on."""
    for r in range(start, stop):
        for c in range(table.shape[1]):
            out[r, column + c] = table[r, c]
