"""The weights of a PointConv's neighbours: a small network on offsets."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops import reference
from lib.ops.backend import full_precision, runs_compiled
from lib.ops.checks import check_alike, check_devices
from lib.ops.cpu.compiled import CompiledFunction
from lib.ops.cpu.threads import run_in_ranges
from lib.ops.cpu.weight_net import weight_net_backward, weight_net_forward
from lib.ops.reference import WEIGHTS

NAMES = "weight1", "bias1", "weight2", "bias2", "weight3", "bias3"


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
    if not runs_compiled(offset, *layers) or len(layers[-1]) != WEIGHTS:
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
        out = torch.empty(len(points), WEIGHTS, dtype=offset.dtype)
        args, values = [t.numpy() for t in (points, *layers)], out.numpy()
        run_in_ranges(lambda a, b: weight_net_forward(*args, values[a:b], a, b), len(points))
        return out.view(*offset.shape[:-1], WEIGHTS)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        points, *layers = ctx.saved_tensors
        grad_out = grad_out.reshape(len(points), -1).contiguous()
        grad_points = torch.empty_like(points)
        args = [t.numpy() for t in (points, *layers)]

        def run(start: int, stop: int) -> list[np.ndarray]:
            grads = [np.zeros_like(layer) for layer in args[1:]]
            weight_net_backward(*args, grad_out.numpy(), grad_points.numpy(), *grads, start, stop)
            return grads

        parts = run_in_ranges(run, len(points))
        zero = np.zeros((), args[0].dtype)
        grads = [torch.from_numpy(np.asarray(sum(part, zero))) for part in zip(*parts, strict=True)]
        return grad_points.view(ctx.shape), *grads
