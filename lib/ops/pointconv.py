"""PointConv (Wu et al., CVPR 2019): a sum of outer products over neighbours, and the linear layer behind it.

Four operations, each with a part more: ``pointconv_aggregate`` sums, ``pointconv_linear`` multiplies by a matrix as
well, ``pointconv_net`` also makes the weights of the neighbours, ``pointconv_layer`` does all of a layer for inference.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import InputError
from lib.ops import cuda, reference
from lib.ops.backend import full_precision, runs_compiled, runs_inference, runs_kernels
from lib.ops.checks import check_alike, check_devices, check_index
from lib.ops.cpu.compiled import CompiledFunction
from lib.ops.cpu.pointconv import aggregate_backward, aggregate_forward, layer_forward, linear_forward, rows_at_once
from lib.ops.cpu.product import kept, pack_matrix
from lib.ops.cpu.threads import run_in_ranges
from lib.ops.gather import flat_rows
from lib.ops.linear import Layer, check_chain, row_loop
from lib.ops.reference import WEIGHTS
from lib.ops.weight_net import NAMES, check_layers, weight_net

HIDDEN = 8  # outputs of the weight net's first two layers
SHAPES = (HIDDEN, 3), (HIDDEN,), (HIDDEN, HIDDEN), (HIDDEN,), (WEIGHTS, HIDDEN), (WEIGHTS,)


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
    if features.dim() != 3 or offset.shape != (*index.shape, 3) or weights.shape != (*index.shape, WEIGHTS):
        raise InputError(
            f"pointconv_aggregate: offset {tuple(offset.shape)} must be (B, N, K, 3), features {tuple(features.shape)} "
            f"(B, M, C), index {tuple(index.shape)} (B, N, K), weights {tuple(weights.shape)} (B, N, K, {WEIGHTS})"
        )
    check_index("pointconv_aggregate", index, features, dims=3)
    check_alike("pointconv_aggregate", features=features, offset=offset, weights=weights)


class _PointConvAggregate(CompiledFunction):
    @staticmethod
    def forward(ctx, offset, features, index, weights):
        rows = flat_rows("pointconv_aggregate", index, features.shape[1])  # (B N, K) into (B M) rows
        table = features.detach().reshape(-1, features.shape[2]).contiguous()  # (B M, C)
        offsets = offset.detach().reshape(*rows.shape, 3).contiguous()
        kernel = weights.detach().reshape(*rows.shape, WEIGHTS).contiguous()
        ctx.save_for_backward(offsets, table, rows, kernel)
        ctx.shapes = offset.shape, features.shape, weights.shape
        out = torch.empty(len(rows), 3 + table.shape[1], WEIGHTS, dtype=features.dtype)
        *args, factors, values = (t.numpy() for t in (offsets, table, rows, kernel, out))
        run_in_ranges(lambda a, b: aggregate_forward(*args, factors[a:b], values[a:b], a, b), len(rows))
        return out.view(*index.shape[:2], out.shape[1] * WEIGHTS)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        offsets, table, rows, kernel = ctx.saved_tensors
        grad_out = grad_out.reshape(len(rows), -1, WEIGHTS).contiguous()  # (B N, 3 + C, 16)
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


def pointconv_linear(
    offset: Tensor, features: Tensor, index: Tensor, weights: Tensor, matrix: Tensor, bias: Tensor
) -> Tensor:
    """``pointconv_aggregate`` (B, N, (3 + C) * 16) followed by the linear layer matrix (D, (3 + C) * 16), bias (D).

    -> (B, N, D). On a CPU the aggregation never lies in memory as a whole: it is made, multiplied and, in the backward,
    made again piece by piece. Differentiable in all but the index.

    Raises InputError for shapes, dtypes or devices that do not go together.
    """
    inputs = (3 + features.shape[-1]) * WEIGHTS
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
        kernel = weights.detach().reshape(*rows.shape, WEIGHTS).contiguous()
        ctx.save_for_backward(offsets, table, rows, kernel, matrix)
        ctx.shapes = offset.shape, features.shape, weights.shape
        out = torch.empty(len(rows), len(matrix), dtype=features.dtype)
        args = [t.numpy() for t in (offsets, table, rows, kernel)]
        args += pack_matrix(matrix), bias.detach().contiguous().numpy(), out.numpy(), rows_at_once(args[1])
        run_in_ranges(lambda start, stop: linear_forward(*args, start, stop), len(rows))
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
                sums, grad_sums = torch.empty(2, step, 3 + table.shape[1], WEIGHTS, dtype=table.dtype)
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


def pointconv_net(
    offset: Tensor, features: Tensor, index: Tensor, layers: Sequence[Tensor], matrix: Tensor, bias: Tensor
) -> Tensor:
    """``pointconv_linear`` with the weights ``weight_net`` (offset, *layers) (PointConv, Wu et al. 2019).

    offset (B, N, K, 3) = x_k - x_query in metres, features (B, M, C), index (B, N, K) into M, layers: weights and
    biases 3 -> 8 -> 8 -> 16, matrix (D, (3 + C) * 16), bias (D) -> (B, N, D). On a GPU the kernel makes the weights of
    an edge where it uses them, and again in the backward. Under autocast offset and weights keep their full precision
    beside features of 16 bits. Differentiable in all but the index.

    Raises InputError for shapes, dtypes or devices that do not go together.
    """
    if features.dim() != 3 or offset.shape != (*index.shape, 3) or tuple(tuple(t.shape) for t in layers) != SHAPES:
        raise InputError(
            f"pointconv_net: offset {tuple(offset.shape)} must be (B, N, K, 3), features {tuple(features.shape)} "
            f"(B, M, C), index {tuple(index.shape)} (B, N, K), layers {', '.join(str(tuple(t.shape)) for t in layers)}"
            f": {', '.join(map(str, SHAPES))}"
        )
    inputs = (3 + features.shape[2]) * WEIGHTS
    if matrix.shape != (len(bias), inputs) or bias.dim() != 1:
        raise InputError(
            f"pointconv_net: matrix {tuple(matrix.shape)} must be (D, {inputs}) for features "
            f"{tuple(features.shape)}, and bias {tuple(bias.shape)} (D)"
        )
    named = dict(zip(NAMES, layers, strict=True))
    check_devices("pointconv_net", features=features, offset=offset, **named, matrix=matrix, bias=bias)
    check_index("pointconv_net", index, features, dims=3)
    offset, *layers = full_precision(offset, *layers)
    named = dict(zip(NAMES, layers, strict=True))
    if torch.is_autocast_enabled(features.device.type) and features.dtype == torch.bfloat16:
        check_alike("pointconv_net", offset=offset, **named)
    else:
        (features,) = full_precision(features)
        check_alike("pointconv_net", features=features, offset=offset, **named)
    if runs_kernels(features, offset, *layers):
        return cuda.pointconv_net(offset, features, index, layers, matrix, bias)
    return pointconv_linear(offset, features, index, weight_net(offset, *layers), matrix, bias)


def pointconv_layer(
    offset: Tensor,
    features: Tensor,
    index: Tensor,
    layers: list[Tensor],
    matrix: Tensor,
    bias: Tensor,
    slope: float,
    norm: tuple[Tensor, ...] = (),
    eps: float = 0.0,
    then: Sequence[Layer] = (),
) -> list[Tensor]:
    """LeakyReLU(norm(matrix A + bias)), A = ``pointconv_aggregate`` with the weights ``weight_net`` (offset).

    offset (B, N, K, 3) in metres, features (B, M, C), index (B, N, K) into M, layers: of the weight net, matrix
    (D, (3 + C) * 16), bias (D), norm: weight, bias, mean and variance (D) of a batch normalisation, or none, then:
    layers of an ``mlp`` behind it -> (B, N, D), and the outputs of those layers (B, N, D_i). Not differentiable.
    Weights and aggregation live piece by piece in a core's cache.

    Raises InputError for shapes, dtypes or devices that do not go together.
    """
    wanted = (bias.shape[0], (3 + features.shape[-1]) * WEIGHTS)
    fits = len(norm) in (0, 4) and all(t.shape == bias.shape for t in norm)
    if features.dim() != 3 or offset.shape != (*index.shape, 3) or matrix.shape != wanted or not fits:
        raise InputError(
            f"pointconv_layer: offset {tuple(offset.shape)} must be (B, N, K, 3), features {tuple(features.shape)} "
            f"(B, M, C), index {tuple(index.shape)} (B, N, K), matrix {tuple(matrix.shape)} (D, (3 + C) * {WEIGHTS}), "
            f"bias {tuple(bias.shape)} (D), norm {' '.join(str(tuple(t.shape)) for t in norm) or 'none'} four (D) or "
            "none"
        )
    check_layers("pointconv_layer", offset, layers)
    if layers[-1].shape[0] != WEIGHTS or not runs_inference(features):
        raise InputError(
            f"pointconv_layer: for inference on a CPU with {WEIGHTS} weights a neighbour, got {len(layers[-1])} and "
            f"features {features.dtype} on {features.device}"
        )
    check_index("pointconv_layer", index, features, dims=3)
    check_alike("pointconv_layer", features=features, offset=offset, layer=layers[0], matrix=matrix, bias=bias)
    check_chain("pointconv_layer", bias.expand(*index.shape[:2], len(bias)), then)
    for weight, shift, _ in then:
        check_alike("pointconv_layer", features=features, weight=weight, bias=shift)
    rows = flat_rows("pointconv_layer", index, features.shape[1])  # (B N, K) into (B M) rows
    table = features.detach().contiguous().numpy().reshape(-1, features.shape[2])  # (B M, C)
    offsets = offset.detach().contiguous().numpy().reshape(-1, *offset.shape[2:])  # (B N, K, 3)
    weights = _arranged(matrix, bias, *layers, *norm, eps=eps)
    out = np.empty((len(rows), len(bias)), table.dtype)
    args = offsets, table, rows.numpy(), *weights, table.dtype.type(slope), out, rows_at_once(table)
    behind, outputs = row_loop(out, then)

    def run(start: int, stop: int) -> None:
        layer_forward(*args, start, stop)
        behind(start, stop)

    run_in_ranges(run, len(out))
    return [torch.from_numpy(o.reshape(*index.shape[:2], o.shape[1])) for o in (out, *outputs)]


@kept
def _arranged(matrix: Tensor, bias: Tensor, *others: Tensor, eps: float) -> tuple[np.ndarray, ...]:
    """The weight net's six arrays, the matrix as by ``pack_matrix``, scale and shift (D) of its product.

    others: the weight net's layers, then the four of a batch normalisation, or none.
    """
    net = [layer.detach().contiguous().numpy() for layer in others[:6]]
    scale, shift = torch.ones_like(bias), bias.detach()
    if len(others) > 6:
        weight, beta, mean, variance = (tensor.detach() for tensor in others[6:])
        scale = weight * (variance + eps).rsqrt()
        shift = shift * scale + beta - mean * scale
    return *net, pack_matrix(matrix), scale.numpy(), shift.numpy()
