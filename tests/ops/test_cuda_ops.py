"""The CUDA kernels on a GPU: against the readable twins in float64, and everything that a CPU cannot show.

test_ops.py, test_golden.py and test_cuda_on_host.py hold the rest: small cases, golden values, the kernels' logic.
"""

import subprocess
import sys
import threading
from contextlib import closing
from itertools import product

import pytest
import torch

from benchmarks.workloads import SERVED, Workload, distillation
from lib import ops
from lib.datasets.scene_flow import open_scenes
from lib.datasets.scene_flow.pairs import FlowBatch, FlowPairs, collate
from lib.ops import InputError, reference, reference_boxes
from lib.ops.cuda import sampling
from lib.training.loading import load_batches
from models import build_model
from models.scene_flow.cuda_graph import GraphedNetwork
from tests.ops.test_boxes import BOXES, any_boxes
from tests.ops.test_cuda_on_host import extreme_cloud, far_cloud, results, wide_cases
from tests.ops.test_ops import CLOUDS, cases, cases_of, generator, grid_cloud, uniform_cloud, weight_net_layers
from tests.ops.test_voxels import PILLARS, VOXELS
from tests.runs import ROOT
from tests.scene_flow.test_models import assert_autocast_leaves_coordinates

pytestmark = pytest.mark.cuda

ODD_SIZES = (1, 31, 33, 8191, 131072)


@pytest.mark.parametrize(("make", "points", "dtype"), [*product(CLOUDS, ODD_SIZES, [torch.float32, torch.float64])])
def test_sampling(make, points, dtype):
    xyz = make(2, points).to("cuda", dtype)
    count = min(points, 2048 if points == 8191 else 200)
    assert torch.equal(ops.furthest_point_sample(xyz, count), reference.furthest_point_sample(xyz, count))


@pytest.mark.parametrize("clouds", [1, 16, 40])
@pytest.mark.parametrize("max_threads", [512, 32], ids=["registers", "memory"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sampling_in_clusters_and_from_memory(monkeypatch, clouds, max_threads, dtype):
    monkeypatch.setattr(sampling, "MAX_THREADS", max_threads)
    xyz = grid_cloud(clouds, 8192).to("cuda", dtype)
    assert torch.equal(ops.furthest_point_sample(xyz, 150), reference.furthest_point_sample(xyz, 150))


KNN_CLOUDS = [*CLOUDS, extreme_cloud, far_cloud]


@pytest.mark.parametrize(("make", "points", "dtype"), [*product(KNN_CLOUDS, ODD_SIZES, [torch.float32, torch.float64])])
def test_knn(make, points, dtype):
    support = make(2, points).to("cuda", dtype)
    for queries, k in ((9000 if points < 9000 else 300, 32), (33, 9), (1, 3)):
        query, wanted = make(2, queries).to("cuda", dtype), min(k, points)
        assert torch.equal(ops.knn(query, support, wanted), reference.knn(query, support, wanted)), (queries, k)


def test_knn_of_a_cloud_with_itself_and_of_more_than_32():
    xyz = uniform_cloud(2, 5000).cuda().float()
    assert torch.equal(ops.knn(xyz, xyz, 9), reference.knn(xyz, xyz, 9))
    assert torch.equal(ops.knn(xyz, xyz, 40), reference.knn(xyz, xyz, 40))


def cuda_results(inputs, function, op) -> list[torch.Tensor]:
    return [value.cpu() for value in results([i.cuda() for i in inputs], function, op)]


@pytest.mark.parametrize(("name", "make"), [*product(list(cases(uniform_cloud)), CLOUDS)])
def test_values_and_gradients(name, make):
    inputs, function = cases(make)[name]
    for ours, twin in zip(cuda_results(inputs, function, ops), results(inputs, function, reference), strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", list(cases(uniform_cloud)))
def test_gradients_by_finite_differences(name):
    inputs, function = cases(uniform_cloud)[name]
    assert torch.autograd.gradcheck(lambda *a: function(*a, ops), [i.cuda().requires_grad_() for i in inputs])


@pytest.mark.parametrize("name", list(wide_cases(1, 1, 1)))
@pytest.mark.parametrize("sizes", [(1, 1, 1), (9, 64, 32), (32, 67, 65), (37, 131, 33), (32, 256, 256)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float64, 1e-12)]
)
def test_sizes_beyond_a_tile(name, sizes, dtype, tolerance):
    inputs, function = wide_cases(*sizes)[name]
    inputs = [i.to(dtype) for i in inputs]
    out = cuda_results(inputs, function, ops)
    assert all(o.dtype == dtype for o in out)
    for ours, twin in zip(out, results([i.double() for i in inputs], function, reference), strict=True):
        assert (ours.double() - twin).norm() <= 3 * tolerance * twin.norm() + 1e-12


@pytest.mark.parametrize("points", ODD_SIZES)
@pytest.mark.parametrize("name", list(cases(uniform_cloud)))
def test_odd_sizes(name, points):
    """Edges to points anywhere, half of the queries' first ones to the same point.

    float32: values alone. Among so many maxima some are so close that rounding decides which takes the gradient.
    """
    query, support = uniform_cloud(2, points), uniform_cloud(2, points)
    index = torch.randint(0, points, (2, points, 3), generator=generator)
    index[:, ::2, 0] = points // 2
    inputs, function = cases_of(query, support, index)[name]
    inputs = [i.float().double() for i in inputs]
    twin = results(inputs, function, reference)
    for ours, expected in zip(cuda_results(inputs, function, ops), twin, strict=True):
        assert (ours - expected).norm() <= 1e-9 * expected.norm() + 1e-12
    single = function(*(i.cuda().float() for i in inputs), ops)
    assert single.dtype == torch.float32
    assert (single.cpu().double() - twin[0]).norm() <= 3e-5 * twin[0].norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", BOXES)
def test_boxes(make, dtype):
    """The bits of the twin on the GPU; near the CPU's, whose sines may differ in the last bit."""
    boxes1, boxes2 = (make(count).to("cuda", dtype) for count in (700, 300))
    for name in ("bev_iou", "box_iou"):
        found = getattr(ops, name)(boxes1, boxes2)
        assert torch.equal(found, getattr(reference_boxes, name)(boxes1, boxes2))
        torch.testing.assert_close(found.cpu(), getattr(ops, name)(boxes1.cpu(), boxes2.cpu()), rtol=0, atol=1e-12)
    scores = torch.randint(0, 40, (700,), generator=generator).to("cuda", dtype)
    for threshold, limit in product((0, 0.01, 0.3, 1), (None, 20)):
        expected = reference_boxes.rotated_nms(boxes1, scores, threshold, limit)
        assert torch.equal(ops.rotated_nms(boxes1, scores, threshold, limit), expected)


def test_nms_of_many_boxes():
    boxes, scores = any_boxes(20000).float(), torch.rand(20000, generator=generator)
    boxes[:, :2] *= 20
    expected = ops.rotated_nms(boxes, scores, 0.3)
    assert torch.equal(ops.rotated_nms(boxes.cuda(), scores.cuda(), 0.3).cpu(), expected)


@pytest.mark.parametrize(("grid", "limits"), [(PILLARS, (32, 16000)), (PILLARS, (2, 500)), (VOXELS, (5, 40000))])
def test_cells_points_and_maps_are_those_of_a_cpu(grid, limits):
    """Coordinates in whole millimetres: many points lie on the borders of cells and on the faces of boxes."""
    clouds = [(torch.rand(points, 4, generator=generator) * 30000).round() / 1000 for points in (20000, 1, 0, 3000)]
    cells = ops.voxelise(clouds, grid, *limits)
    found = ops.voxelise([cloud.cuda() for cloud in clouds], grid, *limits)
    assert found.clouds == 4 and all(torch.equal(a.cpu(), b) for a, b in zip(found[:3], cells[:3], strict=True))
    boxes = torch.tensor([[15.0, 15, 2, 20, 10, 8, 0], [5, 5, 0, 2, 2, 2, 0]])
    inside = ops.points_in_boxes(clouds[0].cuda(), boxes.cuda())
    assert torch.equal(inside.cpu(), ops.points_in_boxes(clouds[0], boxes))
    if grid is PILLARS:
        values = found.points[:, 0].clone().requires_grad_()
        laid = ops.scatter_to_map(values, found.places, 4, (496, 432))
        assert torch.equal(laid.cpu(), ops.scatter_to_map(cells.points[:, 0], cells.places, 4, (496, 432)))
        laid.square().sum().backward()
        assert torch.equal(values.grad, 2 * values)


def test_more_than_2_to_the_31_gathered_values():
    values = torch.arange(4, device="cuda", dtype=torch.bfloat16).view(1, 4, 1).expand(1, 4, 1 << 10).contiguous()
    index = torch.arange(1 << 22, device="cuda").view(1, -1) % 4
    out = ops.gather(values, index)  # 2^32 values, 8 GB
    assert out.numel() == 2**32 and torch.equal(out[0, -5:, -1].float().cpu(), torch.tensor([3.0, 0, 1, 2, 3]))


def test_more_than_2_to_the_31_aggregated_values():
    """2^31 + 2^17 values of 2048 a query, and as many again of their gradient: every query is like its neighbours."""
    queries, channels = (1 << 20) + 64, 125
    offset = torch.ones(1, queries, 1, 3, device="cuda", requires_grad=True)
    features = torch.full((1, 1, channels), 2.0, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    index = torch.zeros(1, queries, 1, dtype=torch.int64, device="cuda")
    layers = [torch.zeros_like(layer, device="cuda", dtype=torch.float32) for layer in weight_net_layers()]
    layers[-1].fill_(0.5).requires_grad_()  # the last bias: every weight is 0.5
    out = torch.ops.point_ops.pointconv(offset, features, index, layers)
    assert out.numel() > 2**31 and (out[0, -1, :48] == 0.5).all() and (out[0, -1, 48:] == 1).all()
    grad = torch.zeros_like(out)
    grad[0, -1] = 1  # of the last query alone
    out.backward(grad)
    assert (features.grad == 8).all()  # 16 weights of 0.5
    assert (offset.grad[0, -1] == 8).all() and (offset.grad[0, :-1] == 0).all()
    assert (layers[-1].grad == 253).all()  # 3 x 1 + 125 x 2


def test_more_than_2_to_the_31_embedded_values():
    queries, channels = (1 << 20) + 64, 2048
    query = torch.ones(1, 1, 1, device="cuda", dtype=torch.bfloat16).expand(1, queries, 1)
    index = torch.zeros(1, queries, 1, dtype=torch.int64, device="cuda")
    matrix = torch.full((channels, 1), 2.0, device="cuda", dtype=torch.bfloat16)
    out = ops.flow_embedding(query, query[:, :1], index, matrix, torch.ones_like(matrix[:, 0]))
    assert out.numel() > 2**31 and (out[0, -1] == 5).all() and (out[0, 0] == 5).all()  # 2 (1 + 1) + 1


def test_a_thread_that_has_not_called_cuda():
    """As autograd's at the first backward: the memory comes from torch's cache, so the kernel is its first call."""
    values = uniform_cloud(1, 100).cuda()
    index = torch.arange(50, device="cuda")[None]
    expected, found = torch.ops.point_ops.gather(values, index).clone(), []
    torch.cuda.synchronize()
    thread = threading.Thread(target=lambda: found.append(torch.ops.point_ops.gather(values, index)))
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert torch.equal(found[0], expected)


@pytest.mark.parametrize("training", [False, True])
def test_bf16_autocast_leaves_coordinates_in_float32(training):
    assert_autocast_leaves_coordinates("cuda", training)


def test_features_of_16_bits_beside_coordinates_of_32():
    inputs, function = wide_cases(9, 67, 33)["pointconv_net"]
    inputs = [i.bfloat16() if i.shape == (2, 33, 67) else i.float() for i in inputs]
    with torch.autocast("cuda", torch.bfloat16):
        found = cuda_results(inputs, function, ops)
    assert [value.dtype for value in found] == [torch.bfloat16, *(i.dtype for i in inputs)]
    for ours, twin in zip(found, results([i.double() for i in inputs], function, reference), strict=True):
        assert (ours.double() - twin).norm() <= 0.02 * twin.norm()


def test_a_pointconv_keeps_no_weights_in_memory():
    """Forward and what it leaves for the backward: less than the weights of all neighbours alone."""
    batch, points, neighbours = 8, 8192, 9
    offset = torch.randn(batch, points, neighbours, 3, device="cuda", requires_grad=True)
    features = torch.randn(batch, points, 1, device="cuda", requires_grad=True)
    index = torch.randint(0, points, (batch, points, neighbours), device="cuda")
    layers = [layer.float().cuda().requires_grad_() for layer in weight_net_layers()]
    matrix, bias = torch.randn(4, 4 * 16, device="cuda", requires_grad=True), torch.zeros(4, device="cuda")
    with torch.no_grad():
        ops.pointconv_net(offset, features, index, layers, matrix, bias)  # the matrix product's own workspace stays
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = ops.pointconv_net(offset, features, index, layers, matrix, bias)
    aggregated = 4 * batch * points * (4 * 16 + 4)  # bytes of the sums and of the output
    assert torch.cuda.max_memory_allocated() - before < aggregated + 4 * index.numel() * 16 / 4
    out.sum().backward()


def train(steps: int, amp: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    net = build_model("student-tiny").cuda()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    xyz1 = torch.rand(2, 2048, 3, device="cuda") * 10
    xyz2 = xyz1 + 0.3 * torch.randn(2, 2048, 3, device="cuda")
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            flows = net(xyz1, xyz2).flows
        assert all(flow.dtype == torch.float32 for flow in flows)
        sum((flow - 0.1).square().mean() for flow in flows).backward()
        optimizer.step()
    return net.state_dict()


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bf16"])
def test_two_training_runs_agree_bit_for_bit(amp):
    first, second = train(5, amp), train(5, amp)
    assert all(torch.equal(first[name], second[name]) and first[name].isfinite().all() for name in first)


@pytest.mark.parametrize("name", SERVED)
def test_distillation_agrees_bit_for_bit(name):
    assert_distillation_repeats(name, torch.device("cuda"))


def assert_distillation_repeats(name: str, device: torch.device) -> None:
    runs = []
    for _ in range(2):
        load = Workload("student-tiny", 512, 2, device)
        step = distillation(load, load.frozen_twin("teacher"), name)
        for _ in range(2):
            step()
        runs.append(load.net.state_dict())
    for key, value in runs[0].items():
        assert torch.equal(value, runs[1][key]) and value.isfinite().all(), key


def test_batches_come_in_page_locked_memory():
    pairs = FlowPairs(open_scenes("synthetic-things", "test"), 256)
    with closing(load_batches(pairs, [[0, 1], [2]], collate, workers=1, pin=True)) as batches:
        batch = next(batches)
        assert isinstance(batch, FlowBatch) and all(cloud.is_pinned() for cloud in batch[:3])


def test_the_current_stream_is_used():
    xyz = uniform_cloud(2, 2048).cuda().float()
    expected = ops.knn(xyz, xyz.flip(1), 9)
    late, stream = torch.zeros_like(xyz), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # cycles: a launch on any other stream would see the zeros
        late.copy_(xyz)
        found = torch.ops.point_ops.knn(late, late.flip(1).contiguous(), 9)
        gathered = torch.ops.point_ops.gather(late, found.flatten(1))
    stream.synchronize()
    assert torch.equal(found, expected)
    assert torch.equal(gathered, reference.gather(xyz, expected.flatten(1)))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
def test_a_second_gpu():
    xyz = uniform_cloud(2, 3000).float()
    here = xyz.to("cuda:1")
    picks, index = ops.furthest_point_sample(here, 100), ops.knn(here, here, 9)
    assert picks.device == index.device == torch.device("cuda:1") and torch.cuda.current_device() == 0
    assert torch.equal(picks.cpu(), reference.furthest_point_sample(xyz, 100))
    assert torch.equal(index.cpu(), reference.knn(xyz, xyz, 9))


def pairs(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(uniform_cloud(1, 1024).cuda().float(), uniform_cloud(1, 1024).cuda().float()) for _ in range(count)]


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bf16"])
def test_a_graph_answers_as_the_network(amp):
    torch.manual_seed(0)
    net = build_model("student-tiny").cuda().eval()
    graphed = GraphedNetwork(net)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=amp):
        for xyz1, xyz2 in [*pairs(3), (pairs(1)[0][0], uniform_cloud(1, 700).cuda().float())]:
            expected, found = net(xyz1, xyz2), graphed(xyz1, xyz2)
            for ours, plain in zip(found.flows, expected.flows, strict=True):
                torch.testing.assert_close(ours, plain, rtol=1e-3 if amp else 1e-5, atol=1e-3 if amp else 1e-5)
            for ours, plain in zip(found.indices1[1:], expected.indices1[1:], strict=True):
                assert torch.equal(ours, plain)


def test_a_graph_with_few_distinct_points():
    torch.manual_seed(0)
    net = build_model("student-tiny").cuda().eval()
    graphed = GraphedNetwork(net)
    graphed(*pairs(1)[0])
    flat = pairs(1)[0][0][:, :9].repeat(1, 114, 1)[:, :1024]  # 9 distinct points, 256 samples
    for ours, plain in zip(graphed(flat, flat).indices1[1:], net(flat, flat).indices1[1:], strict=True):
        assert torch.equal(ours, plain)


def test_a_graph_refuses_what_the_network_refuses():
    graphed = GraphedNetwork(build_model("student-tiny").cuda())
    xyz1, xyz2 = pairs(1)[0]
    graphed(xyz1, xyz2)
    xyz2[0, 3, 1] = float("nan")
    with pytest.raises(InputError, match=r"network: xyz2 \(1, 1024, 3\) holds NaN or infinite coordinates"):
        graphed(xyz1, xyz2)


def test_compiled_by_torch():
    query, support = uniform_cloud(1, 50).cuda(), uniform_cloud(1, 60).cuda()

    def function(query, support):
        index = ops.knn(query, support, 3)
        return ops.weighted_sum(support, index, ops.inverse_distance_weights(query, support, index))

    grads = []
    for run in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        leaf = support.clone().requires_grad_()
        run(query, leaf).square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ops.knn(x * float("nan"), x, 1), r"knn: query \(2, 8, 3\) holds NaN or infinite coordinates"),
        (
            lambda x: ops.knn(x, x.cpu(), 1),
            r"knn: query \(2, 8, 3\) is on cuda:0 but support \(2, 8, 3\) on cpu: move one",
        ),
        (lambda x: ops.knn(x, x, 9), "knn: 9 neighbours asked of 8 points"),
        (lambda x: ops.gather(x, torch.zeros(2, 3, dtype=torch.int64)), "gather: index .* does not go with"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call(uniform_cloud(2, 8).cuda())


def test_an_index_outside_its_cloud_stops_the_kernel():
    """In a process of its own: nothing more runs on a GPU after it."""
    code = (
        "import torch; from lib import ops; v = torch.zeros(1, 4, 3, device='cuda'); "
        "ops.gather(v, torch.full((1, 2), 4, device='cuda')); torch.cuda.synchronize()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "CUDA error" in done.stderr


@pytest.mark.parametrize("training", [False, True])
def test_a_network_end_to_end(small_pair, training):
    torch.manual_seed(0)
    net = build_model("teacher").double().train(training)
    found = []
    for device, backend in (("cuda", "cuda"), ("cpu", "reference")):
        net.to(device).zero_grad()
        with ops.use_backend(backend):
            flows = net(*(xyz.double().to(device) for xyz in small_pair)).flows
            sum(flow.square().sum() for flow in flows).backward()
        found.append([value.detach().cpu() for value in (*flows, *(p.grad for p in net.parameters()))])
    for ours, twin in zip(*found, strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-6, atol=1e-7)
