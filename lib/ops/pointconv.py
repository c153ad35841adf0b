"""The aggregation of a PointConv: a sum of outer products over neighbours."""

import numpy as np
import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops import reference
from lib.ops.backend import full_precision, runs_compiled
from lib.ops.checks import check_alike, check_index
from lib.ops.compiled import CompiledFunction, compiled
from lib.ops.gather import flat_rows
from lib.ops.outer_sum import WIDTH, outer_sum
from lib.ops.threads import run_in_ranges


def pointconv_aggregate(offset: Tensor, features: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """A = sum_k [offset_k, features[index_k]] (outer) weights_k, flattened (PointConv, Wu et al. 2019, eq. 6).

    offset (B, N, K, 3) = x_k - x_query in metres, features (B, M, C), index (B, N, K) into M, weights (B, N, K, 16)
    -> (B, N, (3 + C) * 16), the input channel slow and the weight fast. Differentiable in offset, features and weights.
    On a GPU this is the readable twin; the kernel is ``pointconv_net``'s, which makes the weights itself.

    Raises InputError for shapes, dtypes or devices that do not go together.
    """
    offset, features, weights = full_precision(offset, features, weights)
    check_aggregate(offset, features, index, weights)
    if not runs_compiled(offset, features, weights):
        return reference.pointconv_aggregate(offset, features, index, weights)
    return _PointConvAggregate.run(offset, features, index, weights)


def check_aggregate(offset: Tensor, features: Tensor, index: Tensor, weights: Tensor) -> None:
    """Raises InputError unless the arguments of ``pointconv_aggregate`` go together."""
    if features.dim() != 3 or offset.shape != (*index.shape, 3) or weights.shape != (*index.shape, WIDTH):
        raise InputError(
            f"pointconv_aggregate: offset {tuple(offset.shape)} must be (B, N, K, 3), features {tuple(features.shape)} "
            f"(B, M, C), index {tuple(index.shape)} (B, N, K), weights {tuple(weights.shape)} (B, N, K, {WIDTH})"
        )
    check_index("pointconv_aggregate", index, features, dims=3)
    check_alike("pointconv_aggregate", features=features, offset=offset, weights=weights)


class _PointConvAggregate(CompiledFunction):
    @staticmethod
    def forward(ctx, offset, features, index, weights):
        rows = flat_rows("pointconv_aggregate", index, features.shape[1])  # (B N, K) into (B M) rows
        table = features.detach().reshape(-1, features.shape[2]).contiguous()  # (B M, C)
        offsets = offset.detach().reshape(*rows.shape, 3).contiguous()
        kernel = weights.detach().reshape(*rows.shape, WIDTH).contiguous()
        ctx.save_for_backward(offsets, table, rows, kernel)
        ctx.shapes = offset.shape, features.shape, weights.shape
        out = torch.empty(len(rows), 3 + table.shape[1], WIDTH, dtype=features.dtype)
        *args, factors, values = (t.numpy() for t in (offsets, table, rows, kernel, out))
        run_in_ranges(lambda a, b: aggregate_forward(*args, factors[a:b], values[a:b], a, b), len(rows))
        return out.view(*index.shape[:2], out.shape[1] * WIDTH)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        offsets, table, rows, kernel = ctx.saved_tensors
        grad_out = grad_out.reshape(len(rows), -1, WIDTH).contiguous()  # (B N, 3 + C, 16)
        grad_offsets, grad_kernel = torch.empty_like(offsets), torch.empty_like(kernel)
        args = [t.numpy() for t in (offsets, table, rows, kernel)]
        values, grads = grad_out.numpy(), (grad_offsets.numpy(), grad_kernel.numpy())

        def run(start, stop):
            grad_table = np.zeros(table.shape, args[1].dtype)
            aggregate_backward(*args, values[start:stop], *grads, grad_table, start, stop)
            return grad_table

        grad_table = sum(run_in_ranges(run, len(rows)), np.zeros((), args[1].dtype))
        grads = grad_offsets, torch.from_numpy(grad_table), grad_kernel
        grad_offset, grad_features, grad_weights = (g.view(s) for g, s in zip(grads, ctx.shapes, strict=True))
        return grad_offset, grad_features, None, grad_weights


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
