"""Voxels and maps of them: against their twins, against a plain loop over points, and on real frames."""

import inspect

import numpy as np
import pytest
import torch

from lib import ops
from lib.ops import Cells, InputError, VoxelGrid
from lib.ops import reference_voxels as reference

generator = torch.Generator().manual_seed(0)
NAN = float("nan")
PILLARS = VoxelGrid((0, -39.68, -3), (0.16, 0.16, 4), (432, 496, 1))
VOXELS = VoxelGrid((0, -40, -3), (0.05, 0.05, 0.1), (1408, 1600, 40))
SMALL = VoxelGrid((-1, -1, -1), (0.4, 0.5, 0.7), (5, 4, 3))
BACKENDS = ["auto", "reference"]


def plain_cells(clouds, grid, max_points, max_cells) -> list[tuple[tuple, list]]:
    """(cloud, z, y, x) -> its points, point by point."""
    found = []
    for number, cloud in enumerate(clouds):
        cells: dict[tuple, list] = {}
        for point in cloud.numpy():
            place = np.floor((point[:3].astype(np.float32) - np.float32(grid.low)) / np.float32(grid.size)).astype(int)
            if (place < 0).any() or (place >= grid.shape).any():
                continue
            key = (number, *place[::-1].tolist())
            if key in cells or len(cells) < max_cells:
                cells.setdefault(key, []).append(point)
        found += [(key, points[:max_points]) for key, points in cells.items()]
    return found


def equal(one: Cells, two: Cells) -> bool:
    return one.clouds == two.clouds and all(map(torch.equal, one[:3], two[:3]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("max_points", "max_cells"), [(1, 1), (3, 1000), (2, 7), (40, 20)])
def test_cells_hold_the_points_that_a_plain_loop_puts_there(backend, dtype, max_points, max_cells):
    cloud = (torch.rand(300, 5, generator=generator) * 3 - 1.3).to(dtype)
    border = torch.tensor([[-1.0, -1, -1, 0, 1], [1, 1, 1.1, 2, 3], [-0.2, -0.5, -0.3, 4, 5]]).to(dtype).repeat(4, 1)
    clouds = [cloud, cloud[:0], torch.cat([border, cloud[40:60]]), cloud[:1] + 50]
    with ops.use_backend(backend):
        cells = ops.voxelise(clouds, SMALL, max_points, max_cells)
    expected = plain_cells(clouds, SMALL, max_points, max_cells)
    assert cells.clouds == 4 and cells.points.dtype == dtype and cells.points.shape[1:] == (max_points, 5)
    assert [tuple(place) for place in cells.places.tolist()] == [key for key, _ in expected]
    assert cells.counts.tolist() == [len(points) for _, points in expected]
    assert cells.places.dtype == cells.counts.dtype == torch.int64
    for points, count, (_, own) in zip(cells.points, cells.counts, expected, strict=True):
        assert np.array_equal(points[:count].numpy(), np.array(own)) and not points[count:].any()


def test_many_cells_equal_the_twin_in_any_layout():
    """Many cells in one hash table; columns that are not contiguous."""
    clouds = [torch.rand(4, 20000, generator=generator).T * 30, torch.rand(3000, 8, generator=generator)[:, ::2] * 8]
    for grid, *limits in ((VOXELS, 5, 16000), (PILLARS, 32, 40000), (PILLARS, 2, 10)):
        assert equal(ops.voxelise(clouds, grid, *limits), reference.voxelise(clouds, grid, *limits))


def read_scan(shared, name: str) -> torch.Tensor:
    scan = shared / f"data/KITTI_object/training/velodyne_reduced/{name}.bin"
    return torch.from_numpy(np.fromfile(scan, np.float32).reshape(-1, 4))


REAL = [("000000", 3384, 76, 16825), ("000008", 3945, 56, 13092), ("000010", 5569, 5, 13102)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "pillars", "full", "voxels"), REAL)
def test_cells_of_real_frames(shared, name, pillars, full, voxels, backend):
    """lidar_detection.md, 13.2. Many points of KITTI lie on borders of cells: float64 would count differently."""
    cloud = read_scan(shared, name)
    with ops.use_backend(backend):
        cells = ops.voxelise([cloud], PILLARS, 32, 40000)
        assert (len(cells.counts), (cells.counts == 32).sum().item()) == (pillars, full)
        assert len(ops.voxelise([cloud], VOXELS, 5, 40000).counts) == voxels


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("net", "name", "grid", "max_points"),
    [
        ("pointpillar", "000007", PILLARS, 32),
        ("second", "000011", VOXELS, 5),
    ],
)
def test_golden_cells(shared, net, name, grid, max_points, backend):
    """Order, counts and, for SECOND, the cap of 16000 cells."""
    with np.load(shared / f"golden/lidar/{net}.npz", allow_pickle=False) as golden, ops.use_backend(backend):
        cells = ops.voxelise([read_scan(shared, name)], grid, max_points, 16000)
        assert np.array_equal(cells.places[:, 1:].numpy(), golden["voxel_coords"])
        assert np.array_equal(cells.counts.numpy(), golden["voxel_num_points"])


PLACES = torch.tensor([[0, 0, 0, 0], [1, 0, 2, 3], [1, 0, 0, 1], [2, 0, 2, 0]])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_map_holds_the_values_at_their_places(backend, dtype):
    values = torch.arange(1, 25).view(6, 4).T.to(dtype)  # not contiguous
    with ops.use_backend(backend):
        found = ops.scatter_to_map(values, PLACES, 4, (3, 5))
        assert ops.scatter_to_map(values[:0], PLACES[:0], 2, (3, 5)).tolist() == torch.zeros(2, 6, 3, 5).tolist()
    expected = torch.zeros(4, 6, 3, 5, dtype=dtype)
    for value, (cloud, _, y, x) in zip(values, PLACES.tolist(), strict=True):
        expected[cloud, :, y, x] = value
    assert found.dtype == dtype and torch.equal(found, expected)


def test_gradients_of_a_map():
    values = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: ops.scatter_to_map(v, PLACES, 3, (3, 5)), values)


def test_cells_of_a_cloud_return_to_their_map():
    cells = ops.voxelise([torch.rand(500, 4, generator=generator) * 2 - 1] * 2, PILLARS, 4, 100)
    found = ops.scatter_to_map(cells.points[:, 0], cells.places, 2, (496, 432))
    cloud, _, y, x = cells.places.unbind(1)
    assert (
        torch.equal(found[cloud, :, y, x], cells.points[:, 0]) and (found != 0).sum() == (cells.points[:, 0] != 0).sum()
    )


CLOUD = torch.rand(6, 4)
BAD = [
    (lambda: ops.voxelise([], SMALL, 1, 1), "voxelise: there is no cloud: give one or more"),
    (lambda: ops.voxelise([CLOUD], SMALL, 0, 1), "voxelise: max_points is 0 and max_cells 1: give 1 or more"),
    (
        lambda: ops.voxelise([CLOUD], SMALL._replace(size=(1, 0, 1)), 1, 1),
        "voxelise: a grid of (5, 4, 3) cells of (1, 0, 1) m holds nothing",
    ),
    (
        lambda: ops.voxelise([CLOUD, CLOUD * NAN], SMALL, 1, 1),
        "voxelise: clouds[1] (6, 4) holds NaN or infinite coordinates",
    ),
    (lambda: ops.voxelise([CLOUD, CLOUD[:, :3]], SMALL, 1, 1), "voxelise: clouds[1] has 3 columns and clouds[0] 4"),
    (
        lambda: ops.voxelise([CLOUD.long()], SMALL, 1, 1),
        "voxelise: clouds[0] must be floating (N, 3 or more), got torch.int64 of shape (6, 4)",
    ),
    (
        lambda: ops.voxelise([CLOUD, CLOUD.double()], SMALL, 1, 1),
        "voxelise: clouds[0] (6, 4) is torch.float32 but clouds[1] (6, 4) torch.float64: convert one",
    ),
    (
        lambda: ops.scatter_to_map(CLOUD[:3], PLACES, 3, (3, 5)),
        "scatter_to_map: values must be (P, C) and places (P, 4) int64, got values (3, 4), places (4, 4) torch.int64",
    ),
    (
        lambda: ops.scatter_to_map(CLOUD[:4], PLACES, 2, (3, 5)),
        "scatter_to_map: a place lies outside of 2 maps of 3 x 5 cells",
    ),
    (
        lambda: ops.scatter_to_map(CLOUD[:4], PLACES - 1, 3, (3, 5)),
        "scatter_to_map: a place lies outside of 3 maps of 3 x 5 cells",
    ),
    (
        lambda: ops.scatter_to_map(CLOUD[:4], PLACES[[0, 1, 2, 1]], 3, (3, 5)),
        "scatter_to_map: two cells have the same cloud, y and x: the map takes one cell a place",
    ),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("call", "message"), BAD)
def test_wrong_arguments(call, message, backend):
    with ops.use_backend(backend), pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message


def test_every_operation_has_a_twin_of_the_same_signature():
    for name in ("voxelise", "scatter_to_map"):
        assert inspect.signature(getattr(ops, name)) == inspect.signature(getattr(reference, name))
