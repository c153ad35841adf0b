"""The weights of a PointConv's neighbours: a small network on offsets."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops import reference
from lib.ops.backend import full_precision, runs_compiled
from lib.ops.checks import check_alike, check_devices
from lib.ops.compiled import CompiledFunction, compiled
from lib.ops.outer_sum import WIDTH, outer_sum
from lib.ops.threads import run_in_ranges

NAMES = "weight1", "bias1", "weight2", "bias2", "weight3", "bias3"
BLOCK = 256  # offsets whose hidden values are held at once, in a core's first-level cache


def weight_net(offset: Tensor, *layers: Tensor) -> Tensor:
    """Three linear layers, each followed by ReLU (the WeightNet of PointConv, Wu et al. 2019).

    offset (..., 3) in metres; layers: weight (D_i, D_{i - 1}) and bias (D_i) of each in turn, D_0 = 3 -> (..., D_3).
    Such narrow layers cost memory traffic, not arithmetic: on a CPU one pass over the offsets does all three (where D_3
    is 16). Coordinates keep their full precision under autocast. Differentiable in everything.

    Raises InputError for shapes, dtypes or devices that do not go together.
    """
    check_layers("weight_net", offset, layers)
    check_devices("weight_net", offset=offset, **dict(zip(NAMES, layers, strict=True)))
    offset, *layers = full_precision(offset, *layers)
    check_alike("weight_net", offset=offset, **dict(zip(NAMES, layers, strict=True)))
    if not runs_compiled(offset, *layers) or len(layers[-1]) != WIDTH:
        with torch.autocast(offset.device.type, enabled=False):
            return reference.weight_net(offset, *layers)
    return _WeightNet.run(offset, *layers)


def check_layers(op: str, offset: Tensor, layers: Sequence[Tensor]) -> None:
    """Raises InputError unless the layers are those of ``weight_net`` for offsets (..., 3)."""
    inputs = offset.shape[-1]
    for weight, bias in zip(layers[::2], layers[1::2], strict=True):
        if weight.shape != (len(bias), inputs) or len(layers) != 6:
            raise InputError(
                f"{op}: offset {tuple(offset.shape)} needs three times weight (D, inputs) and bias (D), got "
                f"{', '.join(str(tuple(layer.shape)) for layer in layers)}"
            )
        inputs = len(bias)


class _WeightNet(CompiledFunction):
    @staticmethod
    def forward(ctx, offset, *layers):
        points = offset.detach().reshape(-1, offset.shape[-1]).contiguous()
        layers = [layer.detach().contiguous() for layer in layers]
        ctx.save_for_backward(points, *layers)
        ctx.shape = offset.shape
        out = torch.empty(len(points), WIDTH, dtype=offset.dtype)
        args, values = [t.numpy() for t in (points, *layers)], out.numpy()
        run_in_ranges(lambda a, b: weight_net_forward(*args, values[a:b], a, b), len(points))
        return out.view(*offset.shape[:-1], WIDTH)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        points, *layers = ctx.saved_tensors
        grad_out = grad_out.reshape(len(points), -1).contiguous()
        grad_points = torch.empty_like(points)
        args = [t.numpy() for t in (points, *layers)]

        def run(start: int, stop: int) -> list[np.ndarray]:
            grads = [np.zeros_like(layer) for layer in args[1:]]
            _backward(*args, grad_out.numpy(), grad_points.numpy(), *grads, start, stop)
            return grads

        parts = run_in_ranges(run, len(points))
        zero = np.zeros((), args[0].dtype)
        grads = [torch.from_numpy(np.asarray(sum(part, zero))) for part in zip(*parts, strict=True)]
        return grad_points.view(ctx.shape), *grads


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
    for r in range(0, BLOCK, WIDTH):
        outer_sum(matrix, rows, values[:, r : r + WIDTH], out[:, r : r + WIDTH], True)


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
def _backward(
    points,
    weight1,
    bias1,
    weight2,
    bias2,
    weight3,
    bias3,
    grad_out,
    grad_points,
    grad_weight1,
    grad_bias1,
    grad_weight2,
    grad_bias2,
    grad_weight3,
    grad_bias3,
    start,
    stop,
):
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
