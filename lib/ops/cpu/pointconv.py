"""Loops of a PointConv: the sums of outer products over neighbours, and the layers around them."""

import numpy as np

from lib.ops.cpu.compiled import compiled
from lib.ops.cpu.instructions import ROWS, outer_sum
from lib.ops.cpu.product import multiply
from lib.ops.cpu.weight_net import weight_net_forward
from lib.ops.reference import WEIGHTS

CHUNK_BYTES = 1 << 19  # aggregated values held at once a thread: with a panel of the matrix, what a core keeps near


@compiled()
def _inputs(offsets, table, rows, r, inputs):
    """inputs (K, 3 + C): offset and features of the neighbours of query r. Whole rows, so that copying is quick."""
    for k in range(rows.shape[1]):
        near, row = table[rows[r, k]], inputs[k]
        for c in range(3):
            row[c] = offsets[r, k, c]
        for c in range(len(near)):
            row[3 + c] = near[c]


@compiled()
def aggregate_forward(
    offsets: np.ndarray, table: np.ndarray, rows: np.ndarray, kernel: np.ndarray, out: np.ndarray, start: int, stop: int
) -> None:
    """The queries start..stop of rows (R, K); their kernel (stop - start, K, 16), out (stop - start, 3 + C, 16)."""
    in_order = np.arange(rows.shape[1])
    for r in range(start, stop):
        weights, sums = kernel[r - start], out[r - start]
        outer_sum(offsets[r], in_order, weights, sums[:3], False)
        outer_sum(table, rows[r], weights, sums[3:], False)


@compiled()
def aggregate_backward(
    offsets: np.ndarray,
    table: np.ndarray,
    rows: np.ndarray,
    kernel: np.ndarray,
    grad_out: np.ndarray,
    grad_offsets: np.ndarray,
    grad_kernel: np.ndarray,
    grad_table: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """grad_out (stop - start, 3 + C, 16) of the queries start..stop; grad_table is added to, the others are written."""
    inputs = np.empty((rows.shape[1], 3 + table.shape[1]), table.dtype)
    grads = np.empty((rows.shape[1], 3 + table.shape[1]), table.dtype)
    for r in range(start, stop):
        _inputs(offsets, table, rows, r, inputs)
        np.dot(inputs, grad_out[r - start], grad_kernel[r])  # (K, 3 + C) (3 + C, 16)
        np.dot(kernel[r], grad_out[r - start].T, grads)  # (K, 16) (16, 3 + C)
        for k in range(rows.shape[1]):
            source = rows[r, k]
            for c in range(3):
                grad_offsets[r, k, c] = grads[k, c]
            for c in range(table.shape[1]):
                grad_table[source, c] += grads[k, 3 + c]


def rows_at_once(table: np.ndarray) -> int:
    """How many queries' aggregation a thread holds at once, with features (M, C)."""
    return max(1, CHUNK_BYTES // ((3 + table.shape[1]) * WEIGHTS * table.itemsize) // ROWS) * ROWS


@compiled()
def linear_forward(
    offsets: np.ndarray,
    table: np.ndarray,
    rows: np.ndarray,
    kernel: np.ndarray,
    packed: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    step: int,
    start: int,
    stop: int,
) -> None:
    """out (N, D) = aggregation times matrix^T + bias for the queries start..stop, ``step`` of them at a time.

    packed: the matrix by ``pack_matrix``.
    """
    sums = np.empty((step, 3 + table.shape[1], WEIGHTS), table.dtype)
    for a in range(start, stop, step):
        b = min(a + step, stop)
        aggregate_forward(offsets, table, rows, kernel[a:b], sums, a, b)
        multiply(sums.reshape(step, -1), 0, packed, out, a, b - a)
        for r in range(a, b):
            row = out[r]
            for c in range(len(row)):
                row[c] += bias[c]


@compiled(fastmath={"contract"})
def layer_forward(
    offsets: np.ndarray,
    table: np.ndarray,
    rows: np.ndarray,
    weight1: np.ndarray,
    bias1: np.ndarray,
    weight2: np.ndarray,
    bias2: np.ndarray,
    weight3: np.ndarray,
    bias3: np.ndarray,
    packed: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    slope: float,
    out: np.ndarray,
    step: int,
    start: int,
    stop: int,
) -> None:
    """out (N, D) = LeakyReLU(scale * (A matrix^T) + shift), A: the aggregation; for the queries start..stop.

    The weights of the neighbours are made here, from the weight net's six arrays. packed: the matrix by
    ``pack_matrix``. ``step`` queries are in the works at a time.
    """
    neighbours = rows.shape[1]
    points = offsets.reshape(-1, 3)
    weights = np.empty((step * neighbours, WEIGHTS), table.dtype)
    sums = np.empty((step, 3 + table.shape[1], WEIGHTS), table.dtype)
    for a in range(start, stop, step):
        b = min(a + step, stop)
        weight_net_forward(
            points, weight1, bias1, weight2, bias2, weight3, bias3, weights, a * neighbours, b * neighbours
        )
        aggregate_forward(offsets, table, rows, weights.reshape(step, neighbours, WEIGHTS), sums, a, b)
        multiply(sums.reshape(step, -1), 0, packed, out, a, b - a)
        for r in range(a, b):
            row = out[r]
            for c in range(len(row)):
                value = scale[c] * row[c] + shift[c]
                row[c] = max(value, slope * value)  # LeakyReLU, as the slope is below 1
