"""Loops of a PointConv's weight net: three layers, each followed by ReLU. points (R, D_0), out (R, 16)."""

import numpy as np

from lib.ops.cpu.compiled import compiled
from lib.ops.cpu.instructions import outer_sum
from lib.ops.reference import WEIGHTS

BLOCK = 256  # offsets whose hidden values are held at once, in a core's first-level cache


@compiled()
def _matrix(weight, bias):
    """(1 + inputs, D): bias and weight of a layer, for values whose first row is 1."""
    matrix = np.empty((1 + weight.shape[1], len(bias)), weight.dtype)
    matrix[0], matrix[1:] = bias, weight.T
    return matrix


@compiled()
def _layer(matrix, values, out):
    """out (D, BLOCK) = ReLU(matrix^T values), a column an offset."""
    rows = np.arange(len(matrix))
    for r in range(0, BLOCK, WEIGHTS):
        outer_sum(matrix, rows, values[:, r : r + WEIGHTS], out[:, r : r + WEIGHTS], True)


@compiled()
def _hidden(points, matrix1, matrix2, offsets, first, second):
    """A block of points (<= BLOCK, D_0) and their values in both hidden layers, each behind its first row, of 1."""
    for c in range(points.shape[1]):
        row, column = offsets[1 + c], points[:, c]
        for r in range(len(column)):
            row[r] = column[r]
    _layer(matrix1, offsets, first[1:])
    _layer(matrix2, first, second[1:])


@compiled()
def weight_net_forward(
    points: np.ndarray,
    weight1: np.ndarray,
    bias1: np.ndarray,
    weight2: np.ndarray,
    bias2: np.ndarray,
    weight3: np.ndarray,
    bias3: np.ndarray,
    out: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """The offsets start..stop of points (R, D_0) into out (stop - start, 16)."""
    matrix1, matrix2, matrix3 = _matrix(weight1, bias1), _matrix(weight2, bias2), _matrix(weight3, bias3)
    offsets = np.ones((len(matrix1), BLOCK), points.dtype)
    first, second = np.ones((len(matrix2), BLOCK), points.dtype), np.ones((len(matrix3), BLOCK), points.dtype)
    rows = np.arange(len(matrix3))
    for a in range(start, stop, BLOCK):
        b = min(a + BLOCK, stop)
        _hidden(points[a:b], matrix1, matrix2, offsets, first, second)
        outer_sum(second, rows, matrix3, out[a - start : b - start], True)


@compiled(fastmath={"contract", "reassoc"})
def _before_relu(grad, out, grad_bias):
    """grad (D, BLOCK) where the layer's output is above 0, else 0; its sums are added to grad_bias."""
    for o in range(len(grad)):
        row, value = grad[o], out[o]
        total = row[0] * 0
        for r in range(BLOCK):
            row[r] = row[r] if value[r] > 0 else 0
            total += row[r]
        grad_bias[o] += total


@compiled()
def weight_net_backward(
    points: np.ndarray,
    weight1: np.ndarray,
    bias1: np.ndarray,
    weight2: np.ndarray,
    bias2: np.ndarray,
    weight3: np.ndarray,
    bias3: np.ndarray,
    grad_out: np.ndarray,
    grad_points: np.ndarray,
    grad_weight1: np.ndarray,
    grad_bias1: np.ndarray,
    grad_weight2: np.ndarray,
    grad_bias2: np.ndarray,
    grad_weight3: np.ndarray,
    grad_bias3: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """The offsets start..stop of grad_out (R, 16): grad_points is written, the layers' gradients are added to."""
    matrix1, matrix2, matrix3 = _matrix(weight1, bias1), _matrix(weight2, bias2), _matrix(weight3, bias3)
    offsets = np.ones((len(matrix1), BLOCK), points.dtype)
    first, second = np.ones((len(matrix2), BLOCK), points.dtype), np.ones((len(matrix3), BLOCK), points.dtype)
    third, grad3 = np.empty((len(bias3), BLOCK), points.dtype), np.empty((len(bias3), BLOCK), points.dtype)
    for a in range(start, stop, BLOCK):
        b = min(a + BLOCK, stop)
        _hidden(points[a:b], matrix1, matrix2, offsets, first, second)
        _layer(matrix3, second, third)
        for r in range(b - a):
            for o in range(len(bias3)):
                grad3[o, r] = grad_out[a + r, o]
        grad3[:, b - a :] = 0  # nothing comes from the columns behind the last offset
        _before_relu(grad3, third, grad_bias3)
        grad_weight3 += np.dot(grad3, second[1:].T)
        grad2 = np.dot(weight3.T, grad3)  # (D_2, BLOCK)
        _before_relu(grad2, second[1:], grad_bias2)
        grad_weight2 += np.dot(grad2, first[1:].T)
        grad1 = np.dot(weight2.T, grad2)  # (D_1, BLOCK)
        _before_relu(grad1, first[1:], grad_bias1)
        grad_weight1 += np.dot(grad1, offsets[1:].T)
        grad_points[a:b] = np.dot(grad1.T, weight1)[: b - a]
