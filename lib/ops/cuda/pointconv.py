"""The aggregation of a PointConv on a GPU, the network that makes its weights included."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops.cuda.gather import sum_edges
from lib.ops.cuda.launch import Launch, blocks, instance, run
from lib.ops.reference import WEIGHTS

# As in csrc/pointconv.cu.
FORWARD_TILE, FORWARD_THREADS = 64, 128  # features and threads of a block
BACKWARD_EDGES, BACKWARD_THREADS = 16, 256  # edges that a block takes at a time
BACKWARD_BLOCKS = 2048  # at most: they share the edges, and each writes its sums for the layers


def pointconv_net(
    offset: Tensor, features: Tensor, index: Tensor, layers: Sequence[Tensor], matrix: Tensor, bias: Tensor
) -> Tensor:
    """As ``lib.ops.pointconv_net``: (B, N, K, 3), (B, M, C), (B, N, K), ..., (D, (3 + C) 16), (D) -> (B, N, D)."""
    coordinates = _coordinate_dtype(features)
    layers = [layer.to(coordinates) for layer in layers]
    return F.linear(_pointconv(offset.to(coordinates), features, index, layers), matrix, bias)


def _coordinate_dtype(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32


@torch.library.custom_op("point_ops::pointconv", mutates_args=())
def _pointconv(offset: Tensor, features: Tensor, index: Tensor, layers: Sequence[Tensor]) -> Tensor:
    batch, queries, neighbours = index.shape
    points, channels = features.shape[1:]
    out = features.new_empty(batch, queries, (3 + channels) * WEIGHTS)
    inputs = [t.contiguous() for t in (offset, features, index, *layers)]
    grid = (batch * queries, max(1, blocks(channels, FORWARD_TILE)))
    args = (*inputs, out, queries, points, neighbours, channels)
    run(Launch("pointconv", instance("pointconv", features.dtype), grid, FORWARD_THREADS, args))
    return out


@_pointconv.register_fake
def _(offset, features, index, layers):
    return features.new_empty(*index.shape[:2], (3 + features.shape[2]) * WEIGHTS)


def _setup(ctx, inputs, output):
    offset, features, index, layers = inputs
    ctx.save_for_backward(offset, features, index, *layers)


def _backward(ctx, grad):
    offset, features, index, *layers = ctx.saved_tensors
    edges, grad_offset, parts = _pointconv_backward(offset, features, index, layers, grad)
    grad_features = None
    if ctx.needs_input_grad[1]:
        grad_features = sum_edges(edges, index, features.shape[1], channels=features.shape[2])
    sums = parts.sum(0).split([layer.numel() for layer in layers])
    grad_layers = [total.view(layer.shape) for total, layer in zip(sums, layers, strict=True)]
    return grad_offset, grad_features, None, grad_layers


_pointconv.register_autograd(_backward, setup_context=_setup)


@torch.library.custom_op("point_ops::pointconv_backward", mutates_args=())
def _pointconv_backward(
    offset: Tensor, features: Tensor, index: Tensor, layers: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of gathered features (B, N, K, C) and offset; the layers', one after the other, a row a block."""
    queries, neighbours = index.shape[1:]
    points, channels = features.shape[1:]
    edges, grad_offset = features.new_empty(*index.shape, channels), offset.new_empty(offset.shape)
    parts = offset.new_empty(_blocks(index), sum(layer.numel() for layer in layers))
    inputs = [t.contiguous() for t in (offset, features, index, *layers, grad)]
    args = (*inputs, edges, grad_offset, parts, index.numel(), queries, points, neighbours, channels)
    kernel = instance("pointconv_backward", features.dtype)
    run(Launch("pointconv", kernel, (len(parts), 1), BACKWARD_THREADS, args))
    return edges, grad_offset, parts


@_pointconv_backward.register_fake
def _(offset, features, index, layers, grad):
    parts = offset.new_empty(_blocks(index), sum(layer.numel() for layer in layers))
    return features.new_empty(*index.shape, features.shape[2]), offset.new_empty(offset.shape), parts


def _blocks(index: Tensor) -> int:
    return min(blocks(index.numel(), BACKWARD_EDGES), BACKWARD_BLOCKS)
