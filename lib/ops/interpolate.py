"""Inverse-distance interpolation: upsampling and warping."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import InputError
from lib.ops import cuda, reference
from lib.ops.backend import full_precision, runs_compiled, runs_inference, runs_kernels
from lib.ops.checks import check_alike, check_clouds, check_index
from lib.ops.cpu import interpolate as loops
from lib.ops.cpu.compiled import CompiledFunction
from lib.ops.cpu.threads import WORTH_A_THREAD, run_in_ranges
from lib.ops.gather import flat_rows, gather


def inverse_distance_weights(query: Tensor, support: Tensor, index: Tensor) -> Tensor:
    """Weights of the neighbours ``index`` of each query: 1/d with d >= 1e-10 m, normalised to sum 1.

    query (B, N, 3) and support (B, M, 3) in metres, index (B, N, K) into M -> (B, N, K). Differentiable in both clouds.
    """
    check_clouds("inverse_distance_weights", query=query, support=support)
    check_index("inverse_distance_weights", index, support, dims=3)
    if index.shape[:2] != query.shape[:2]:
        raise InputError(
            f"inverse_distance_weights: index {tuple(index.shape)} must be (B, N, K) for query {tuple(query.shape)}"
        )
    if runs_kernels(query, support):
        return cuda.inverse_distance_weights(query, support, index)
    if not runs_compiled(query, support):
        return reference.inverse_distance_weights(query, support, index)
    if runs_inference(query, support):
        return _inverse_distance_weights(query, support, index)
    offset = gather(support, index) - query[:, :, None]  # (B, N, K, 3)
    inverse = offset.square().sum(-1).clamp_min(reference.MIN_DISTANCE**2).rsqrt()  # (B, N, K)
    return inverse / inverse.sum(-1, keepdim=True)


def _inverse_distance_weights(query: Tensor, support: Tensor, index: Tensor) -> Tensor:
    """The same without gradients, in one pass."""
    rows = flat_rows("inverse_distance_weights", index, support.shape[1])  # (B N, K) into (B M) rows
    points, table = (cloud.detach().contiguous().numpy().reshape(-1, 3) for cloud in (query, support))
    weights = np.empty(index.shape, points.dtype)
    args = points, table, rows.numpy(), weights.reshape(len(points), index.shape[2])
    run_in_ranges(partial(loops.weights_forward, *args), len(points), WORTH_A_THREAD)
    return torch.from_numpy(weights)


def weighted_sum(values: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """values (B, M, C), index and weights (B, N, K) -> (B, N, C) = sum_k weights_k values[index_k].

    Differentiable in values and weights. Raises InputError for shapes, dtypes or devices that do not go together.
    """
    values, weights = full_precision(values, weights)
    _check_weighted_sum("weighted_sum", values, index, weights)
    if runs_kernels(values, weights):
        return cuda.weighted_sum(values, index, weights)
    if not runs_compiled(values, weights):
        return reference.weighted_sum(values, index, weights)
    return _WeightedSum.run(values, index, weights)


def append_weighted_sum(features: Tensor, values: Tensor, index: Tensor, weights: Tensor, slope: float = 1.0) -> Tensor:
    """[features, LeakyReLU(``weighted_sum`` (values, index, weights))]: features (B, N, F) -> (B, N, F + C).

    slope: of the LeakyReLU; 1: none. Outside of autograd, on a CPU, one pass does it all. Differentiable in all but the
    index. Raises InputError for shapes, dtypes or devices that do not go together.
    """
    if features.dim() != 3 or features.shape[:2] != index.shape[:2]:
        raise InputError(
            f"append_weighted_sum: features {tuple(features.shape)} must be (B, N, F) for index {tuple(index.shape)}"
        )
    if not runs_inference(features, values, weights):
        total = weighted_sum(values, index, weights)
        return torch.cat([features, total if slope == 1 else F.leaky_relu(total, slope)], dim=-1)
    _check_weighted_sum("append_weighted_sum", values, index, weights)
    check_alike("append_weighted_sum", features=features, values=values)
    rows = flat_rows("append_weighted_sum", index, values.shape[1])  # (B N, K) into (B M) rows
    given, table = (t.detach().contiguous().numpy().reshape(-1, t.shape[2]) for t in (features, values))
    factors = weights.detach().contiguous().numpy().reshape(rows.shape)
    out = np.empty((len(given), given.shape[1] + table.shape[1]), table.dtype)
    args = table, rows.numpy(), factors, given, table.dtype.type(slope), out
    run_in_ranges(partial(loops.append_weighted_sum, *args), len(given), WORTH_A_THREAD)
    return torch.from_numpy(out.reshape(*features.shape[:2], out.shape[1]))


def _check_weighted_sum(op: str, values: Tensor, index: Tensor, weights: Tensor) -> None:
    if values.dim() != 3 or weights.shape != index.shape:
        raise InputError(
            f"{op}: values {tuple(values.shape)} must be (B, M, C); index {tuple(index.shape)} and weights "
            f"{tuple(weights.shape)} both (B, N, K)"
        )
    check_index(op, index, values, dims=3)
    check_alike(op, values=values, weights=weights)


class _WeightedSum(CompiledFunction):
    @staticmethod
    def forward(ctx, values, index, weights):
        rows = flat_rows("weighted_sum", index, values.shape[1])  # (B N, K) into (B M) rows
        table = values.detach().reshape(-1, values.shape[2])  # (B M, C)
        factors = weights.detach().reshape(rows.shape).contiguous()
        ctx.save_for_backward(table, rows, factors)
        ctx.shapes = values.shape, weights.shape
        out = torch.empty(len(rows), table.shape[1], dtype=values.dtype)
        args = table.numpy(), rows.numpy(), factors.numpy(), out.numpy()
        run_in_ranges(partial(loops.weighted_sum_forward, *args), len(rows), WORTH_A_THREAD)
        return out.view(*index.shape[:2], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        table, rows, factors = ctx.saved_tensors
        grad_out = grad_out.reshape(len(rows), -1).contiguous()
        grad_factors = torch.empty_like(factors)
        args = table.numpy(), rows.numpy(), factors.numpy(), grad_out.numpy(), grad_factors.numpy()

        def run(start, stop):
            grad_table = np.zeros(table.shape, args[0].dtype)
            loops.weighted_sum_backward(*args, grad_table, start, stop)
            return grad_table

        grad_table = sum(run_in_ranges(run, len(rows)), np.zeros((), args[0].dtype))
        return torch.from_numpy(grad_table).view(ctx.shapes[0]), None, grad_factors.view(ctx.shapes[1])
