"""A whole PointConv layer outside of autograd."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops.backend import runs_inference
from lib.ops.checks import check_alike, check_index
from lib.ops.compiled import compiled
from lib.ops.gather import flat_rows
from lib.ops.linear import Layer, check_chain, row_loop
from lib.ops.pointconv import WIDTH, aggregate_forward
from lib.ops.pointconv_linear import rows_at_once
from lib.ops.product import kept, multiply, pack
from lib.ops.threads import run_in_ranges
from lib.ops.weight_net import check_layers, weight_net_forward


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
    wanted = (bias.shape[0], (3 + features.shape[-1]) * WIDTH)
    fits = len(norm) in (0, 4) and all(t.shape == bias.shape for t in norm)
    if features.dim() != 3 or offset.shape != (*index.shape, 3) or matrix.shape != wanted or not fits:
        raise InputError(
            f"pointconv_layer: offset {tuple(offset.shape)} must be (B, N, K, 3), features {tuple(features.shape)} "
            f"(B, M, C), index {tuple(index.shape)} (B, N, K), matrix {tuple(matrix.shape)} (D, (3 + C) * {WIDTH}), "
            f"bias {tuple(bias.shape)} (D), norm {' '.join(str(tuple(t.shape)) for t in norm) or 'none'} four (D) or "
            "none"
        )
    check_layers("pointconv_layer", offset, layers)
    if layers[-1].shape[0] != WIDTH or not runs_inference(features):
        raise InputError(
            f"pointconv_layer: for inference on a CPU with {WIDTH} weights a neighbour, got {len(layers[-1])} and "
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
        _layer(*args, start, stop)
        behind(start, stop)

    run_in_ranges(run, len(out))
    return [torch.from_numpy(o.reshape(*index.shape[:2], o.shape[1])) for o in (out, *outputs)]


@kept
def _arranged(matrix: Tensor, bias: Tensor, *others: Tensor, eps: float) -> tuple[np.ndarray, ...]:
    """The weight net's six arrays, the matrix as by ``pack``, scale and shift (D) of its product.

    others: the weight net's layers, then the four of a batch normalisation, or none.
    """
    net = [layer.detach().contiguous().numpy() for layer in others[:6]]
    scale, shift = torch.ones_like(bias), bias.detach()
    if len(others) > 6:
        weight, beta, mean, variance = (tensor.detach() for tensor in others[6:])
        scale = weight * (variance + eps).rsqrt()
        shift = shift * scale + beta - mean * scale
    return *net, pack(matrix), scale.numpy(), shift.numpy()


@compiled(fastmath={"contract"})
def _layer(
    offsets,
    table,
    rows,
    weight1,
    bias1,
    weight2,
    bias2,
    weight3,
    bias3,
    packed,
    scale,
    shift,
    slope,
    out,
    step,
    start,
    stop,
):
    neighbours = rows.shape[1]
    points = offsets.reshape(-1, 3)
    weights = np.empty((step * neighbours, WIDTH), table.dtype)
    sums = np.empty((step, 3 + table.shape[1], WIDTH), table.dtype)
    for a in range(start, stop, step):
        b = min(a + step, stop)
        weight_net_forward(
            points, weight1, bias1, weight2, bias2, weight3, bias3, weights, a * neighbours, b * neighbours
        )
        aggregate_forward(offsets, table, rows, weights.reshape(step, neighbours, WIDTH), sums, a, b)
        multiply(sums.reshape(step, -1), 0, packed, out, a, b - a)
        for r in range(a, b):
            row = out[r]
            for c in range(len(row)):
                value = scale[c] * row[c] + shift[c]
                row[c] = max(value, slope * value)  # LeakyReLU, as the slope is below 1
