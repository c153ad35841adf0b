"""Loops of the flow embedding. queries (N, C), table (M, C), rows (N, K) into the table."""

import numpy as np

from lib.ops.cpu.compiled import compiled
from lib.ops.cpu.instructions import ROWS, add_leaky_relu, raise_maximum
from lib.ops.reference import NEGATIVE_SLOPE

EDGES = ROWS  # of a query at once, one vector of each: quicker than fewer edges with two or four vectors of each


@compiled()
def embed(
    queries: np.ndarray,
    table: np.ndarray,
    rows: np.ndarray,
    panels: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    winner: np.ndarray | None,
    start: int,
    stop: int,
) -> None:
    """out = LeakyReLU(max_k matrix LeakyReLU(query + support) + bias), winner = the first k that reaches it.

    One query at a time: its hidden values stay in the core's first cache, the products in its registers. For all widths
    of the networks this is quicker than one product for many queries, both with AVX-512 and with AVX2.
    """
    slope = out.dtype.type(NEGATIVE_SLOPE)
    edges, last = max(rows.shape[1], EDGES), rows.shape[1] - 1
    hidden = np.empty((edges, panels.shape[1]), queries.dtype)  # of one query
    out[start:stop] = -np.inf
    if winner is not None:
        winner[start:stop] = 0
    for r in range(start, stop):
        for p in range(len(panels)):
            for k in range(0, edges, EDGES):
                k = min(k, edges - EDGES)  # the last block may overlap the one before
                if p == 0:  # block by block: the processor prepares one block while it multiplies another
                    for j in range(k, k + EDGES):  # the last neighbour is repeated: that raises no maximum
                        add_leaky_relu(queries, r, table, rows[r, min(j, last)], hidden, j, slope)
                raise_maximum(hidden, k, panels, p, out, r, winner)
        add_leaky_relu(out, r, bias, 0, out, r, slope)


@compiled(fastmath={"contract"})
def embedding_backward(
    queries: np.ndarray,
    table: np.ndarray,
    rows: np.ndarray,
    matrix: np.ndarray,
    winner: np.ndarray,
    grad_out: np.ndarray,
    grad_queries: np.ndarray,
    grad_table: np.ndarray,
    grad_matrix: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """grad_out (N, D): before the last LeakyReLU. grad_queries is written, grad_table and grad_matrix are added to."""
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
