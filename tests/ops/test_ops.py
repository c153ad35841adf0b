"""Every point operation against its readable twin in float64, forward and backward, and against a second oracle."""

import inspect
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from lib import ops
from lib.ops import InputError, reference
from lib.ops.cpu.buckets import bucket_clouds
from tests.runs import ROOT

generator = torch.Generator().manual_seed(0)


def uniform_cloud(batch: int, points: int) -> torch.Tensor:
    return torch.rand(batch, points, 3, generator=generator, dtype=torch.float64) * 10


def grid_cloud(batch: int, points: int) -> torch.Tensor:
    """Integer coordinates in a small box: exact ties everywhere, and duplicates."""
    return torch.randint(0, 5, (batch, points, 3), generator=generator).double()


def one_point_cloud(batch: int, points: int) -> torch.Tensor:
    return torch.ones(batch, points, 3, dtype=torch.float64)


CLOUDS = [uniform_cloud, grid_cloud, one_point_cloud]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


DRAWS = [(1, 1), (2, 1), (2, 2), (31, 2), (31, 31), (33, 31), (300, 31), (300, 300)]  # points, samples


@pytest.mark.parametrize(("make", "draw"), [*product(CLOUDS, DRAWS)])
def test_sampling_equals_the_twin(make, draw):
    points, count = draw
    xyz = make(2, points)
    assert torch.equal(ops.furthest_point_sample(xyz, count), reference.furthest_point_sample(xyz, count))


@pytest.mark.parametrize("make", [uniform_cloud, grid_cloud])
def test_sampling_is_nested(make):
    xyz = make(1, 400).unique(dim=1)  # nestedness needs distinct points
    xyz = xyz[:, torch.randperm(xyz.shape[1], generator=generator)]
    picks = ops.furthest_point_sample(xyz, 60)
    again = ops.furthest_point_sample(ops.gather(xyz, picks), 20)
    assert torch.equal(again[0], torch.arange(20))


DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize(("make", "dtype", "k"), [*product(CLOUDS, DTYPES, [1, 3, 9, 16, 32, 70])])
def test_knn_equals_the_twin(make, dtype, k):
    query, support = make(2, 150).to(dtype), make(2, 70).to(dtype)
    assert torch.equal(ops.knn(query, support, k), reference.knn(query, support, k))


def lumpy_cloud(points: int) -> torch.Tensor:
    """Points of very uneven density: a dense lump, a wide spread, copies of a single point, a few far away."""
    parts = [
        torch.randn(points // 2, 3, generator=generator) * 0.01,
        torch.rand(points // 4, 3, generator=generator) * 30,
        torch.full((points // 5, 3), 0.25),
    ]
    parts.append(torch.randn(points - sum(map(len, parts)), 3, generator=generator) * 1e4)
    return torch.cat(parts)[torch.randperm(points, generator=generator)][None]


@pytest.mark.parametrize("k", [1, 3, 16, 32, 100])
def test_knn_of_many_points(k):
    """Many boxes of points, of all widths, and more equal distances than there is room for candidates."""
    query, support = lumpy_cloud(700), lumpy_cloud(1501)
    assert torch.equal(ops.knn(query, support, k), reference.knn(query, support, k))
    assert torch.equal(ops.knn(support, support, k), reference.knn(support, support, k))


def test_sampling_of_many_points():
    xyz = torch.cat([lumpy_cloud(1501), lumpy_cloud(1501), grid_cloud(1, 1501).float()])
    assert torch.equal(ops.furthest_point_sample(xyz, 1300), reference.furthest_point_sample(xyz, 1300))


@pytest.mark.parametrize("points", [1, 15, 16, 17, 333])
def test_boxes_hold_every_point_once(points):
    cloud = lumpy_cloud(max(points, 20))[0, :points].numpy()
    boxes = bucket_clouds([cloud], 16)[0]
    assert np.array_equal(np.sort(boxes.order), np.arange(-(-points // 16) * 16))
    inside = boxes.points.transpose(0, 2, 1).reshape(-1, 3)[:points]
    assert np.array_equal(inside, cloud[boxes.order[:points]])
    assert (np.repeat(boxes.low.T, 16, axis=0)[:points] <= inside).all()
    assert (np.repeat(boxes.high.T, 16, axis=0)[:points] >= inside).all()


def test_several_searches_at_once_are_those_one_by_one():
    few, many, none = uniform_cloud(2, 40), lumpy_cloud(700).float().expand(2, -1, -1), uniform_cloud(2, 0)
    searches = [(many, many, 9), (few, few, 40), (few, few, 3), (none, few, 1), (many[:1], many[:1].clone(), 70)]
    for found, search in zip(ops.knn_each(*searches), searches, strict=True):
        assert torch.equal(found, reference.knn(*search))
    assert ops.knn_each() == []
    with pytest.raises(ops.InputError, match=r"^knn: support \(2, 40, 3\) holds NaN"):
        ops.knn_each((few, few, 1), (few, few * float("nan"), 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbour_offsets_in_and_out_of_autograd(dtype):
    query, support = uniform_cloud(2, 30).to(dtype), uniform_cloud(2, 50).to(dtype)
    index = torch.randint(0, 50, (2, 30, 4), generator=generator)
    expected = ops.gather(support, index) - query[:, :, None]
    assert torch.equal(ops.neighbour_offsets(query, support, index), expected)
    with torch.no_grad():
        assert torch.equal(ops.neighbour_offsets(query, support, index), expected)
        assert ops.neighbour_offsets(query[:, :0], support, index[:, :0]).shape == (2, 0, 4, 3)
    clouds = [cloud[:, :8].double().requires_grad_() for cloud in (query, support)]
    assert torch.autograd.gradcheck(lambda *pair: ops.neighbour_offsets(*pair, index[:, :8] % 8), clouds)


def test_a_cloud_that_was_changed_in_place_is_searched_anew():
    query, support = uniform_cloud(1, 200), uniform_cloud(1, 300)
    ops.knn(query, support, 5)
    support[0, 150:] += 3
    assert torch.equal(ops.knn(query, support, 5), reference.knn(query, support, 5))


def test_knn_without_wide_vectors(tmp_path):
    """The way of processors without AVX-512, whatever this one has."""
    code = (
        "import torch\nfrom lib import ops\nxyz = torch.rand(1, 700, 3)\nindex = ops.knn(xyz, xyz, 9)\n"
        "with ops.use_backend('reference'): print(torch.equal(index, ops.knn(xyz, xyz, 9)))"
    )
    plain = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=plain, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "True\n", done.stderr


def test_knn_distances_equal_scipy():
    spatial = pytest.importorskip("scipy.spatial")  # not at the top: the tests on a GPU take cases from this file
    query, support = uniform_cloud(1, 200), uniform_cloud(1, 500)
    index = ops.knn(query, support, 9)
    distance = (ops.gather(support, index) - query[:, :, None]).norm(dim=-1)
    expected, _ = spatial.cKDTree(support[0].numpy()).query(query[0].numpy(), 9)
    np.testing.assert_allclose(distance[0].numpy(), expected, rtol=1e-12)


def test_knn_with_coordinates_far_from_the_origin():
    """Differences first: the expanded square would lose these distances to cancellation."""
    query, support = grid_cloud(1, 100).float() * 2**-8 + 4096, grid_cloud(1, 100).float() * 2**-8 + 4096
    assert torch.equal(ops.knn(query, support, 5), reference.knn(query - 4096, support - 4096, 5))


@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1.0, 1e18, 1e160])
def test_knn_of_distances_that_float32_cannot_tell_apart(scale):
    """Points on spheres round the queries, but for float64's last bits; far from the origin; of all scales."""
    direction = torch.nn.functional.normalize(torch.randn(1, 900, 3, generator=generator, dtype=torch.float64), dim=2)
    support = scale * torch.cat([direction * radius for radius in (1, 1 + 1e-15, 1 + 1e-9, 1.5)], 1)
    query = scale * 1e-8 * torch.randn(1, 300, 3, generator=generator, dtype=torch.float64)
    for offset in (0, 4096 * scale):
        q, s = query + offset, support + offset
        for k in (3, 32):
            assert torch.equal(ops.knn(q, s, k), reference.knn(q, s, k))
            assert torch.equal(ops.knn(s, s, k), reference.knn(s, s, k))


def test_no_queries():
    assert ops.knn(uniform_cloud(2, 0), uniform_cloud(2, 5), 3).shape == (2, 0, 3)
    with ops.use_backend("reference"):
        assert ops.knn(uniform_cloud(2, 0), uniform_cloud(2, 5), 3).shape == (2, 0, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_that_are_not_contiguous(dtype):
    xyz = uniform_cloud(2, 64).to(dtype)
    strided = xyz.transpose(1, 2).contiguous().transpose(1, 2)
    features = normal(2, 5, 64).to(dtype).transpose(1, 2)
    assert not strided.is_contiguous() and not features.is_contiguous()
    assert torch.equal(ops.furthest_point_sample(strided, 9), ops.furthest_point_sample(xyz, 9))
    index = ops.knn(strided, strided, 4)
    assert torch.equal(index, ops.knn(xyz, xyz, 4))
    turned = index.transpose(1, 2).contiguous().transpose(1, 2)
    weights = ops.inverse_distance_weights(strided, strided, turned)
    expected = ops.weighted_sum(features.contiguous(), index, weights.contiguous())
    assert torch.equal(ops.weighted_sum(features, turned, weights), expected)


def neighbourhood(make) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query, support = make(2, 13), make(2, 11)
    return query, support, reference.knn(query, support, 4)


def weight_net_layers() -> list[torch.Tensor]:
    """Weight and bias of 3 -> 8 -> 8 -> 16."""
    return [normal(8, 3), normal(8), normal(8, 8), normal(8), normal(16, 8), normal(16)]


def cases(make) -> dict:
    """op name -> (differentiable inputs, function of them)"""
    return cases_of(*neighbourhood(make))


def cases_of(query: torch.Tensor, support: torch.Tensor, index: torch.Tensor) -> dict:
    """The same between any points: query (2, N, 3), support (2, M, 3), index (2, N, K) into M."""
    (_, n, k), m = index.shape, support.shape[1]
    return {
        "gather": ([normal(2, m, 6)], lambda v, op: op.gather(v, index.to(v.device))),
        "inverse_distance_weights": (
            [query, support],
            lambda q, s, op: op.inverse_distance_weights(q, s, index.to(q.device)),
        ),
        "weighted_sum": (
            [normal(2, m, 6), normal(2, n, k)],
            lambda v, w, op: op.weighted_sum(v, index.to(v.device), w),
        ),
        "pointconv_aggregate": (
            [normal(2, n, k, 3), normal(2, m, 6), normal(2, n, k, 16)],
            lambda o, f, w, op: op.pointconv_aggregate(o, f, index.to(o.device), w),
        ),
        "pointconv_linear": (
            [normal(2, n, k, 3), normal(2, m, 6), normal(2, n, k, 16), normal(5, 9 * 16), normal(5)],
            lambda o, f, w, m, b, op: op.pointconv_linear(o, f, index.to(o.device), w, m, b),
        ),
        "weight_net": (
            [normal(2, n, k, 3), normal(8, 3), normal(8), normal(6, 8), normal(6), normal(16, 6), normal(16)],
            lambda o, *layers: layers[-1].weight_net(o, *layers[:-1]),
        ),
        "pointconv_net": (
            [normal(2, n, k, 3), normal(2, m, 6), *weight_net_layers(), normal(5, 9 * 16), normal(5)],
            lambda o, f, *rest: rest[-1].pointconv_net(o, f, index.to(o.device), rest[:6], *rest[6:8]),
        ),
        "flow_embedding": (
            [normal(2, n, 6), normal(2, m, 6), normal(7, 6), normal(7)],
            lambda q, s, w, b, op: op.flow_embedding(q, s, index.to(q.device), w, b),
        ),
    }


@pytest.mark.parametrize("name", list(cases(uniform_cloud)))
def test_gradients_by_finite_differences(name):
    inputs, function = cases(uniform_cloud)[name]
    assert gradcheck(lambda *a: function(*a, ops), [i.requires_grad_() for i in inputs])


@pytest.mark.parametrize(("name", "make"), [*product(list(cases(uniform_cloud)), CLOUDS)])
def test_values_and_gradients_equal_the_twin(name, make):
    inputs, function = cases(make)[name]
    results = []
    for op in (ops, reference):
        leaves = [i.detach().clone().requires_grad_() for i in inputs]
        out = function(*leaves, op)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for fast, slow in zip(*results, strict=True):
        assert fast.isfinite().all()
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", list(cases(uniform_cloud)))
def test_float32_is_near_the_float64_twin(name):
    inputs, function = cases(uniform_cloud)[name]
    fast = function(*(i.float() for i in inputs), ops)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast.double(), function(*inputs, reference), rtol=1e-4, atol=1e-4)


def test_a_tie_of_the_maximum_gives_its_gradient_to_the_first_neighbour():
    index = torch.tensor([[[1, 0, 2]]])
    for op in (ops, reference):
        support = torch.ones(1, 3, 2, dtype=torch.float64, requires_grad=True)  # three equal neighbours
        query = torch.zeros(1, 1, 2, dtype=torch.float64)
        weight, bias = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        op.flow_embedding(query, support, index, weight, bias).sum().backward()
        assert support.grad[0].tolist() == [[0, 0], [1, 1], [0, 0]]


def test_coinciding_points_take_all_the_weight():
    query = torch.tensor([[[1.0, 2, 3]]])
    support = torch.tensor([[[1.0, 2, 3], [1, 2, 4], [5, 2, 3]]])
    weights = ops.inverse_distance_weights(query, support, torch.tensor([[[0, 1, 2]]]))
    torch.testing.assert_close(weights, torch.tensor([[[1.0, 0, 0]]]))


def test_training_repeats_bit_for_bit():
    index = torch.randint(0, 50, (1, 4000, 32), generator=generator)
    grads = []
    for _ in range(2):
        torch.manual_seed(1)
        query, support = torch.randn(1, 4000, 16, requires_grad=True), torch.randn(1, 50, 16, requires_grad=True)
        weight = torch.randn(16, 16, requires_grad=True)
        ops.flow_embedding(query, support, index, weight, torch.zeros(16)).square().sum().backward()
        gathered = ops.gather(support, index).square().sum()
        gathered.backward()
        grads.append([query.grad, support.grad, weight.grad])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_autocast_keeps_sums_in_full_precision():
    query, support, index = neighbourhood(uniform_cloud)
    features = normal(2, 11, 6)
    with torch.autocast("cpu", torch.bfloat16):
        out = ops.weighted_sum(features.bfloat16(), index, torch.full((2, 13, 4), 0.25))
    assert out.dtype == torch.float32


def test_autocast_keeps_offsets_in_full_precision():
    expected = ops.weight_net(OFFSET, *NET)
    for backend in ("fast", "reference"):
        with torch.autocast("cpu", torch.bfloat16), ops.use_backend(backend):
            torch.testing.assert_close(ops.weight_net(OFFSET, *NET), expected)


def test_every_public_operation_has_a_twin_of_the_same_signature():
    for name in (
        "furthest_point_sample",
        "knn",
        "gather",
        "inverse_distance_weights",
        "weighted_sum",
        "pointconv_aggregate",
        "flow_embedding",
        "pointconv_linear",
        "pointconv_net",
        "weight_net",
    ):
        assert inspect.signature(getattr(ops, name)) == inspect.signature(getattr(reference, name))


XYZ = torch.rand(2, 8, 3)
INDEX = torch.zeros(2, 8, 4, dtype=torch.int64)
OFFSET, MATRIX, NET = torch.rand(2, 8, 4, 3), torch.rand(5, 96), [layer.float() for layer in weight_net_layers()]
BAD = [
    (lambda: ops.knn(XYZ, XYZ[:, :5], 6), "knn: 6 neighbours asked of 5 points: query (2, 8, 3), support (2, 5, 3)"),
    (lambda: ops.knn(XYZ, XYZ, 0), "knn: 0 neighbours asked of 8 points: query (2, 8, 3), support (2, 8, 3)"),
    (lambda: ops.knn(XYZ, XYZ[:, :0], 1), "knn: 1 neighbours asked of 0 points: query (2, 8, 3), support (2, 0, 3)"),
    (lambda: ops.knn(XYZ[0], XYZ, 1), "knn: query must be (B, N, 3), got (8, 3)"),
    (
        lambda: ops.knn(XYZ, XYZ.double(), 1),
        "knn: query (2, 8, 3) is torch.float32 but support (2, 8, 3) torch.float64: convert one",
    ),
    (lambda: ops.knn(XYZ, XYZ[:1], 1), "knn: the batch sizes differ: query (2, 8, 3), support (1, 8, 3)"),
    (lambda: ops.knn(XYZ.long(), XYZ.long(), 1), "knn: query must hold floating-point coordinates, got torch.int64"),
    (lambda: ops.knn(XYZ * float("nan"), XYZ, 1), "knn: query (2, 8, 3) holds NaN or infinite coordinates"),
    (lambda: ops.knn(XYZ, XYZ / 0, 1), "knn: support (2, 8, 3) holds NaN or infinite coordinates"),
    (
        lambda: ops.furthest_point_sample(XYZ, 9),
        "furthest_point_sample: cannot draw 9 points from clouds of shape (2, 8, 3)",
    ),
    (
        lambda: ops.furthest_point_sample(XYZ[:, :0], 1),
        "furthest_point_sample: cannot draw 1 points from clouds of shape (2, 0, 3)",
    ),
    (
        lambda: ops.weighted_sum(XYZ, INDEX + 8, torch.rand(2, 8, 4)),
        "weighted_sum: index (2, 8, 4) holds 8 to 8, and the points of a cloud are 0 to 7",
    ),
    (
        lambda: ops.flow_embedding(XYZ, XYZ, INDEX - 1, torch.eye(3), torch.zeros(3)),
        "flow_embedding: index (2, 8, 4) holds -1 to -1, and the points of a cloud are 0 to 7",
    ),
    (
        lambda: ops.flow_embedding(XYZ, XYZ, INDEX[:, :, :0], torch.eye(3), torch.zeros(3)),
        "flow_embedding: query (2, 8, 3) must be (B, N, C), support (2, 8, 3) (B, M, C), index (2, 8, 0) (B, N, K), "
        "weight (3, 3) (D, C), bias (3,) (D), K > 0",
    ),
    (
        lambda: torch.no_grad()(ops.inverse_distance_weights)(XYZ, XYZ[:, :4], INDEX + 4),
        "inverse_distance_weights: index (2, 8, 4) holds 4 to 4, and the points of a cloud are 0 to 3",
    ),
    (
        lambda: ops.inverse_distance_weights(XYZ[:, :4], XYZ, INDEX),
        "inverse_distance_weights: index (2, 8, 4) must be (B, N, K) for query (2, 4, 3)",
    ),
    (
        lambda: ops.pointconv_aggregate(torch.rand(2, 8, 4, 3), XYZ, INDEX + 8, torch.rand(2, 8, 4, 16)),
        "pointconv_aggregate: index (2, 8, 4) holds 8 to 8, and the points of a cloud are 0 to 7",
    ),
    (
        lambda: ops.linear(XYZ, torch.eye(4), torch.zeros(4)),
        "linear: x (2, 8, 3) must be (..., C), weight (4, 4) (D, C), bias (4,) (D)",
    ),
    (
        lambda: ops.add_linear(XYZ, XYZ[:, :7], torch.eye(3), torch.zeros(3)),
        "add_linear: values (2, 8, 3) must be (B, N, C), points (2, 7, 3) (B, N, 3), weight (3, 3) (C, 3), "
        "bias (3,) (C)",
    ),
    (
        lambda: ops.neighbour_offsets(XYZ[:, :5], XYZ, INDEX),
        "neighbour_offsets: index (2, 8, 4) must be (B, N, K) for query (2, 5, 3)",
    ),
    (lambda: ops.gather(XYZ[0], INDEX), "gather: values must be (B, M, C), got (8, 3)"),
    (
        lambda: ops.gather(XYZ, INDEX + 8),
        "gather: index (2, 32, 1) holds 8 to 8, and the points of a cloud are 0 to 7",
    ),
    (
        lambda: ops.gather(XYZ, INDEX.int()),
        "gather: index must be int64 of 2 or more dimensions, got torch.int32 of shape (2, 8, 4)",
    ),
    (
        lambda: ops.gather(XYZ, INDEX[:, 0, 0]),
        "gather: index must be int64 of 2 or more dimensions, got torch.int64 of shape (2,)",
    ),
    (lambda: ops.gather(XYZ[:, :0], INDEX), "gather: index (2, 8, 4) points into empty clouds: (2, 0, 3)"),
    (
        lambda: ops.inverse_distance_weights(XYZ, XYZ[:, :0], INDEX),
        "inverse_distance_weights: index (2, 8, 4) points into empty clouds: (2, 0, 3)",
    ),
    (
        lambda: ops.weighted_sum(XYZ, INDEX, torch.rand(2, 8, 3)),
        "weighted_sum: values (2, 8, 3) must be (B, M, C); index (2, 8, 4) and weights (2, 8, 3) both (B, N, K)",
    ),
    (
        lambda: ops.pointconv_aggregate(XYZ, XYZ, INDEX, XYZ),
        "pointconv_aggregate: offset (2, 8, 3) must be (B, N, K, 3), features (2, 8, 3) (B, M, C), index (2, 8, 4) "
        "(B, N, K), weights (2, 8, 3) (B, N, K, 16)",
    ),
    (
        lambda: ops.flow_embedding(XYZ, XYZ, INDEX, torch.eye(4), torch.zeros(4)),
        "flow_embedding: query (2, 8, 3) must be (B, N, C), support (2, 8, 3) (B, M, C), index (2, 8, 4) (B, N, K), "
        "weight (4, 4) (D, C), bias (4,) (D), K > 0",
    ),
    (
        lambda: ops.pointconv_linear(XYZ, XYZ, INDEX, XYZ, torch.eye(96), torch.zeros(9)),
        "pointconv_linear: matrix (96, 96) must be (D, 96) for features (2, 8, 3), and bias (9,) (D)",
    ),
    (
        lambda: ops.weight_net(XYZ, torch.eye(3), torch.zeros(3), torch.eye(4), torch.zeros(4)),
        "weight_net: offset (2, 8, 3) needs three times weight (D, inputs) and bias (D), got (3, 3), (3,), (4, 4), "
        "(4,)",
    ),
    (
        lambda: ops.weight_net(XYZ, NET[0].double(), *NET[1:]),
        "weight_net: offset (2, 8, 3) is torch.float32 but weight1 (8, 3) torch.float64: convert one",
    ),
    (
        lambda: ops.pointconv_net(OFFSET, XYZ, INDEX, NET[:4], MATRIX, torch.rand(5)),
        "pointconv_net: offset (2, 8, 4, 3) must be (B, N, K, 3), features (2, 8, 3) (B, M, C), index (2, 8, 4) "
        "(B, N, K), layers (8, 3), (8,), (8, 8), (8,): (8, 3), (8,), (8, 8), (8,), (16, 8), (16,)",
    ),
    (
        lambda: ops.pointconv_net(OFFSET, XYZ, INDEX, NET, MATRIX[:, 1:], torch.rand(5)),
        "pointconv_net: matrix (5, 95) must be (D, 96) for features (2, 8, 3), and bias (5,) (D)",
    ),
    (
        lambda: ops.pointconv_net(OFFSET.double(), XYZ, INDEX, NET, MATRIX, torch.rand(5)),
        "pointconv_net: features (2, 8, 3) is torch.float32 but offset (2, 8, 4, 3) torch.float64: convert one",
    ),
    (lambda: ops.set_backend("quick"), "ops: unknown backend 'quick': choose one of auto, fast, cuda, reference"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_wrong_arguments(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message


AWAY = XYZ.to("meta")  # a device that every machine has
ELSEWHERE = [
    (lambda: ops.knn(XYZ, AWAY, 1), "knn: query (2, 8, 3) is on cpu but support (2, 8, 3) on meta: move one"),
    (lambda: ops.gather(AWAY, INDEX), "gather: index (2, 8, 4) on cpu does not go with (2, 8, 3) on meta"),
    (
        lambda: ops.inverse_distance_weights(XYZ, AWAY, INDEX),
        "inverse_distance_weights: query (2, 8, 3) is on cpu but support (2, 8, 3) on meta: move one",
    ),
    (
        lambda: ops.weighted_sum(XYZ, INDEX, torch.rand(2, 8, 4, device="meta")),
        "weighted_sum: values (2, 8, 3) is on cpu but weights (2, 8, 4) on meta: move one",
    ),
    (
        lambda: ops.pointconv_aggregate(torch.rand(2, 8, 4, 3), XYZ, INDEX, torch.rand(2, 8, 4, 16, device="meta")),
        "pointconv_aggregate: features (2, 8, 3) is on cpu but weights (2, 8, 4, 16) on meta: move one",
    ),
    (
        lambda: ops.weight_net(XYZ, *NET[:3], torch.rand(8, device="meta"), *NET[4:]),
        "weight_net: offset (2, 8, 3) is on cpu but bias2 (8,) on meta: move one",
    ),
    (
        lambda: ops.weight_net(AWAY, *NET),
        "weight_net: offset (2, 8, 3) is on meta but weight1 (8, 3) on cpu: move one",
    ),
    (
        lambda: ops.pointconv_net(OFFSET, XYZ, INDEX, [*NET[:5], torch.rand(16, device="meta")], MATRIX, torch.rand(5)),
        "pointconv_net: features (2, 8, 3) is on cpu but bias3 (16,) on meta: move one",
    ),
    (
        lambda: ops.pointconv_net(OFFSET, XYZ, INDEX, NET, MATRIX, torch.rand(5, device="meta")),
        "pointconv_net: features (2, 8, 3) is on cpu but bias (5,) on meta: move one",
    ),
    (
        lambda: ops.pointconv_linear(
            torch.rand(2, 8, 4, 3), XYZ, INDEX, torch.rand(2, 8, 4, 16), torch.rand(5, 96, device="meta"), torch.rand(5)
        ),
        "pointconv_linear: features (2, 8, 3) is on cpu but matrix (5, 96) on meta: move one",
    ),
    (
        lambda: ops.flow_embedding(XYZ, XYZ, INDEX, torch.eye(3, device="meta"), torch.zeros(3)),
        "flow_embedding: query (2, 8, 3) is on cpu but weight (3, 3) on meta: move one",
    ),
    (
        lambda: ops.linear(XYZ, torch.eye(3), torch.zeros(3, device="meta")),
        "linear: x (2, 8, 3) is on cpu but bias (3,) on meta: move one",
    ),
    (
        lambda: ops.add_linear(XYZ, AWAY, torch.eye(3), torch.zeros(3)),
        "add_linear: values (2, 8, 3) is on cpu but points (2, 8, 3) on meta: move one",
    ),
]


@pytest.mark.parametrize("backend", ["fast", "reference"])
@pytest.mark.parametrize(("call", "message"), ELSEWHERE)
def test_tensors_on_different_devices(call, message, backend):
    with ops.use_backend(backend), pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message


def test_the_twins_run_without_numba():
    code = (
        "import sys; sys.modules['numba'] = None\nimport torch\nfrom lib import ops\nxyz = torch.rand(1, 40, 3)\n"
        "with ops.use_backend('reference'): print(ops.furthest_point_sample(xyz, 3).shape)\n"
        "ops.furthest_point_sample(xyz, 3)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "torch.Size([1, 3])\n"
    assert "InputError: ops: the compiled CPU path needs numba: pip install numba, or choose --ops reference" in (
        done.stderr
    )
