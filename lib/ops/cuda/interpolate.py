"""Inverse-distance interpolation on a GPU."""

import torch
from torch import Tensor

from lib.ops.cuda.gather import sum_edges
from lib.ops.cuda.launch import ROWS, Launch, blocks, instance, run


def inverse_distance_weights(query: Tensor, support: Tensor, index: Tensor) -> Tensor:
    """As ``lib.ops.inverse_distance_weights``: (B, N, 3), (B, M, 3), (B, N, K) -> (B, N, K)."""
    if query.dtype == torch.bfloat16:
        return _weights(query.float(), support.float(), index).bfloat16()
    return _weights(query, support, index)


def weighted_sum(values: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """As ``lib.ops.weighted_sum``: (B, M, C), (B, N, K), (B, N, K) -> (B, N, C)."""
    return _weighted_sum(values, index, weights)


@torch.library.custom_op("point_ops::weighted_sum", mutates_args=())
def _weighted_sum(values: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    _, points, channels = values.shape
    batch, queries, neighbours = index.shape
    out = values.new_empty(batch, queries, channels)
    args = (
        values.contiguous(),
        index.contiguous(),
        weights.contiguous(),
        out,
        out.numel(),
        queries,
        points,
        neighbours,
        channels,
    )
    run(Launch("interpolate", instance("weighted_sum", values.dtype), (blocks(out.numel()), 1), ROWS, args))
    return out


@_weighted_sum.register_fake
def _(values, index, weights):
    return values.new_empty(*index.shape[:2], values.shape[2])


def _setup_sum(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward_sum(ctx, grad):
    values, index, weights = ctx.saved_tensors
    grad_values = grad_weights = None
    if ctx.needs_input_grad[0]:
        grad_values = sum_edges(grad, index, values.shape[1], weights.contiguous(), channels=values.shape[2])
    if ctx.needs_input_grad[2]:
        grad_weights = _weighted_sum_backward(values, index, grad)
    return grad_values, None, grad_weights


_weighted_sum.register_autograd(_backward_sum, setup_context=_setup_sum)


@torch.library.custom_op("point_ops::weighted_sum_backward", mutates_args=())
def _weighted_sum_backward(values: Tensor, index: Tensor, grad: Tensor) -> Tensor:
    _, points, channels = values.shape
    _, queries, neighbours = index.shape
    out = values.new_empty(index.shape)
    args = (
        values.contiguous(),
        index.contiguous(),
        grad.contiguous(),
        out,
        out.numel(),
        queries,
        points,
        neighbours,
        channels,
    )
    kernel = instance("weighted_sum_backward", values.dtype)
    run(Launch("interpolate", kernel, (blocks(32 * out.numel()), 1), ROWS, args))  # a warp an edge
    return out


@_weighted_sum_backward.register_fake
def _(values, index, grad):
    return values.new_empty(index.shape)


@torch.library.custom_op("point_ops::inverse_distance_weights", mutates_args=())
def _weights(query: Tensor, support: Tensor, index: Tensor) -> Tensor:
    batch, queries, neighbours = index.shape
    out = query.new_empty(index.shape)
    args = (
        query.contiguous(),
        support.contiguous(),
        index.contiguous(),
        out,
        batch * queries,
        queries,
        support.shape[1],
        neighbours,
    )
    kernel = instance("inverse_distance_weights", query.dtype)
    run(Launch("interpolate", kernel, (blocks(batch * queries), 1), ROWS, args))
    return out


@_weights.register_fake
def _(query, support, index):
    return query.new_empty(index.shape)


def _backward_weights(ctx, grad):
    query, support, index = ctx.saved_tensors
    edges, grad_query = _weights_backward(query, support, index, grad)
    grad_support = sum_edges(edges, index, support.shape[1], channels=3) if ctx.needs_input_grad[1] else None
    return grad_query, grad_support, None


_weights.register_autograd(_backward_weights, setup_context=_setup_sum)


@torch.library.custom_op("point_ops::inverse_distance_backward", mutates_args=())
def _weights_backward(query: Tensor, support: Tensor, index: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    batch, queries, neighbours = index.shape
    edges, grad_query = query.new_empty(*index.shape, 3), query.new_empty(query.shape)
    args = (
        query.contiguous(),
        support.contiguous(),
        index.contiguous(),
        grad.contiguous(),
        edges,
        grad_query,
        batch * queries,
        queries,
        support.shape[1],
        neighbours,
    )
    kernel = instance("inverse_distance_backward", query.dtype)
    run(Launch("interpolate", kernel, (blocks(batch * queries), 1), ROWS, args))
    return edges, grad_query


@_weights_backward.register_fake
def _(query, support, index, grad):
    return query.new_empty(*index.shape, 3), query.new_empty(query.shape)
