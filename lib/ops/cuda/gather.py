"""Rows of a cloud on a GPU, and the sums of rows that are every gather's backward."""

import torch
from torch import Tensor

from lib.ops.cuda.launch import ROWS, Launch, blocks, instance, run


def gather(values: Tensor, index: Tensor) -> Tensor:
    """As ``lib.ops.gather``: values (B, M, C), index (B, ...) -> (B, ..., C)."""
    rows = _gather(values, index.flatten(1))  # (B, E, C)
    return rows.view(*index.shape, values.shape[2])


def sum_edges(
    edges: Tensor, index: Tensor, points: int, factors: Tensor | None = None, first: int = 0, channels: int = 0
) -> Tensor:
    """What each point receives from the edges that point at it, summed in the edges' order: the same on every run.

    edges (B, N, K, W) with index (B, N, K), or with factors (B, N, K): edges (B, N, W), each times its edge's factor.
    Columns ``first`` .. ``first + channels`` of W -> (B, points, channels).
    """
    batch = index.shape[0]
    start = torch.arange(batch, device=index.device) * points
    targets = (index.flatten(1) + start[:, None]).flatten()  # (B N K) into (B points) rows
    if batch * points < 2**31:
        targets = targets.int()  # half the work of sorting
    targets, order = targets.sort(stable=True)
    starts = torch.searchsorted(targets, torch.arange(batch * points + 1, device=index.device, dtype=targets.dtype))
    share = index.shape[-1] if factors is not None else 1
    return _sum_edges(edges.contiguous(), factors, order, starts, first, channels, share).view(batch, points, channels)


@torch.library.custom_op("point_ops::gather", mutates_args=())
def _gather(values: Tensor, index: Tensor) -> Tensor:
    batch, points, channels = values.shape
    out = values.new_empty(*index.shape, channels)
    args = (values.contiguous(), index.contiguous(), out, out.numel(), index.shape[1], points, channels)
    run(Launch("gather", instance("gather", values.dtype), (blocks(out.numel()), 1), ROWS, args))
    return out


@_gather.register_fake
def _(values, index):
    return values.new_empty(*index.shape, values.shape[2])


def _setup(ctx, inputs, output):
    values, index = inputs
    ctx.save_for_backward(index)
    ctx.points = values.shape[1]


def _backward(ctx, grad):
    (index,) = ctx.saved_tensors
    return sum_edges(grad, index, ctx.points, channels=grad.shape[2]), None


_gather.register_autograd(_backward, setup_context=_setup)


@torch.library.custom_op("point_ops::sum_edges", mutates_args=())
def _sum_edges(
    edges: Tensor, factors: Tensor | None, order: Tensor, starts: Tensor, first: int, channels: int, share: int
) -> Tensor:
    out = edges.new_empty(len(starts) - 1, channels)
    args = (edges, factors, order, starts, out, out.numel(), channels, edges.shape[-1], first, share)
    run(Launch("gather", instance("sum_edges", edges.dtype), (blocks(out.numel()), 1), ROWS, args))
    return out


@_sum_edges.register_fake
def _(edges, factors, order, starts, first, channels, share):
    return edges.new_empty(len(starts) - 1, channels)
