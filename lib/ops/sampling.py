"""Furthest point sampling."""

import numpy as np
import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops import cuda, reference
from lib.ops.backend import runs_compiled, runs_kernels
from lib.ops.buckets import bucket_clouds
from lib.ops.checks import check_clouds, check_finite
from lib.ops.compiled import compiled, untraced
from lib.ops.threads import run_side_by_side

LANES = 8
BOX = 4 * LANES  # points; as many as in the boxes of most searches, which then take those that are there


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
    clouds = bucket_clouds(list(xyz.numpy()), BOX)
    picks = run_side_by_side([lambda cloud=cloud: _sample(*cloud, count) for cloud in clouds])
    return torch.from_numpy(np.array(picks, np.int64).reshape(len(xyz), count))


@compiled()
def _sample(order, points, low, high, count):
    boxes, _, size = points.shape
    picks = np.zeros(count, np.int64)
    nearest = np.full((boxes, size), np.inf)  # squared distance to the nearest pick so far, by place
    for lane in range(size):
        if points[boxes - 1, 0, lane] == np.inf:
            nearest[boxes - 1, lane] = -1.0  # behind the last point
    furthest = np.full(boxes, np.inf)  # the largest of them in each box
    gap = np.empty(boxes)
    place = 0
    while order[place] != 0:
        place += 1
    for i in range(1, count):
        box, lane = place // size, place % size
        x, y, z = points[box, 0, lane], points[box, 1, lane], points[box, 2, lane]
        for b in range(boxes):
            dx = max(low[0, b] - x, x - high[0, b], 0.0)
            dy = max(low[1, b] - y, y - high[1, b], 0.0)
            dz = max(low[2, b] - z, z - high[2, b], 0.0)
            gap[b] = dx * dx + dy * dy + dz * dz
        best = -1.0
        for b in range(boxes):
            if gap[b] < furthest[b]:  # the last pick may be nearer to points of this box than those before it
                furthest[b] = _update(points[b], nearest[b], x, y, z)
            best = max(best, furthest[b])
        pick = len(order)
        for b in range(boxes):
            if furthest[b] == best:
                for lane in range(size):
                    j = b * size + lane
                    if nearest[b, lane] == best and order[j] < pick:  # the lowest row of equals
                        pick, place = order[j], j
        picks[i] = pick
    return picks


@compiled()
def _update(points, nearest, x, y, z):
    """Takes the pick at x, y, z into account in one box; returns the largest distance left in it."""
    for j in range(len(nearest)):
        dx, dy, dz = points[0, j] - x, points[1, j] - y, points[2, j] - z
        d = dx * dx + dy * dy + dz * dz
        nearest[j] = d if d < nearest[j] else nearest[j]
    lanes = nearest[:LANES].copy()  # independent maxima, so that this loop becomes vector instructions
    for start in range(LANES, len(nearest), LANES):
        for lane in range(LANES):
            d = nearest[start + lane]
            lanes[lane] = d if d > lanes[lane] else lanes[lane]
    return lanes.max()
