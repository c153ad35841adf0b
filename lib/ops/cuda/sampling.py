"""Furthest point sampling on a GPU."""

import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops.cuda import launch
from lib.ops.cuda.launch import Hardware, Launch, blocks, instance

MAX_CLUSTER = 8  # blocks: the largest cluster that every GPU with clusters takes
MIN_POINTS = 512  # of a block: fewer, and agreeing on a pick costs more than looking at the points
MAX_THREADS = 512
POINTS = {torch.float32: (4, 16), torch.float64: (4, 8)}  # a thread, in registers


def furthest_point_sample(xyz: Tensor, count: int) -> Tensor:
    """As ``lib.ops.furthest_point_sample``: xyz (B, N, 3) on a GPU -> (B, count) int64."""
    return _sample(xyz.float() if xyz.dtype == torch.bfloat16 else xyz, count)  # widening is exact


def sampling_launch(xyz: Tensor, picks: Tensor, machine: Hardware) -> Launch:
    """All clouds in one launch: a cluster of blocks each from compute capability 9.0 on, else one block each."""
    clouds, points, _ = xyz.shape
    cluster = 1
    if machine.capability >= 90:
        while (
            cluster < MAX_CLUSTER
            and 2 * cluster * clouds <= machine.processors
            and (2 * cluster * MIN_POINTS <= points)
        ):
            cluster *= 2
    share = blocks(points, cluster)  # points of a block
    few, many = POINTS[xyz.dtype]
    per_thread = few if share <= few * MAX_THREADS else many
    grid = (clouds * cluster, 1)
    sizes = (points, picks.shape[1], cluster)
    if share > per_thread * MAX_THREADS:
        nearest = torch.empty(clouds, points, dtype=torch.float64, device=xyz.device)
        kernel = instance("furthest_point_sample_large", xyz.dtype)
        return Launch("furthest_point_sample", kernel, grid, MAX_THREADS, (xyz, nearest, picks, *sizes), cluster)
    threads = 32 * blocks(share, 32 * per_thread)
    kernel = instance("furthest_point_sample", xyz.dtype, per_thread)
    return Launch("furthest_point_sample", kernel, grid, threads, (xyz, picks, *sizes), cluster)


@torch.library.custom_op("point_ops::furthest_point_sample", mutates_args=())
def _sample(xyz: Tensor, count: int) -> Tensor:
    if xyz.shape[1] >= 2**31:
        raise InputError(f"furthest_point_sample: clouds of shape {tuple(xyz.shape)} hold 2^31 points or more")
    picks = torch.empty(len(xyz), count, dtype=torch.int64, device=xyz.device)
    launch.run(sampling_launch(xyz.contiguous(), picks, launch.hardware(xyz.device)))
    return picks


@_sample.register_fake
def _(xyz, count):
    return xyz.new_empty((len(xyz), count), dtype=torch.int64)
