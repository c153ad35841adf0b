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
from lib.ops.cpu.compiled import CompiledFunction
from lib.ops.cpu.flow_embedding import embed, embedding_backward
from lib.ops.cpu.product import pack_layer
from lib.ops.cpu.threads import run_in_ranges
from lib.ops.gather import flat_rows
from lib.ops.reference import NEGATIVE_SLOPE


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
        run_in_ranges(partial(embed, *args), len(rows))
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
            embedding_backward(*args, grad_table, grad_matrix, start, stop)
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
