"""Voxels: the cells of a grid that hold the points of a cloud, and the map that features of cells lie on."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops import reference_voxels as reference
from lib.ops.backend import runs_compiled
from lib.ops.checks import check_alike, check_devices, check_finite, is_recording
from lib.ops.cpu import voxels as loops
from lib.ops.cpu.compiled import untraced
from lib.ops.cpu.threads import run_side_by_side
from lib.ops.reference_voxels import Cells, VoxelGrid


def voxelise(clouds: Sequence[Tensor], grid: VoxelGrid, max_points: int, max_cells: int) -> Cells:
    """Puts the points of each cloud into the cells of a grid.

    clouds: tensors (N_i, C) of x, y, z in metres, LiDAR frame, and more columns. A point's cell is
    floor((p - low) / size), computed in float32; points outside the grid are left out. Cells stand in the order in
    which their first points come. A cell keeps its first ``max_points`` points, a cloud its first ``max_cells`` cells.
    The points of `Cells` have the clouds' type.

    Raises InputError for wrong shapes, clouds that do not go together, numbers that are not finite, limits below 1.
    """
    if not clouds:
        raise InputError("voxelise: there is no cloud: give one or more")
    if max_points < 1 or max_cells < 1:
        raise InputError(f"voxelise: max_points is {max_points} and max_cells {max_cells}: give 1 or more")
    if min(grid.shape) < 1 or min(grid.size) <= 0:
        raise InputError(f"voxelise: a grid of {grid.shape} cells of {grid.size} m holds nothing")
    named = {f"clouds[{number}]": cloud for number, cloud in enumerate(clouds)}
    for name, cloud in named.items():
        if cloud.dim() != 2 or cloud.shape[1] < 3 or not cloud.is_floating_point():
            found = f"{cloud.dtype} of shape {tuple(cloud.shape)}"
            raise InputError(f"voxelise: {name} must be floating (N, 3 or more), got {found}")
        if cloud.shape[1] != clouds[0].shape[1]:
            raise InputError(f"voxelise: {name} has {cloud.shape[1]} columns and clouds[0] {clouds[0].shape[1]}")
        check_finite("voxelise", name, cloud)
    check_alike("voxelise", **named)
    if runs_compiled(*clouds):
        return _compiled_voxelise(clouds, grid, max_points, max_cells)
    return reference.voxelise([cloud.detach() for cloud in clouds], grid, max_points, max_cells)


@untraced
def _compiled_voxelise(clouds: Sequence[Tensor], grid: VoxelGrid, max_points: int, max_cells: int) -> Cells:
    """A thread a cloud: first where each point goes, then, with room made for all cells, the points themselves."""
    arrays = [cloud.detach().contiguous().numpy() for cloud in clouds]
    limits = np.float32(grid.low), np.float32(grid.size), np.array(grid.shape), max_points, max_cells
    found = run_side_by_side([partial(loops.find_cells, array, *limits) for array in arrays])
    ends = np.cumsum([len(counts) for _, counts, _ in found])
    points = torch.zeros(int(ends[-1]), max_points, arrays[0].shape[1], dtype=clouds[0].dtype)
    places = np.empty((len(points), 4), np.int64)
    fillings = []
    for number, (array, (rows, counts, place), end) in enumerate(zip(arrays, found, ends, strict=True)):
        own = slice(end - len(counts), end)
        places[own, 0], places[own, 1:] = number, place
        fillings.append(partial(loops.fill_cells, array, rows, points[own].flatten(0, 1).numpy()))  # (P_i S, C)
    run_side_by_side(fillings)
    counts = np.concatenate([counts for _, counts, _ in found])
    return Cells(points, torch.from_numpy(counts), torch.from_numpy(places), len(clouds))


def scatter_to_map(values: Tensor, places: Tensor, clouds: int, shape: tuple[int, int]) -> Tensor:
    """Features of cells, laid on the map of their clouds seen from above: 0 where no cell is.

    values (P, C), places (P, 4) int64 of `Cells`: cloud, z, y, x. shape: (H, W), cells along y and along x.
    Returns (clouds, C, H, W), differentiable in the values. Each place on the map takes one cell.

    Raises InputError for wrong shapes, a place outside the map, and two cells for one place.
    """
    if values.dim() != 2 or places.shape != (len(values), 4) or places.dtype != torch.int64:
        found = f"values {tuple(values.shape)}, places {tuple(places.shape)} {places.dtype}"
        raise InputError(f"scatter_to_map: values must be (P, C) and places (P, 4) int64, got {found}")
    check_devices("scatter_to_map", values=values, places=places)
    if not is_recording(values):
        _check_places(places, clouds, shape)
    return reference.scatter_to_map(values, places, clouds, shape)


def _check_places(places: Tensor, clouds: int, shape: tuple[int, int]) -> None:
    """Raises InputError for a place outside the map and for two cells at one place."""
    size = torch.tensor([clouds, *shape], device=places.device)
    on_map = places[:, [0, 2, 3]]  # cloud, y, x
    if torch.any((on_map < 0) | (on_map >= size)):
        raise InputError(f"scatter_to_map: a place lies outside of {clouds} maps of {shape[0]} x {shape[1]} cells")
    flat = (on_map[:, 0] * shape[0] + on_map[:, 1]) * shape[1] + on_map[:, 2]
    owner = torch.empty(clouds * shape[0] * shape[1], dtype=torch.int64, device=places.device)
    rows = torch.arange(len(flat), device=places.device)
    owner[flat] = rows  # of two rows at one place, one loses
    if not torch.equal(owner[flat], rows):
        raise InputError("scatter_to_map: two cells have the same cloud, y and x: the map takes one cell a place")
