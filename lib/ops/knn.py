"""Exact k nearest neighbours."""

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from lib.ops import reference
from lib.ops.backend import runs_compiled
from lib.ops.checks import check_clouds, check_finite
from lib.ops.compiled import compiled
from lib.ops.errors import InputError
from lib.ops.threads import run_side_by_side, split_range


def knn(query: Tensor, support: Tensor, k: int) -> Tensor:
    """For each query point the ``k`` nearest support points, nearest first, by exact Euclidean distance.

    query (B, N, 3) and support (B, M, 3) in metres -> (B, N, k) int64 indices into M. Equal distances come in the
    order of their indices, which decides which of several equally distant points is taken (clouds from a pixel grid do
    hold exact ties). Distances are compared in float64. No gradient flows through the choice.

    Raises InputError for wrong shapes, ``k`` outside 1..M, mixed devices or dtypes, or coordinates that are not finite.
    """
    check_clouds("knn", query=query, support=support)
    if not 1 <= k <= support.shape[1]:
        raise InputError(
            f"knn: {k} neighbours asked of {support.shape[1]} points: query {tuple(query.shape)}, "
            f"support {tuple(support.shape)}"
        )
    check_finite("knn", "query", query)
    check_finite("knn", "support", support)
    query, support = query.detach(), support.detach()
    if not runs_compiled(query, support):
        return reference.knn(query, support, k)

    index = torch.empty(*query.shape[:2], k, dtype=torch.int64)
    queries = np.ascontiguousarray(query.double().numpy())
    supports = np.ascontiguousarray(support.double().numpy())
    trees = [cKDTree(cloud, balanced_tree=False, compact_nodes=False) for cloud in supports]

    def search(b: int, start: int, stop: int) -> None:
        _search(trees[b], supports[b], queries[b, start:stop], index[b, start:stop].numpy())

    pieces = [(b, start, stop) for b in range(len(trees)) for start, stop in split_range(query.shape[1])]
    run_side_by_side([lambda piece=piece: search(*piece) for piece in pieces])
    return index


def _search(tree: cKDTree, support: np.ndarray, query: np.ndarray, out: np.ndarray) -> None:
    """query (N, 3) -> out (N, k). A KD-tree breaks ties as it pleases; the compiled loop puts them in order."""
    k = out.shape[1]
    # One neighbour more than asked for shows whether the k-th is tied with one left out.
    _, candidates = tree.query(query, k=np.arange(1, min(k + 1, len(support)) + 1))
    _order_ties(query, support, candidates, out)


@compiled()
def _order_ties(query, support, candidates, out):
    n, k = out.shape
    width = candidates.shape[1]
    near = np.empty(width, np.float64)
    for i in range(n):
        x, y, z = query[i]
        row = candidates[i]
        for a in range(width):  # insertion sort by (distance, index): the row is nearly in order already
            j = row[a]
            dx, dy, dz = support[j, 0] - x, support[j, 1] - y, support[j, 2] - z
            d = dx * dx + dy * dy + dz * dz
            b = a
            while b > 0 and (near[b - 1] > d or (near[b - 1] == d and row[b - 1] > j)):
                near[b] = near[b - 1]
                row[b] = row[b - 1]
                b -= 1
            near[b] = d
            row[b] = j
        # Within rounding of the tree's own arithmetic the left-out ones may belong in: look at every point.
        if width > k and near[k] <= near[k - 1] * (1 + 1e-12):
            _scan(x, y, z, support, out[i])
        else:
            out[i] = row[:k]


@compiled()
def _scan(x, y, z, support, out):
    k = out.shape[0]
    near = np.full(k, np.inf)
    for j in range(support.shape[0]):
        dx, dy, dz = support[j, 0] - x, support[j, 1] - y, support[j, 2] - z
        d = dx * dx + dy * dy + dz * dz
        if d < near[k - 1]:  # points come in the order of their indices, so an equal one stays behind
            b = k - 1
            while b > 0 and near[b - 1] > d:
                near[b] = near[b - 1]
                out[b] = out[b - 1]
                b -= 1
            near[b] = d
            out[b] = j
