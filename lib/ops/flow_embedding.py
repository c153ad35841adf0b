"""One direction of a bidirectional flow embedding: each query looks at its neighbours in the other cloud."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import InputError
from lib.ops import cuda, reference
from lib.ops.backend import full_precision, runs_compiled, runs_kernels
from lib.ops.checks import check_alike, check_index
from lib.ops.compiled import CompiledFunction, compiled
from lib.ops.edge_vectors import BLOCK, add_and_bend, raise_maximum
from lib.ops.gather import flat_rows
from lib.ops.product import pack_layer
from lib.ops.reference import NEGATIVE_SLOPE
from lib.ops.threads import run_in_ranges


def flow_embedding(query: Tensor, support: Tensor, index: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """max_k LeakyReLU(weight LeakyReLU(query + support[index_k]) + bias)  (Bi-PointFlowNet, Cheng & Ko 2022, eq. 3).

    query (B, N, C), support (B, M, C), index (B, N, K) into M, weight (D, C), bias (D) -> (B, N, D). The embedding of
    relative positions is linear and therefore already part of ``query`` and ``support``. LeakyReLU rises, so the
    maximum is taken before bias and LeakyReLU; on a tie the first neighbour gets the gradient.
    Differentiable in all but the index; the backward visits only the neighbours that won.

    Raises InputError for shapes, dtypes or devices that do not go together.
    """
    if (
        query.dim() != 3
        or support.dim() != 3
        or weight.shape != (len(bias), query.shape[2])
        or (support.shape[2] != query.shape[2] or query.shape[:2] != index.shape[:2] or index.shape[2] == 0)
    ):
        raise InputError(
            f"flow_embedding: query {tuple(query.shape)} must be (B, N, C), support {tuple(support.shape)} (B, M, C), "
            f"index {tuple(index.shape)} (B, N, K), weight {tuple(weight.shape)} (D, C), bias {tuple(bias.shape)} (D), "
            "K > 0"
        )
    query, support = full_precision(query, support)
    check_index("flow_embedding", index, support, dims=3)
    check_alike("flow_embedding", query=query, support=support, weight=weight, bias=bias)
    if runs_kernels(query, support, weight):
        return cuda.flow_embedding(query, support, index, weight, bias)
    if not runs_compiled(query, support, weight):
        return reference.flow_embedding(query, support, index, weight, bias)
    differentiated = torch.is_grad_enabled() and any(t.requires_grad for t in (query, support, weight, bias))
    return _FlowEmbedding.run(query, support, index, weight, bias, differentiated)


class _FlowEmbedding(CompiledFunction):
    @staticmethod
    def forward(ctx, query, support, index, weight, bias, differentiated):
        rows = flat_rows("flow_embedding", index, support.shape[1])  # (B N, K) into (B M) rows
        queries = query.detach().reshape(-1, query.shape[2]).contiguous()  # (B N, C)
        table = support.detach().reshape(-1, query.shape[2]).contiguous()  # (B M, C)
        matrix = weight.detach().contiguous()
        panels, shift = pack_layer(weight, bias)
        wide = torch.empty(len(rows), len(shift), dtype=query.dtype)
        winner = torch.empty(wide.shape, dtype=torch.int32) if differentiated else None
        # Whole vectors: zeros add nothing, and the columns behind the last are cut off again.
        arrays = [t.numpy() for t in (_fill_up(queries, panels), _fill_up(table, panels), rows)]
        args = *arrays, panels, shift[None], wide.numpy(), winner.numpy() if differentiated else None
        run_in_ranges(partial(_embed, *args), len(rows))
        out = wide[:, : len(matrix)].contiguous()
        ctx.save_for_backward(queries, table, rows, matrix, out, winner)
        ctx.shapes = query.shape, support.shape
        return out.view(*index.shape[:2], len(matrix))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        queries, table, rows, matrix, out, winner = ctx.saved_tensors
        grad_out = grad_out.reshape(out.shape)
        grad_out = torch.where(out > 0, grad_out, grad_out * NEGATIVE_SLOPE).contiguous()  # before the LeakyReLU
        grad_queries = torch.empty_like(queries)
        args = [t.numpy() for t in (queries, table, rows, matrix, winner, grad_out, grad_queries)]

        def run(start, stop):
            grad_table, grad_matrix = np.zeros_like(args[1]), np.zeros_like(args[3])
            _embedding_backward(*args, grad_table, grad_matrix, start, stop)
            return grad_table, grad_matrix

        parts = run_in_ranges(run, len(rows)) or [run(0, 0)]
        zero = np.zeros((), args[0].dtype)
        grad_table = torch.from_numpy(sum((part[0] for part in parts), zero)).view(ctx.shapes[1])
        grad_matrix = torch.from_numpy(sum((part[1] for part in parts), zero))
        return grad_queries.view(ctx.shapes[0]), grad_table, None, grad_matrix, grad_out.sum(0), None


def _fill_up(features: Tensor, panels: np.ndarray) -> Tensor:
    """(N, C) -> (N, C') of the panels (D' / n, C', n), contiguous: zeros behind."""
    behind = panels.shape[1] - features.shape[1]
    return F.pad(features, (0, behind)) if behind else features


@compiled()
def _embed(queries, table, rows, panels, bias, out, winner, start, stop):
    """out = LeakyReLU(max_k matrix LeakyReLU(query + support) + bias), winner = the first k that reaches it.

    One query at a time: its hidden values stay in the core's first cache, the products in its registers. At every width
    of the networks that is quicker than a product of many queries' hidden values, with AVX-512 as with AVX2.
    """
    slope = out.dtype.type(NEGATIVE_SLOPE)
    edges, last = max(rows.shape[1], BLOCK), rows.shape[1] - 1
    hidden = np.empty((edges, panels.shape[1]), queries.dtype)  # of one query
    out[start:stop] = -np.inf
    if winner is not None:
        winner[start:stop] = 0
    for r in range(start, stop):
        for p in range(len(panels)):
            for k in range(0, edges, BLOCK):
                k = min(k, edges - BLOCK)  # the last block may overlap the one before
                if p == 0:  # block by block, as the processor prepares one while it multiplies another
                    for j in range(k, k + BLOCK):  # behind the last neighbour, that one again: it raises no maximum
                        add_and_bend(queries, r, table, rows[r, min(j, last)], hidden, j, slope)
                raise_maximum(hidden, k, panels, p, out, r, winner)
        add_and_bend(out, r, bias, 0, out, r, slope)


@compiled(fastmath={"contract"})
def _embedding_backward(
    queries, table, rows, matrix, winner, grad_out, grad_queries, grad_table, grad_matrix, start, stop
):
    slope = table.dtype.type(NEGATIVE_SLOPE)
    neighbours, channels = rows.shape[1], queries.shape[1]
    sums = np.empty((neighbours, channels), table.dtype)  # of this query's neighbours, before the LeakyReLU
    grads = np.empty((neighbours, channels), table.dtype)
    used = np.empty(neighbours, np.bool_)
    for r in range(start, stop):
        used[:] = False
        for d in range(matrix.shape[0]):
            used[winner[r, d]] = True
        for k in range(neighbours):
            if used[k]:
                for c in range(channels):
                    sums[k, c] = queries[r, c] + table[rows[r, k], c]
                    grads[k, c] = 0
        for d in range(matrix.shape[0]):
            k, grad = winner[r, d], grad_out[r, d]
            for c in range(channels):
                value = sums[k, c]
                grad_matrix[d, c] += grad * max(value, slope * value)
                grads[k, c] += grad * matrix[d, c]
        grad_queries[r] = 0
        for k in range(neighbours):
            if used[k]:
                source = rows[r, k]
                for c in range(channels):
                    grad = grads[k, c] if sums[k, c] > 0 else slope * grads[k, c]
                    grad_queries[r, c] += grad
                    grad_table[source, c] += grad
