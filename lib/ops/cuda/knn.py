"""Exact k nearest neighbours on a GPU."""

from math import gcd

import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops import reference
from lib.ops.cuda import launch
from lib.ops.cuda.launch import Hardware, Launch, blocks, instance

MAX_NEIGHBOURS = 32  # one a lane
WARPS = 8  # a block
WARPS_PER_PROCESSOR = 16  # enough to hide the latencies; beyond it a warp takes several queries and reads less


def knn(query: Tensor, support: Tensor, k: int) -> Tensor:
    """As ``lib.ops.knn``: (B, N, 3), (B, M, 3) on a GPU -> (B, N, k) int64.

    More than 32 neighbours are beyond the kernel and found by the twin of ``reference.py``, in chunks.
    """
    if k > MAX_NEIGHBOURS:
        return reference.knn(query, support, k)
    if query.dtype == torch.bfloat16:
        query, support = query.float(), support.float()  # exact
    return _knn(query, support, k)


def knn_launch(query: Tensor, support: Tensor, index: Tensor, machine: Hardware) -> Launch:
    """A warp takes 1, 2 or 4 queries, the more of them there are."""
    clouds, queries, _ = query.shape
    points, k = support.shape[1], index.shape[2]
    per_warp = 4
    while per_warp > 1 and clouds * queries < per_warp * WARPS_PER_PROCESSOR * machine.processors:
        per_warp //= 2
    grid = (blocks(queries, per_warp * WARPS), clouds)
    args = (query, support, index, queries, points, k, visiting_stride(blocks(points, 32)))
    return Launch("knn", instance("knn", query.dtype, per_warp), grid, 32 * WARPS, args)


def visiting_stride(groups: int) -> int:
    """A step near the golden section of ``groups`` with which every group is visited once."""
    stride = max(1, int(groups * 0.618))
    while gcd(stride, groups) != 1:
        stride += 1
    return stride


@torch.library.custom_op("point_ops::knn", mutates_args=())
def _knn(query: Tensor, support: Tensor, k: int) -> Tensor:
    if support.shape[1] >= 2**31:
        raise InputError(f"knn: support {tuple(support.shape)} holds 2^31 points or more")
    index = torch.empty(*query.shape[:2], k, dtype=torch.int64, device=query.device)
    launch.run(knn_launch(query.contiguous(), support.contiguous(), index, launch.hardware(query.device)))
    return index


@_knn.register_fake
def _(query, support, k):
    return query.new_empty((*query.shape[:2], k), dtype=torch.int64)
