"""Exact k nearest neighbours."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops import cuda, reference
from lib.ops.backend import runs_compiled, runs_kernels
from lib.ops.checks import check_clouds, check_finite
from lib.ops.cpu.buckets import BOX_POINTS, bucket_clouds
from lib.ops.cpu.compiled import untraced
from lib.ops.cpu.search import MAX_POINTS, search
from lib.ops.cpu.threads import WORTH_A_THREAD, run_side_by_side, split_range
from lib.ops.cpu.vectors import LANES


def knn(query: Tensor, support: Tensor, k: int) -> Tensor:
    """For each query point the ``k`` nearest support points, nearest first, by exact Euclidean distance.

    query (B, N, 3) and support (B, M, 3) in metres -> (B, N, k) int64 indices into M. Equal distances come in the
    order of their indices, which decides which of several equally distant points is taken (clouds from a pixel grid do
    hold exact ties). Distances are compared in float64. No gradient flows through the choice.

    Raises InputError for wrong shapes, ``k`` outside 1..M, mixed devices or dtypes, or coordinates that are not finite.
    """
    return knn_each((query, support, k))[0]


def knn_each(*searches: tuple[Tensor, Tensor, int]) -> list[Tensor]:
    """``knn`` of each (query, support, k), all on one device. On a CPU the threads share the lot."""
    for query, support, k in searches:
        check_clouds("knn", query=query, support=support)
        if not 1 <= k <= support.shape[1]:
            raise InputError(
                f"knn: {k} neighbours asked of {support.shape[1]} points: query {tuple(query.shape)}, "
                f"support {tuple(support.shape)}"
            )
    kernels = [runs_kernels(query, support) for query, support, _ in searches]
    if not any(kernels) and all(runs_compiled(q, s) and s.shape[1] <= MAX_POINTS for q, s, _ in searches):
        return _compiled_knn(searches)
    if not torch.compiler.is_compiling():  # it would compile anew for every cloud, by whose id they are told apart
        _check_values(searches)
    several = zip(searches, kernels, strict=True)
    return [(cuda if kernel else reference).knn(q.detach(), s.detach(), k) for (q, s, k), kernel in several]


def _check_values(searches: Sequence[tuple[Tensor, Tensor, int]]) -> None:
    """Raises InputError for a coordinate that is not finite. Reads a cloud of several searches once."""
    looked_at: set[int] = set()
    for query, support, _ in searches:
        for name, cloud in (("query", query), ("support", support)):
            if id(cloud) not in looked_at:
                check_finite("knn", name, cloud)
                looked_at.add(id(cloud))


@untraced
def _compiled_knn(searches: Sequence[tuple[Tensor, Tensor, int]]) -> list[Tensor]:
    """All boxes first, then all searches, in pieces that the threads take in turn."""
    _check_values(searches)
    size = max([BOX_POINTS, *(-(-k // LANES) * LANES for *_, k in searches)])  # whole vectors
    clouds = {id(cloud): cloud for *pair, _ in searches for cloud in pair if cloud.shape[1] > 0}
    buckets = iter(bucket_clouds([one for cloud in clouds.values() for one in cloud.detach().numpy()], size))
    known = {key: [next(buckets) for _ in cloud] for key, cloud in clouds.items()}  # a list of clouds a batch
    found, pieces = [], []
    for query, support, k in searches:
        count, full = query.shape[1], support.shape[1] // size
        index = torch.empty(*query.shape[:2], k, dtype=torch.int64)
        parts = split_range(count) if count > WORTH_A_THREAD else [(0, count)] if count else []
        for b, rows in enumerate(index.numpy()):
            for start, stop in parts:
                args = (*known[id(query)][b][:2], *known[id(support)][b], full, rows, start, stop)
                pieces.append(partial(search, *args))
        found.append(index)
    run_side_by_side(pieces)
    return found
