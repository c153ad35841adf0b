"""The weights of a PointConv's neighbours: a small network on offsets."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lib.ops import reference
from lib.ops.backend import runs_compiled
from lib.ops.checks import check_alike
from lib.ops.compiled import compiled
from lib.ops.errors import InputError
from lib.ops.threads import run_in_ranges

BLOCK = 256  # offsets whose hidden values are held at once, in a core's first-level cache


def weight_net(offset: Tensor, *layers: Tensor) -> Tensor:
    """Three linear layers, each followed by ReLU (the WeightNet of PointConv, Wu et al. 2019).

    offset (..., 3) in metres; layers: weight (D_i, D_{i - 1}) and bias (D_i) of each in turn, D_0 = 3 -> (..., D_3).
    Such narrow layers cost memory traffic, not arithmetic: on a CPU one pass over the offsets does all three.
    Differentiable in everything.

    Raises InputError for shapes, dtypes or devices that do not go together.
    """
    check_layers("weight_net", offset, layers)
    if not runs_compiled(offset, *layers) or torch.is_autocast_enabled("cpu"):
        return reference.weight_net(offset, *layers)
    check_alike("weight_net", offset=offset, weight=layers[0])
    return _WeightNet.apply(offset, *layers)


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


class _WeightNet(torch.autograd.Function):
    @staticmethod
    def forward(ctx, offset, *layers):
        points = offset.detach().reshape(-1, offset.shape[-1]).contiguous()
        layers = [layer.detach().contiguous() for layer in layers]
        ctx.save_for_backward(points, *layers)
        ctx.shape = offset.shape
        out = torch.empty(len(points), len(layers[-1]), dtype=offset.dtype)
        args, values = [t.numpy() for t in (points, *layers)], out.numpy()
        run_in_ranges(lambda a, b: weight_net_forward(*args, values[a:b], a, b), len(points))
        return out.view(*offset.shape[:-1], -1)

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


@compiled(fastmath={"contract"})
def _layer(weight, bias, values, out):
    """out (D, BLOCK) = ReLU(weight values + bias), a column an offset."""
    for o in range(len(bias)):
        row = out[o]
        row[:] = bias[o]
        for i in range(len(values)):
            factor, column = weight[o, i], values[i]
            for r in range(BLOCK):
                row[r] += factor * column[r]
        for r in range(BLOCK):
            row[r] = max(row[r], 0)


@compiled()
def weight_net_forward(
    points: np.ndarray, weight1: np.ndarray, bias1: np.ndarray, weight2: np.ndarray, bias2: np.ndarray,
    weight3: np.ndarray, bias3: np.ndarray, out: np.ndarray, start: int, stop: int,
) -> None:  # fmt: skip
    """The offsets start..stop of points (R, D_0) into out (stop - start, D_3)."""
    offsets = np.zeros((points.shape[1], BLOCK), points.dtype)
    first, second = np.empty((len(bias1), BLOCK), points.dtype), np.empty((len(bias2), BLOCK), points.dtype)
    third = np.empty((len(bias3), BLOCK), points.dtype)
    for a in range(start, stop, BLOCK):
        b = min(a + BLOCK, stop)
        offsets[:, : b - a] = points[a:b].T
        _layer(weight1, bias1, offsets, first)
        _layer(weight2, bias2, first, second)
        _layer(weight3, bias3, second, third)
        for r in range(b - a):
            row = out[a - start + r]
            for o in range(len(row)):
                row[o] = third[o, r]


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
    points, weight1, bias1, weight2, bias2, weight3, bias3, grad_out, grad_points,
    grad_weight1, grad_bias1, grad_weight2, grad_bias2, grad_weight3, grad_bias3, start, stop,
):  # fmt: skip
    offsets = np.zeros((points.shape[1], BLOCK), points.dtype)
    first, second = np.empty((len(bias1), BLOCK), points.dtype), np.empty((len(bias2), BLOCK), points.dtype)
    third, grad3 = np.empty((len(bias3), BLOCK), points.dtype), np.empty((len(bias3), BLOCK), points.dtype)
    for a in range(start, stop, BLOCK):
        b = min(a + BLOCK, stop)
        offsets[:, : b - a] = points[a:b].T
        _layer(weight1, bias1, offsets, first)
        _layer(weight2, bias2, first, second)
        _layer(weight3, bias3, second, third)
        for r in range(b - a):
            for o in range(len(bias3)):
                grad3[o, r] = grad_out[a + r, o]
        grad3[:, b - a :] = 0  # nothing comes from the columns behind the last offset
        _before_relu(grad3, third, grad_bias3)
        grad_weight3 += np.dot(grad3, second.T)
        grad2 = np.dot(weight3.T, grad3)  # (D_2, BLOCK)
        _before_relu(grad2, second, grad_bias2)
        grad_weight2 += np.dot(grad2, first.T)
        grad1 = np.dot(weight2.T, grad2)  # (D_1, BLOCK)
        _before_relu(grad1, first, grad_bias1)
        grad_weight1 += np.dot(grad1, offsets.T)
        grad_points[a:b] = np.dot(grad1.T, weight1)[: b - a]
