"""Loops of the inverse-distance interpolation. table (M, C); rows and factors (N, K); out (N, C)."""

import numpy as np

from lib.ops import reference
from lib.ops.cpu.compiled import compiled


@compiled(fastmath={"contract"})
def weights_forward(
    points: np.ndarray, table: np.ndarray, rows: np.ndarray, weights: np.ndarray, start: int, stop: int
) -> None:
    """weights (N, K) of the neighbours of points (N, 3) in table (M, 3): inverse distances, of sum 1."""
    least = weights.dtype.type(reference.MIN_DISTANCE**2)
    one = weights.dtype.type(1)
    for r in range(start, stop):
        point, row = points[r], weights[r]
        total = one * 0
        for k in range(rows.shape[1]):
            near = table[rows[r, k]]
            dx, dy, dz = near[0] - point[0], near[1] - point[1], near[2] - point[2]
            row[k] = one / np.sqrt(max(dx * dx + dy * dy + dz * dz, least))
            total += row[k]
        for k in range(rows.shape[1]):
            row[k] /= total


@compiled(fastmath={"contract"})
def weighted_sum_forward(
    table: np.ndarray, rows: np.ndarray, factors: np.ndarray, out: np.ndarray, start: int, stop: int
) -> None:
    """out[r] = sum over k of factors[r, k] table[rows[r, k]], for the rows start..stop."""
    for r in range(start, stop):
        _row_sum(table, rows[r], factors[r], out[r])


@compiled(fastmath={"contract"})
def _row_sum(table, near, factors, out):
    if len(near) == 3:  # the networks use three: one pass
        one, two, three = table[near[0]], table[near[1]], table[near[2]]
        a, b, c = factors[0], factors[1], factors[2]
        for i in range(len(out)):
            out[i] = a * one[i] + b * two[i] + c * three[i]
        return
    out[:] = 0
    for k in range(len(near)):
        row, factor = table[near[k]], factors[k]
        for i in range(len(out)):
            out[i] += factor * row[i]


@compiled(fastmath={"contract"})
def append_weighted_sum(
    table: np.ndarray,
    rows: np.ndarray,
    factors: np.ndarray,
    features: np.ndarray,
    slope: float,
    out: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """out (N, F + C) = features (N, F), then LeakyReLU of the weighted sum, for the rows start..stop."""
    width = features.shape[1]
    for r in range(start, stop):
        out[r, :width] = features[r]
        behind = out[r, width:]
        _row_sum(table, rows[r], factors[r], behind)
        for i in range(len(behind)):
            behind[i] = max(behind[i], slope * behind[i])  # LeakyReLU, as the slope is at most 1


@compiled(fastmath={"contract", "reassoc"})
def weighted_sum_backward(
    table: np.ndarray,
    rows: np.ndarray,
    factors: np.ndarray,
    grad_out: np.ndarray,
    grad_factors: np.ndarray,
    grad_table: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Of the rows start..stop of grad_out (N, C): grad_factors is written, grad_table is added to."""
    channels = table.shape[1]
    for r in range(start, stop):
        for k in range(rows.shape[1]):
            source, factor = rows[r, k], factors[r, k]
            for c in range(channels):
                grad_table[source, c] += factor * grad_out[r, c]
            dot = factor * 0
            for c in range(channels):
                dot += table[source, c] * grad_out[r, c]
            grad_factors[r, k] = dot
