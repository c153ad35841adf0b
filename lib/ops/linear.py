"""Linear layers: with LeakyReLU, and of coordinates, added to features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops.checks import check_devices
from lib.ops.compiled import compiled
from lib.ops.errors import InputError
from lib.ops.inference import runs_inference
from lib.ops.product import multiply, pack
from lib.ops.threads import run_in_ranges

WORTH_A_THREAD = 8192  # points: about 0.1 ms
WORTH_A_PRODUCT = 4_000_000  # multiply-adds: about 0.1 ms


def linear(x: Tensor, weight: Tensor, bias: Tensor, slope: float = 1.0) -> Tensor:
    """LeakyReLU(x weight^T + bias): x (..., C), weight (D, C), bias (D) -> (..., D); slope 1: no LeakyReLU.

    Outside of autograd, on a CPU, one pass does it all. Differentiable in everything.

    Raises InputError for shapes or devices that do not go together.
    """
    if weight.dim() != 2 or x.shape[-1] != weight.shape[1] or bias.shape != weight.shape[:1]:
        raise InputError(
            f"linear: x {tuple(x.shape)} must be (..., C), weight {tuple(weight.shape)} (D, C), bias "
            f"{tuple(bias.shape)} (D)"
        )
    check_devices("linear", x=x, weight=weight, bias=bias)
    if not (runs_inference(x, weight, bias) and x.dtype == weight.dtype == bias.dtype):
        out = F.linear(x, weight, bias)
        return out if slope == 1 else F.leaky_relu(out, slope)
    out = torch.empty(*x.shape[:-1], len(weight), dtype=x.dtype)
    rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
    shift, bend = bias.detach().contiguous().numpy(), rows.numpy().dtype.type(slope)
    args = rows.numpy(), pack(weight), shift, bend, out.view(-1, len(weight)).numpy()
    run_in_ranges(lambda start, stop: _linear(*args, start, stop), len(rows), WORTH_A_PRODUCT // max(1, weight.numel()))
    return out


@compiled(fastmath={"contract"})
def _linear(values, packed, bias, slope, out, start, stop):
    step = max(8, (1 << 16) // out.shape[1] // 8 * 8)  # rows that are still in a core's cache when they are bent
    for a in range(start, stop, step):
        b = min(a + step, stop)
        multiply(values, a, packed, out, a, b - a)
        for r in range(a, b):
            row = out[r]
            for c in range(len(row)):
                value = row[c] + bias[c]
                row[c] = max(value, slope * value)  # LeakyReLU, as the slope is at most 1


def add_linear(values: Tensor, points: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """values + points weight^T + bias: values (B, N, C), points (B, N, 3) in metres, weight (C, 3), bias (C).

    Points and their product keep their full precision under autocast. Outside of autograd, on a CPU, one pass does it
    all. Differentiable in everything.

    Raises InputError for shapes or devices that do not go together.
    """
    width = values.shape[-1]
    if values.shape[:-1] != points.shape[:-1] or weight.shape != (width, 3) or bias.shape != (width,):
        raise InputError(
            f"add_linear: values {tuple(values.shape)} must be (B, N, C), points {tuple(points.shape)} (B, N, 3), "
            f"weight {tuple(weight.shape)} (C, 3), bias {tuple(bias.shape)} (C)"
        )
    check_devices("add_linear", values=values, points=points, weight=weight, bias=bias)
    if not runs_inference(values, points, weight, bias) or not values.dtype == points.dtype == weight.dtype:
        with torch.autocast(points.device.type, enabled=False):
            return values + F.linear(points, weight, bias)
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    rows = values.reshape(-1, values.shape[-1]).contiguous(), points.reshape(-1, points.shape[-1]).contiguous()
    args = [t.detach().numpy() for t in (*rows, weight.T.contiguous(), bias, out.view(rows[0].shape))]
    run_in_ranges(lambda start, stop: _add_linear(*args, start, stop), len(rows[0]), WORTH_A_THREAD)
    return out


@compiled(fastmath={"contract"})
def _add_linear(values, points, matrix, bias, out, start, stop):
    for r in range(start, stop):
        row, value = out[r], values[r]
        x, y, z = points[r, 0], points[r, 1], points[r, 2]
        for c in range(len(row)):
            row[c] = value[c] + (x * matrix[0, c] + y * matrix[1, c] + z * matrix[2, c] + bias[c])
