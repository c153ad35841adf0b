"""Furthest point sampling."""

import numpy as np
import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops import cuda, reference
from lib.ops.backend import runs_compiled, runs_kernels
from lib.ops.checks import check_clouds, check_finite
from lib.ops.cpu.buckets import BOX_POINTS, bucket_clouds
from lib.ops.cpu.compiled import untraced
from lib.ops.cpu.sampling import sample
from lib.ops.cpu.threads import run_side_by_side


def furthest_point_sample(xyz: Tensor, count: int) -> Tensor:
    """Spreads ``count`` samples over each cloud: every pick is the point furthest from the picks before it.

    xyz (B, N, 3) in metres -> (B, count) int64 indices into N. The first is index 0, ties go to the lower index.
    The order is nested: sampling the sampled points in that order gives a prefix of them.

    Raises InputError for a wrong shape, ``count`` outside 1..N, or a coordinate that is not finite.
    """
    check_clouds("furthest_point_sample", xyz=xyz)
    if not 1 <= count <= xyz.shape[1]:
        raise InputError(f"furthest_point_sample: cannot draw {count} points from clouds of shape {tuple(xyz.shape)}")
    xyz = xyz.detach()
    kernels = runs_kernels(xyz)
    if not kernels and runs_compiled(xyz):
        return _compiled_sample(xyz, count)
    check_finite("furthest_point_sample", "xyz", xyz)
    return (cuda if kernels else reference).furthest_point_sample(xyz, count)


@untraced
def _compiled_sample(xyz: Tensor, count: int) -> Tensor:
    """A thread a cloud."""
    check_finite("furthest_point_sample", "xyz", xyz)
    clouds = bucket_clouds(list(xyz.numpy()), BOX_POINTS)
    picks = run_side_by_side([lambda cloud=cloud: sample(*cloud, count) for cloud in clouds])
    return torch.from_numpy(np.array(picks, np.int64).reshape(len(xyz), count))
