"""Linear layers: with LeakyReLU, one behind the other, and of coordinates, added to features."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import InputError
from lib.ops.backend import runs_inference
from lib.ops.checks import check_devices
from lib.ops.cpu import linear as loops
from lib.ops.cpu.product import kept, pack_layer
from lib.ops.cpu.threads import WORTH_A_THREAD, run_in_ranges

WORTH_A_PRODUCT = 500_000  # multiply-adds: about 10 us
Layer = tuple[Tensor, Tensor, float]  # weight (D, C), bias (D), the slope of the LeakyReLU behind it; 1: none


def linear(x: Tensor, weight: Tensor, bias: Tensor, slope: float = 1.0) -> Tensor:
    """LeakyReLU(x weight^T + bias): x (..., C), weight (D, C), bias (D) -> (..., D); slope 1: no LeakyReLU.

    Outside of autograd, on a CPU, one pass does it all. Differentiable in everything.

    Raises InputError for shapes or devices that do not go together.
    """
    return mlp(x, (weight, bias, slope))[0]


def mlp(x: Tensor, *layers: Layer) -> list[Tensor]:
    """``linear`` layers one behind the other: x (..., C) -> the output of each of them, (..., D_i).

    Outside of autograd, on a CPU, each thread passes its part of the rows through all of them. Differentiable in
    everything. Raises InputError for shapes or devices that do not go together.
    """
    check_chain("linear", x, layers)
    tensors = [x, *(tensor for *both, _ in layers for tensor in both)]
    if not layers or not runs_inference(*tensors) or len({tensor.dtype for tensor in tensors}) > 1:
        outputs = []
        for weight, bias, slope in layers:
            x = F.linear(x, weight, bias)
            x = x if slope == 1 else F.leaky_relu(x, slope)
            outputs.append(x)
        return outputs
    values = x.detach().contiguous().numpy()
    rows = values.reshape(-1, values.shape[-1])
    run, outputs = row_loop(rows, layers)
    run_in_ranges(run, len(rows), WORTH_A_PRODUCT // max(1, sum(weight.numel() for weight, *_ in layers)))
    return [torch.from_numpy(out.reshape(*x.shape[:-1], out.shape[1])) for out in outputs]


def check_chain(op: str, x: Tensor, layers: Sequence[Layer]) -> None:
    """Raises InputError unless the layers go together, and the first one with x (..., C)."""
    inputs = x.shape[-1]
    for weight, bias, _ in layers:
        if weight.dim() != 2 or inputs != weight.shape[1] or bias.shape != weight.shape[:1]:
            raise InputError(
                f"{op}: x {(*x.shape[:-1], inputs)} must be (..., C), weight {tuple(weight.shape)} (D, C), bias "
                f"{tuple(bias.shape)} (D)"
            )
        check_devices(op, x=x, weight=weight, bias=bias)
        inputs = len(bias)


def row_loop(rows: np.ndarray, layers: Sequence[Layer]) -> tuple[Callable[[int, int], None], list[np.ndarray]]:
    """What takes the rows start..stop of (N, C) through ``check_chain``-ed layers, and what that fills: (N, D_i).

    Not differentiable.
    """
    steps, outputs = [], []
    for weight, bias, slope in layers:
        out = np.empty((len(rows), len(bias)), rows.dtype)
        steps.append(partial(loops.linear, rows, *pack_layer(weight, bias), rows.dtype.type(slope), out))
        outputs.append(out)
        rows = out

    def run(start: int, stop: int) -> None:
        for step in steps:
            step(start, stop)

    return run, outputs


def add_linear(values: Tensor, points: Tensor, weight: Tensor, bias: Tensor | None = None, sign: float = 1.0) -> Tensor:
    """values + sign * points weight^T + bias: values (B, N, C), points (B, N, 3) in metres, weight (C, 3), bias (C).

    Points and their product keep their full precision under autocast. Outside of autograd, on a CPU, one pass does it
    all. Differentiable in all tensors.

    Raises InputError for shapes or devices that do not go together.
    """
    width, shift = values.shape[-1], () if bias is None else (bias,)
    if values.shape[:-1] != points.shape[:-1] or weight.shape != (width, 3) or any(b.shape != (width,) for b in shift):
        raise InputError(
            f"add_linear: values {tuple(values.shape)} must be (B, N, C), points {tuple(points.shape)} (B, N, 3), "
            f"weight {tuple(weight.shape)} (C, 3), bias {' '.join(str(tuple(b.shape)) for b in shift) or 'none'} (C)"
        )
    named = {"values": values, "points": points, "weight": weight} | ({} if bias is None else {"bias": bias})
    check_devices("add_linear", **named)
    if not runs_inference(*named.values()) or not values.dtype == points.dtype == weight.dtype:
        with torch.autocast(points.device.type, enabled=False):
            return values + F.linear(sign * points, weight, bias)
    given = values.detach().contiguous().numpy()
    places = points.detach().contiguous().numpy().reshape(-1, 3)
    out = np.empty(given.shape, given.dtype)
    args = given.reshape(-1, width), places, *_columns(weight, *shift), given.dtype.type(sign), out.reshape(-1, width)
    run_in_ranges(partial(loops.add_linear, *args), len(places), WORTH_A_THREAD)
    return torch.from_numpy(out)


@kept
def _columns(weight: Tensor, bias: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """weight (C, 3) transposed, and bias (C), zeros where there is none."""
    shift = weight.new_zeros(len(weight)) if bias is None else bias.detach().contiguous()
    return weight.detach().T.contiguous().numpy(), shift.numpy()
