"""One direction of a bidirectional flow embedding: each query looks at its neighbours in the other cloud."""

import numpy as np
import torch
from torch import Tensor

from lib.ops import cuda, reference
from lib.ops.backend import full_precision, runs_compiled, runs_kernels
from lib.ops.checks import check_alike, check_index
from lib.ops.compiled import compiled
from lib.ops.errors import InputError
from lib.ops.gather import flat_rows
from lib.ops.product import multiply, pack
from lib.ops.reference import NEGATIVE_SLOPE
from lib.ops.threads import run_in_ranges

CHUNK_BYTES = 1 << 18  # hidden values held at once a thread: few enough for a core's cache


def flow_embedding(query: Tensor, support: Tensor, index: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """max_k LeakyReLU(weight LeakyReLU(query + support[index_k]) + bias)  (Bi-PointFlowNet, Cheng & Ko 2022, eq. 3).

    query (B, N, C), support (B, M, C), index (B, N, K) into M, weight (D, C), bias (D) -> (B, N, D). The embedding of
    relative positions is linear and therefore already part of ``query`` and ``support``. LeakyReLU rises, so the
    maximum is taken before bias and LeakyReLU; on a tie the first neighbour gets the gradient.
    Differentiable in all but the index; the backward visits only the neighbours that won.

    Raises InputError for shapes, dtypes or devices that do not go together.
    """
    if query.dim() != 3 or support.dim() != 3 or weight.shape != (len(bias), query.shape[2]) or (
        support.shape[2] != query.shape[2] or query.shape[:2] != index.shape[:2] or index.shape[2] == 0
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
    return _FlowEmbedding.apply(query, support, index, weight, bias, differentiated)


class _FlowEmbedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, support, index, weight, bias, differentiated):
        rows = flat_rows("flow_embedding", index, support.shape[1])  # (B N, K) into (B M) rows
        queries = query.detach().reshape(-1, query.shape[2]).contiguous()  # (B N, C)
        table = support.detach().reshape(-1, query.shape[2]).contiguous()  # (B M, C)
        matrix = weight.detach().contiguous()
        out = torch.empty(len(rows), len(matrix), dtype=query.dtype)
        winner = torch.empty(out.shape if differentiated else (0, 0), dtype=torch.int32)
        neighbours = rows.shape[1]
        step = max(1, CHUNK_BYTES // (neighbours * (matrix.shape[0] + matrix.shape[1]) * query.element_size()))
        args = [t.numpy() for t in (queries, table, rows)]
        args += pack(weight), bias.detach().contiguous().numpy(), out.numpy(), winner.numpy(), differentiated, step
        run_in_ranges(lambda start, stop: _forward(*args, start, stop), len(rows))
        ctx.save_for_backward(queries, table, rows, matrix, out, winner)
        ctx.shapes = query.shape, support.shape
        return out.view(*index.shape[:2], -1)

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

        parts = run_in_ranges(run, len(rows))
        zero = np.zeros((), args[0].dtype)
        grad_table = torch.from_numpy(sum((part[0] for part in parts), zero)).view(ctx.shapes[1])
        grad_matrix = torch.from_numpy(sum((part[1] for part in parts), zero))
        return grad_queries.view(ctx.shapes[0]), grad_table, None, grad_matrix, grad_out.sum(0), None


@compiled()
def _forward(queries, table, rows, packed, bias, out, winner, differentiated, step, start, stop):
    neighbours = rows.shape[1]
    hidden = np.empty((step * neighbours, queries.shape[1]), queries.dtype)
    mixed = np.empty((step * neighbours, out.shape[1]), queries.dtype)
    for a in range(start, stop, step):
        count = min(step, stop - a)
        _hidden(queries, table, rows, hidden, a, count)
        multiply(hidden, 0, packed, mixed, 0, count * neighbours)
        if differentiated:
            _first_maximum(mixed, out, winner, a, count, neighbours)
        else:
            _maximum(mixed, out, a, count, neighbours)
        _shift_and_bend(bias, out, a, a + count)


@compiled()
def _hidden(queries, table, rows, hidden, start, count):
    """hidden (count K, C) = LeakyReLU(query + support) for the queries start..start+count."""
    slope = hidden.dtype.type(NEGATIVE_SLOPE)
    neighbours = rows.shape[1]
    for i in range(count):
        query = queries[start + i]
        for k in range(neighbours):
            near, row = table[rows[start + i, k]], hidden[i * neighbours + k]
            for c in range(len(row)):
                value = query[c] + near[c]
                row[c] = max(value, slope * value)  # LeakyReLU, as the slope is below 1


@compiled()
def _maximum(mixed, out, start, count, neighbours):
    """out = max_k mixed."""
    for i in range(count):
        best = out[start + i]
        best[:] = mixed[i * neighbours]
        first = 1 + (neighbours - 1) % 4
        for k in range(1, first):
            row = mixed[i * neighbours + k]
            for c in range(len(best)):
                best[c] = row[c] if row[c] > best[c] else best[c]
        for k in range(first, neighbours, 4):  # four at a time: fewer passes over the maxima
            r = i * neighbours + k
            one, two, three, four = mixed[r], mixed[r + 1], mixed[r + 2], mixed[r + 3]
            for c in range(len(best)):
                x = one[c] if one[c] > two[c] else two[c]
                y = three[c] if three[c] > four[c] else four[c]
                x = x if x > y else y
                best[c] = x if x > best[c] else best[c]


@compiled()
def _first_maximum(mixed, out, winner, start, count, neighbours):
    """out = max_k mixed, winner = the first k that reaches it."""
    for i in range(count):
        best, who = out[start + i], winner[start + i]
        best[:] = mixed[i * neighbours]
        who[:] = 0
        for k in range(1, neighbours):
            row = mixed[i * neighbours + k]
            for c in range(len(best)):
                wins = row[c] > best[c]
                best[c] = row[c] if wins else best[c]
                who[c] = k if wins else who[c]


@compiled()
def _shift_and_bend(bias, out, start, stop):
    """out = LeakyReLU(out + bias): the order of the values, and so their maximum, stays as it is."""
    slope = out.dtype.type(NEGATIVE_SLOPE)
    for r in range(start, stop):
        row = out[r]
        for c in range(len(row)):
            value = row[c] + bias[c]
            row[c] = max(value, slope * value)


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
