"""The flow embedding on a GPU."""

import torch
from torch import Tensor

from lib.ops.cuda.gather import sum_edges
from lib.ops.cuda.launch import Launch, blocks, instance, run
from lib.ops.reference import NEGATIVE_SLOPE

# As in csrc/flow_embedding.cu.
QUERIES, THREADS = 4, 256  # of a block of the forward
CHANNELS = 64  # of a block of the gradients of edges
MATRIX_BLOCKS = 2048  # of the gradient of the matrix: they share the rows


def flow_embedding(query: Tensor, support: Tensor, index: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As ``lib.ops.flow_embedding``: (B, N, C), (B, M, C), (B, N, K), (D, C), (D) -> (B, N, D)."""
    return _flow_embedding(query, support, index, weight, bias)[0]


@torch.library.custom_op("point_ops::flow_embedding", mutates_args=())
def _flow_embedding(
    query: Tensor, support: Tensor, index: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    batch, queries, neighbours = index.shape
    outputs, channels = weight.shape
    out = query.new_empty(batch, queries, outputs)
    winner = torch.empty(out.shape, dtype=torch.int32, device=query.device)
    args = (
        query.contiguous(),
        support.contiguous(),
        index.contiguous(),
        weight.contiguous(),
        bias.contiguous(),
        out,
        winner,
        batch * queries,
        queries,
        support.shape[1],
        neighbours,
        channels,
        outputs,
    )
    columns = 32 if outputs <= 32 or query.dtype == torch.float64 else 64
    grid = (blocks(batch * queries, QUERIES), blocks(outputs, columns))
    run(Launch("flow_embedding", instance("flow_embedding", query.dtype, columns), grid, THREADS, args))
    return out, winner


@_flow_embedding.register_fake
def _(query, support, index, weight, bias):
    shape = (*index.shape[:2], len(weight))
    return query.new_empty(shape), query.new_empty(shape, dtype=torch.int32)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4], *output)


def _backward(ctx, grad, _):
    query, support, index, weight, out, winner = ctx.saved_tensors
    grad = torch.where(out > 0, grad, grad * NEGATIVE_SLOPE)  # before the outer LeakyReLU
    grad_query = grad_support = grad_weight = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
        edges, grad_query = _edges(query, support, index, weight, winner, grad)
        if ctx.needs_input_grad[1]:
            grad_support = sum_edges(edges, index, support.shape[1], channels=support.shape[2])
    if ctx.needs_input_grad[3]:
        grad_weight = _matrix(query, support, index, winner, grad).sum(0).to(weight.dtype)
    return grad_query, grad_support, None, grad_weight, grad.sum((0, 1))


_flow_embedding.register_autograd(_backward, setup_context=_setup)


@torch.library.custom_op("point_ops::flow_embedding_edges", mutates_args=())
def _edges(
    query: Tensor, support: Tensor, index: Tensor, weight: Tensor, winner: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    batch, queries, neighbours = index.shape
    outputs, channels = weight.shape
    edges, grad_query = query.new_empty(*index.shape, channels), query.new_empty(query.shape)
    args = (
        query.contiguous(),
        support.contiguous(),
        index.contiguous(),
        weight.contiguous(),
        winner,
        grad.contiguous(),
        edges,
        grad_query,
        queries,
        support.shape[1],
        neighbours,
        channels,
        outputs,
    )
    grid = (batch * queries, blocks(channels, CHANNELS))
    run(Launch("flow_embedding", instance("flow_embedding_edges", query.dtype), grid, CHANNELS, args))
    return edges, grad_query


@_edges.register_fake
def _(query, support, index, weight, winner, grad):
    return query.new_empty(*index.shape, query.shape[2]), query.new_empty(query.shape)


@torch.library.custom_op("point_ops::flow_embedding_matrix", mutates_args=())
def _matrix(query: Tensor, support: Tensor, index: Tensor, winner: Tensor, grad: Tensor) -> Tensor:
    batch, queries, neighbours = index.shape
    channels, outputs, rows = query.shape[2], winner.shape[2], batch * queries
    parts = query.new_empty(_slices(rows, outputs), outputs, channels, dtype=_sum_dtype(query))
    args = (
        query.contiguous(),
        support.contiguous(),
        index.contiguous(),
        winner,
        grad.contiguous(),
        parts,
        rows,
        queries,
        support.shape[1],
        neighbours,
        channels,
        outputs,
    )
    threads = min(128, 32 * blocks(channels, 32))
    grid = (outputs, len(parts))
    run(Launch("flow_embedding", instance("flow_embedding_matrix", query.dtype), grid, threads, args))
    return parts


@_matrix.register_fake
def _(query, support, index, winner, grad):
    slices = _slices(index.shape[0] * index.shape[1], winner.shape[2])
    return query.new_empty((slices, winner.shape[2], query.shape[2]), dtype=_sum_dtype(query))


def _slices(rows: int, outputs: int) -> int:
    return max(1, min(rows, MATRIX_BLOCKS // outputs))


def _sum_dtype(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32
