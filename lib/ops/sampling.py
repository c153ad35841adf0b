"""Furthest point sampling."""

import numpy as np
import torch
from torch import Tensor

from lib.ops import reference
from lib.ops.backend import runs_compiled
from lib.ops.checks import check_clouds, check_finite
from lib.ops.compiled import compiled
from lib.ops.errors import InputError
from lib.ops.threads import run_side_by_side


def furthest_point_sample(xyz: Tensor, count: int) -> Tensor:
    """Spreads ``count`` samples over each cloud: every pick is the point furthest from the picks before it.

    xyz (B, N, 3) in metres -> (B, count) int64 indices into N. The first is index 0, ties go to the lower index.
    The order is nested: sampling the sampled points in that order gives a prefix of them.

    Raises InputError for a wrong shape, ``count`` outside 1..N, or a coordinate that is not finite.
    """
    check_clouds("furthest_point_sample", xyz=xyz)
    if not 1 <= count <= xyz.shape[1]:
        raise InputError(f"furthest_point_sample: cannot draw {count} points from clouds of shape {tuple(xyz.shape)}")
    check_finite("furthest_point_sample", "xyz", xyz)
    xyz = xyz.detach()
    if not runs_compiled(xyz):
        return reference.furthest_point_sample(xyz, count)
    clouds = [np.ascontiguousarray(cloud.T) for cloud in xyz.double().numpy()]  # each (3, N): SIMD runs along N
    picks = run_side_by_side([lambda cloud=cloud: _sample(cloud, count) for cloud in clouds])
    return torch.from_numpy(np.stack(picks))


@compiled()
def _sample(xyz, count):
    n = xyz.shape[1]
    picks = np.zeros(count, np.int64)
    nearest = np.full(n, np.inf)  # squared distance to the nearest pick so far
    lanes = 8
    best = np.empty(lanes)
    for i in range(1, count):
        x, y, z = xyz[0, picks[i - 1]], xyz[1, picks[i - 1]], xyz[2, picks[i - 1]]
        best[:] = -1.0
        whole = n - n % lanes
        for start in range(0, whole, lanes):
            for lane in range(lanes):  # independent maxima, so that this loop becomes vector instructions
                j = start + lane
                dx, dy, dz = xyz[0, j] - x, xyz[1, j] - y, xyz[2, j] - z
                d = dx * dx + dy * dy + dz * dz
                d = d if d < nearest[j] else nearest[j]
                nearest[j] = d
                best[lane] = d if d > best[lane] else best[lane]
        furthest = best.max()
        for j in range(whole, n):
            dx, dy, dz = xyz[0, j] - x, xyz[1, j] - y, xyz[2, j] - z
            d = dx * dx + dy * dy + dz * dz
            nearest[j] = min(d, nearest[j])
            furthest = max(furthest, nearest[j])
        pick = 0
        while nearest[pick] != furthest:  # the first of equals
            pick += 1
        picks[i] = pick
    return picks
