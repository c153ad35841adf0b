"""The slow twins of the operations on voxels, in plain torch, and what they take and return.

Clouds are in the LiDAR frame: x ahead, y left, z up, metres.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class VoxelGrid(NamedTuple):
    """Cells of one size, side by side, in the LiDAR frame. A pillar is a cell as high as the whole grid."""

    low: tuple[float, float, float]  # m: the corner with the smallest x, y and z
    size: tuple[float, float, float]  # m: of a cell along x, y and z
    shape: tuple[int, int, int]  # how many cells along x, y and z


class Cells(NamedTuple):
    """The cells of several clouds that hold points: those of cloud 0 first, in each cloud by their first point."""

    points: Tensor  # (P, S, C) the first S points of each cell, in the cloud's order; zeros behind them
    counts: Tensor  # (P,) int64: how many of the S are points
    places: Tensor  # (P, 4) int64: cloud, z, y, x
    clouds: int  # how many clouds, those without a cell among them


def voxelise(clouds: Sequence[Tensor], grid: VoxelGrid, max_points: int, max_cells: int) -> Cells:
    """Clouds (N_i, C) of x, y, z and more -> their cells, at most ``max_cells`` a cloud, ``max_points`` in each."""
    points, counts, places = zip(*(_voxelise(cloud, grid, max_points, max_cells) for cloud in clouds), strict=True)
    places = [F.pad(place, (1, 0), value=number) for number, place in enumerate(places)]  # (P_i, 3) -> (P_i, 4)
    return Cells(torch.cat(points), torch.cat(counts), torch.cat(places), len(clouds))


def _voxelise(cloud: Tensor, grid: VoxelGrid, max_points: int, max_cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """One cloud (N, C) -> points (P, S, C), counts (P,), places (P, 3): z, y, x."""
    # In float32: subtract, then divide. The divisor is a tensor, as a GPU multiplies by the inverse of a number.
    low, size = (torch.tensor(three, dtype=torch.float32, device=cloud.device) for three in (grid.low, grid.size))
    place = ((cloud[:, :3].float() - low) / size).floor()  # (N, 3)
    shape = torch.tensor(grid.shape, device=cloud.device)
    inside = ((place >= 0) & (place < shape)).all(1)
    cloud, (x, y, z) = cloud[inside], place[inside].long().unbind(1)
    keys = (z * grid.shape[1] + y) * grid.shape[0] + x  # (n,) one number for each cell

    # Points by cell, in their own order within a cell: the first of each run is the cell's first point.
    keys, order = keys.sort(stable=True)
    cells, counts = keys.unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts  # of each cell's run
    seen = order[starts].argsort()[:max_cells]  # cells by their first point
    slot = torch.arange(len(keys), device=cloud.device) - starts.repeat_interleave(counts)  # of a point in its cell
    rank = torch.full((len(cells),), -1, device=cloud.device)
    rank[seen] = torch.arange(len(seen), device=cloud.device)
    rank = rank.repeat_interleave(counts)  # of each point's cell; -1: beyond the cap
    taken = (rank >= 0) & (slot < max_points)

    points = cloud.new_zeros(len(seen), max_points, cloud.shape[1])
    points[rank[taken], slot[taken]] = cloud[order[taken]]
    x, rest = cells[seen] % grid.shape[0], cells[seen] // grid.shape[0]
    y, z = rest % grid.shape[1], rest // grid.shape[1]
    return points, counts[seen].clamp_max(max_points), torch.stack([z, y, x], 1)


def scatter_to_map(values: Tensor, places: Tensor, clouds: int, shape: tuple[int, int]) -> Tensor:
    """values (P, C) of cells at places (P, 4) -> (clouds, C, H, W), 0 where no cell is."""
    height, width = shape
    cloud, _, y, x = places.unbind(1)
    rows = values.new_zeros(clouds * height * width, values.shape[1])
    rows.index_copy_(0, (cloud * height + y) * width + x, values)
    return rows.view(clouds, height, width, -1).permute(0, 3, 1, 2)  # (B H W, C) -> (B, H, W, C) -> (B, C, H, W)
