"""Loops of the linear layers."""

import numpy as np

from lib.ops.cpu.compiled import compiled
from lib.ops.cpu.product import multiply

CACHED_NUMBERS = 1 << 16  # of an output: so many are still in a core's cache when the LeakyReLU reads them again


@compiled(fastmath={"contract"})
def linear(
    values: np.ndarray,
    packed: np.ndarray,
    bias: np.ndarray,
    slope: float,
    out: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """out (N, D) = LeakyReLU(values (N, C) matrix^T + bias), for the rows start..stop; packed by ``pack_matrix``."""
    step = max(8, CACHED_NUMBERS // out.shape[1] // 8 * 8)  # rows
    for a in range(start, stop, step):
        b = min(a + step, stop)
        multiply(values, a, packed, out, a, b - a)
        for r in range(a, b):
            row = out[r]
            for c in range(len(row)):
                value = row[c] + bias[c]
                row[c] = max(value, slope * value)  # LeakyReLU, as the slope is at most 1


@compiled(fastmath={"contract"})
def add_linear(
    values: np.ndarray,
    points: np.ndarray,
    matrix: np.ndarray,
    bias: np.ndarray,
    sign: float,
    out: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """out (N, C) = values + sign * points (N, 3) matrix (3, C) + bias, for the rows start..stop."""
    for r in range(start, stop):
        row, value = out[r], values[r]
        x, y, z = sign * points[r, 0], sign * points[r, 1], sign * points[r, 2]
        for c in range(len(row)):
            row[c] = value[c] + (x * matrix[0, c] + y * matrix[1, c] + z * matrix[2, c] + bias[c])
