"""The aggregation of a PointConv on a GPU."""

import torch
from torch import Tensor

from lib.ops.cuda.gather import sum_edges
from lib.ops.cuda.launch import Launch, blocks, instance, run

WIDTH = 16  # weights of a neighbour
FORWARD_TILE, FORWARD_THREADS = 64, 128  # as in csrc/pointconv.cu: inputs and threads of a block
BACKWARD_PART = 16  # neighbours of a block, a thread per neighbour and weight


def pointconv_aggregate(offset: Tensor, features: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """As ``lib.ops.pointconv_aggregate``: (B, N, K, 3), (B, M, C), (B, N, K), (B, N, K, 16) -> (B, N, (3 + C) 16)."""
    return _pointconv(offset, features, index, weights)


@torch.library.custom_op("point_ops::pointconv", mutates_args=())
def _pointconv(offset: Tensor, features: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    batch, queries, neighbours = index.shape
    inputs = 3 + features.shape[2]
    out = features.new_empty(batch, queries, inputs * WIDTH)
    args = (offset.contiguous(), features.contiguous(), index.contiguous(), weights.contiguous(), out, queries,
            features.shape[1], neighbours, inputs)  # fmt: skip
    grid = (batch * queries, blocks(inputs, FORWARD_TILE))
    run(Launch("pointconv", instance("pointconv", features.dtype), grid, FORWARD_THREADS, args))
    return out


@_pointconv.register_fake
def _(offset, features, index, weights):
    return features.new_empty(*index.shape[:2], (3 + features.shape[2]) * WIDTH)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    offset, features, index, weights = ctx.saved_tensors
    edges, grad_weights = _pointconv_backward(offset, features, index, weights, grad)  # (B, N, K, 3 + C)
    grad_features = None
    if ctx.needs_input_grad[1]:
        grad_features = sum_edges(edges, index, features.shape[1], first=3, channels=features.shape[2])
    grad_offset = edges[..., :3].contiguous() if ctx.needs_input_grad[0] else None
    return grad_offset, grad_features, None, grad_weights


_pointconv.register_autograd(_backward, setup_context=_setup)


@torch.library.custom_op("point_ops::pointconv_backward", mutates_args=())
def _pointconv_backward(
    offset: Tensor, features: Tensor, index: Tensor, weights: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    batch, queries, neighbours = index.shape
    inputs = 3 + features.shape[2]
    edges, grad_weights = features.new_empty(*index.shape, inputs), features.new_empty(weights.shape)
    args = (offset.contiguous(), features.contiguous(), index.contiguous(), weights.contiguous(), grad.contiguous(),
            edges, grad_weights, queries, features.shape[1], neighbours, inputs)  # fmt: skip
    grid = (batch * queries, blocks(neighbours, BACKWARD_PART))
    kernel = instance("pointconv_backward", features.dtype)
    run(Launch("pointconv", kernel, grid, BACKWARD_PART * WIDTH, args))
    return edges, grad_weights


@_pointconv_backward.register_fake
def _(offset, features, index, weights, grad):
    return features.new_empty(*index.shape, 3 + features.shape[2]), features.new_empty(weights.shape)
