"""A whole PointConv layer outside of autograd."""

import numpy as np
import torch
from torch import Tensor

from lib.ops.checks import check_alike, check_index
from lib.ops.compiled import compiled
from lib.ops.errors import InputError
from lib.ops.gather import flat_rows
from lib.ops.inference import runs_inference
from lib.ops.pointconv import WIDTH, aggregate_forward
from lib.ops.pointconv_linear import rows_at_once
from lib.ops.product import multiply, pack
from lib.ops.threads import run_in_ranges
from lib.ops.weight_net import check_layers, weight_net_forward


def pointconv_layer(
    offset: Tensor, features: Tensor, index: Tensor, layers: list[Tensor], matrix: Tensor, scale: Tensor, shift: Tensor,
    slope: float,
) -> Tensor:  # fmt: skip
    """LeakyReLU(scale * (matrix A) + shift), A = ``pointconv_aggregate`` with the weights ``weight_net`` (offset).

    offset (B, N, K, 3) in metres, features (B, M, C), index (B, N, K) into M, layers: of the weight net, matrix
    (D, (3 + C) * 16), scale and shift (D), which take in a bias and a normalisation -> (B, N, D). Not differentiable.
    Weights and aggregation live piece by piece in a core's cache.

    Raises InputError for shapes, dtypes or devices that do not go together.
    """
    wanted = (len(shift), (3 + features.shape[-1]) * WIDTH)
    if features.dim() != 3 or offset.shape != (*index.shape, 3) or matrix.shape != wanted or scale.shape != shift.shape:
        raise InputError(
            f"pointconv_layer: offset {tuple(offset.shape)} must be (B, N, K, 3), features {tuple(features.shape)} "
            f"(B, M, C), index {tuple(index.shape)} (B, N, K), matrix {tuple(matrix.shape)} (D, (3 + C) * {WIDTH}), "
            f"scale {tuple(scale.shape)} and shift {tuple(shift.shape)} (D)"
        )
    check_layers("pointconv_layer", offset, layers)
    if len(layers[-1]) != WIDTH or not runs_inference(features):
        raise InputError(
            f"pointconv_layer: for inference on a CPU with {WIDTH} weights a neighbour, got {len(layers[-1])} and "
            f"features {features.dtype} on {features.device}"
        )
    check_index("pointconv_layer", index, features, dims=3)
    check_alike("pointconv_layer", features=features, offset=offset, layer=layers[0], matrix=matrix, scale=scale)
    check_alike("pointconv_layer", scale=scale, shift=shift)
    rows = flat_rows("pointconv_layer", index, features.shape[1])  # (B N, K) into (B M) rows
    table = features.reshape(-1, features.shape[2]).contiguous()  # (B M, C)
    offsets = offset.reshape(*rows.shape, 3).contiguous()
    out = torch.empty(len(rows), len(matrix), dtype=features.dtype)
    net = [t.detach().contiguous().numpy() for t in layers]
    ends = scale.numpy(), shift.numpy(), out.numpy().dtype.type(slope)
    args = offsets.numpy(), table.numpy(), rows.numpy(), *net, pack(matrix), *ends, out.numpy()
    run_in_ranges(lambda start, stop: _layer(*args, rows_at_once(table), start, stop), len(rows))
    return out.view(*index.shape[:2], len(matrix))


@compiled(fastmath={"contract"})
def _layer(
    offsets, table, rows, weight1, bias1, weight2, bias2, weight3, bias3, packed, scale, shift, slope, out,
    step, start, stop,
):  # fmt: skip
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
