"""A PointConv from offsets to output: the weights of its neighbours, their aggregation and the linear layer behind."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops import cuda
from lib.ops.backend import full_precision, runs_kernels
from lib.ops.checks import check_alike, check_devices, check_index
from lib.ops.outer_sum import WIDTH
from lib.ops.pointconv_linear import pointconv_linear
from lib.ops.weight_net import NAMES, weight_net

HIDDEN = 8  # outputs of the weight net's first two layers
SHAPES = (HIDDEN, 3), (HIDDEN,), (HIDDEN, HIDDEN), (HIDDEN,), (WIDTH, HIDDEN), (WIDTH,)


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
    if matrix.shape != (len(bias), (3 + features.shape[2]) * WIDTH) or bias.dim() != 1:
        raise InputError(
            f"pointconv_net: matrix {tuple(matrix.shape)} must be (D, {(3 + features.shape[2]) * WIDTH}) for features "
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
