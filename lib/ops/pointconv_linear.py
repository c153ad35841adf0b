"""A PointConv's aggregation and the linear layer behind it in one go."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import InputError
from lib.ops.backend import full_precision, runs_compiled
from lib.ops.checks import check_devices
from lib.ops.compiled import CompiledFunction, compiled
from lib.ops.gather import flat_rows
from lib.ops.pointconv import WIDTH, aggregate_backward, aggregate_forward, check_aggregate, pointconv_aggregate
from lib.ops.product import multiply, pack
from lib.ops.registers import ROWS
from lib.ops.threads import run_in_ranges

CHUNK_BYTES = 1 << 19  # aggregated values held at once a thread: with a panel of the matrix, what a core keeps near


def pointconv_linear(
    offset: Tensor, features: Tensor, index: Tensor, weights: Tensor, matrix: Tensor, bias: Tensor
) -> Tensor:
    """``pointconv_aggregate`` (B, N, (3 + C) * 16) followed by the linear layer matrix (D, (3 + C) * 16), bias (D).

    -> (B, N, D). On a CPU the aggregation never lies in memory as a whole: it is made, multiplied and, in the backward,
    made again piece by piece. Differentiable in all but the index.

    Raises InputError for shapes, dtypes or devices that do not go together.
    """
    inputs = (3 + features.shape[-1]) * WIDTH
    if matrix.dim() != 2 or matrix.shape[1] != inputs or bias.shape != matrix.shape[:1]:
        raise InputError(
            f"pointconv_linear: matrix {tuple(matrix.shape)} must be (D, {inputs}) for features "
            f"{tuple(features.shape)}, and bias {tuple(bias.shape)} (D)"
        )
    check_devices("pointconv_linear", features=features, matrix=matrix, bias=bias)
    offset, features, weights = full_precision(offset, features, weights)
    if not runs_compiled(offset, features, weights, matrix) or torch.is_autocast_enabled("cpu"):
        return F.linear(pointconv_aggregate(offset, features, index, weights), matrix, bias)
    check_aggregate(offset, features, index, weights)
    return _PointConvLinear.run(offset, features, index, weights, matrix, bias)


class _PointConvLinear(CompiledFunction):
    @staticmethod
    def forward(ctx, offset, features, index, weights, matrix, bias):
        rows = flat_rows("pointconv_linear", index, features.shape[1])  # (B N, K) into (B M) rows
        table = features.detach().reshape(-1, features.shape[2]).contiguous()  # (B M, C)
        offsets = offset.detach().reshape(*rows.shape, 3).contiguous()
        kernel = weights.detach().reshape(*rows.shape, WIDTH).contiguous()
        ctx.save_for_backward(offsets, table, rows, kernel, matrix)
        ctx.shapes = offset.shape, features.shape, weights.shape
        out = torch.empty(len(rows), len(matrix), dtype=features.dtype)
        args = [t.numpy() for t in (offsets, table, rows, kernel)]
        args += pack(matrix), bias.detach().contiguous().numpy(), out.numpy(), rows_at_once(args[1])
        run_in_ranges(lambda start, stop: _forward(*args, start, stop), len(rows))
        return out.view(*index.shape[:2], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        offsets, table, rows, kernel, matrix = ctx.saved_tensors
        grad_out = grad_out.reshape(len(rows), -1).contiguous()  # (B N, D)
        grad_offsets, grad_kernel = torch.empty_like(offsets), torch.empty_like(kernel)
        args = [t.numpy() for t in (offsets, table, rows, kernel)]
        grads = grad_offsets.numpy(), grad_kernel.numpy()
        matrix = matrix.detach()

        def run(start: int, stop: int) -> tuple[np.ndarray, Tensor]:
            grad_table = np.zeros(table.shape, args[1].dtype)
            with torch.no_grad():
                grad_matrix = torch.zeros_like(matrix)
                step = rows_at_once(args[1])
                sums, grad_sums = torch.empty(2, step, 3 + table.shape[1], WIDTH, dtype=table.dtype)
                for a in range(start, stop, step):
                    b = min(a + step, stop)
                    chunk, grad_chunk = sums[: b - a], grad_sums[: b - a]
                    aggregate_forward(*args[:3], args[3][a:b], chunk.numpy(), a, b)
                    grad_matrix.addmm_(grad_out[a:b].T, chunk.flatten(1))
                    torch.mm(grad_out[a:b], matrix, out=grad_chunk.flatten(1))
                    aggregate_backward(*args, grad_chunk.numpy(), *grads, grad_table, a, b)
            return grad_table, grad_matrix

        parts = run_in_ranges(run, len(rows))
        grad_table = torch.from_numpy(sum((part[0] for part in parts), np.zeros((), args[1].dtype)))
        grad_matrix = sum(part[1] for part in parts)
        grads = grad_offsets, grad_table, grad_kernel
        grad_offset, grad_features, grad_weights = (g.view(s) for g, s in zip(grads, ctx.shapes, strict=True))
        return grad_offset, grad_features, None, grad_weights, grad_matrix, grad_out.sum(0)


def rows_at_once(table: np.ndarray) -> int:
    """How many queries' aggregation a thread holds at once, with features (M, C)."""
    return max(1, CHUNK_BYTES // ((3 + table.shape[1]) * WIDTH * table.itemsize) // ROWS) * ROWS


@compiled()
def _forward(offsets, table, rows, kernel, packed, bias, out, step, start, stop):
    sums = np.empty((step, 3 + table.shape[1], WIDTH), table.dtype)
    for a in range(start, stop, step):
        b = min(a + step, stop)
        aggregate_forward(offsets, table, rows, kernel[a:b], sums, a, b)
        multiply(sums.reshape(step, -1), 0, packed, out, a, b - a)
        for r in range(a, b):
            row = out[r]
            for c in range(len(row)):
                row[c] += bias[c]
