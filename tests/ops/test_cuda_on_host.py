"""The CUDA kernels executed on a CPU, thread by thread, from the same sources and launches as on a GPU (cuda_on_host/).

What it shows: indices, arithmetic, barriers, exact ties, gradients. What only a GPU can show: memory coherence between
warps and clusters, the driver's launch, and speed.
"""

import sys
from itertools import product

import pytest
import torch

from lib import ops
from lib.ops import InputError, cuda, reference, reference_boxes
from lib.ops.cuda import launch, pointconv, program, sampling
from lib.ops.cuda.launch import Hardware
from lib.ops.cuda.sampling import sampling_launch
from models import build_model
from tests.ops.cuda_on_host.emulator import COMPILER, Emulator
from tests.ops.test_boxes import BOXES, any_boxes
from tests.ops.test_ops import CLOUDS, cases, generator, grid_cloud, normal, uniform_cloud, weight_net_layers

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is missing: the kernels cannot run on this CPU")

HOPPER, TURING, SMALL = Hardware(90, 132), Hardware(75, 40), Hardware(90, 1)


@pytest.fixture(scope="module")
def emulators(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda_on_host")
    return {HOPPER: Emulator(folder), TURING: Emulator(folder, arch=750)}


@pytest.fixture(params=[False, True], ids=["rising", "falling"])
def emulator(request, emulators, monkeypatch):
    """The kernels run on the CPU, the threads in either order, as on a Hopper GPU."""
    return use(emulators, monkeypatch, HOPPER, request.param)


def use(emulators, monkeypatch, machine, falling=False) -> Emulator:
    chosen = emulators.get(machine, emulators[HOPPER])
    chosen.falling = falling
    chosen.launches.clear()
    monkeypatch.setattr(launch, "execute", chosen.execute)
    monkeypatch.setattr(launch, "hardware", lambda device: machine)
    return chosen


SIZES = [(1, 1), (31, 31), (33, 7), (257, 257), (1100, 40), (4200, 12)]  # points, picks


@pytest.mark.parametrize(("make", "dtype", "draw"), [*product(CLOUDS, [torch.float32, torch.float64], SIZES)])
def test_sampling(emulator, make, dtype, draw):
    xyz, count = make(2, draw[0]).to(dtype), draw[1]
    assert torch.equal(cuda.furthest_point_sample(xyz, count), reference.furthest_point_sample(xyz, count))


@pytest.mark.parametrize("machine", [TURING, SMALL, Hardware(90, 16), HOPPER])
@pytest.mark.parametrize("max_threads", [512, 32], ids=["registers", "memory"])
def test_sampling_on_other_machines(emulators, monkeypatch, machine, max_threads):
    """One block a cloud or a cluster; points in registers or, beyond them, in memory."""
    chosen = use(emulators, monkeypatch, machine)
    monkeypatch.setattr(sampling, "MAX_THREADS", max_threads)
    xyz = grid_cloud(2, 5000).float()
    assert torch.equal(cuda.furthest_point_sample(xyz, 130), reference.furthest_point_sample(xyz, 130))
    (made,) = chosen.launches
    assert ("large" in made.kernel) == (max_threads == 32)
    assert made.cluster == {TURING: 1, SMALL: 1, HOPPER: 8}.get(machine, 8)


def extreme_cloud(batch: int, points: int) -> torch.Tensor:
    """Squares overflow and vanish in float32."""
    scale = 10.0 ** torch.randint(-40, 39, (batch, points, 1), generator=generator).double()
    return (torch.rand(batch, points, 3, generator=generator, dtype=torch.float64) * scale).float().double()


def far_cloud(batch: int, points: int) -> torch.Tensor:
    return grid_cloud(batch, points) * 2**-10 + 4096


@pytest.mark.parametrize("make", [*CLOUDS, extreme_cloud, far_cloud])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_knn(emulator, make, dtype):
    for queries, points, k in ((1, 1, 1), (31, 33, 3), (33, 31, 31), (9, 257, 9), (9, 1100, 16), (70, 33, 32)):
        query, support = make(2, queries).to(dtype), make(2, points).to(dtype)
        assert torch.equal(cuda.knn(query, support, k), reference.knn(query, support, k)), (queries, points, k)


@pytest.mark.parametrize("make", [*CLOUDS, extreme_cloud])
@pytest.mark.parametrize(("processors", "kernel"), [(132, "knn<float, 1>"), (6, "knn<float, 2>"), (1, "knn<float, 4>")])
def test_knn_with_several_queries_a_warp(emulators, monkeypatch, make, processors, kernel):
    chosen = use(emulators, monkeypatch, Hardware(90, processors))
    query, support = make(2, 131).float(), make(2, 300).float()
    assert torch.equal(cuda.knn(query, support, 32), reference.knn(query, support, 32))
    assert chosen.launches[0].kernel == kernel


def test_knn_of_sorted_points_and_of_points_equally_far(emulator):
    line = torch.arange(3000.0).flip(0)[None, :, None] * torch.tensor([1.0, 0, 0])
    query = torch.tensor([[[-1.0, 0, 0], [1500.5, 0, 0]]])
    assert torch.equal(cuda.knn(query, line, 32), reference.knn(query, line, 32))
    sphere = torch.tensor([[3.0, 4, 0], [5, 0, 0], [0, 5, 0], [0, 0, 5], [4, 3, 0]]).repeat(600, 1)[None]
    assert cuda.knn(torch.zeros(1, 1, 3), sphere, 32).tolist() == [[list(range(32))]]


def test_more_than_32_neighbours_are_left_to_the_twin(emulator):
    query, support = uniform_cloud(1, 5), uniform_cloud(1, 50)
    assert torch.equal(cuda.knn(query, support, 40), reference.knn(query, support, 40)) and not emulator.launches


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", BOXES)
def test_boxes(emulator, make, dtype):
    """The bits of the twin: overlaps, and what stays of 0 to 200 boxes with many equal scores."""
    boxes1, boxes2 = make(23).to(dtype), make(31).to(dtype)
    for name in ("bev_iou", "box_iou"):
        assert torch.equal(getattr(cuda, name)(boxes1, boxes2), getattr(reference_boxes, name)(boxes1, boxes2))
    for count, threshold in ((0, 0.5), (1, 0.5), (64, 0), (65, 0.01), (200, 0.3), (200, 1)):
        boxes, scores = make(count).to(dtype), torch.randint(0, 40, (count,), generator=generator).float()
        expected = reference_boxes.rotated_nms(boxes, scores, threshold)
        assert torch.equal(cuda.rotated_nms(boxes, scores, threshold), expected), (count, threshold)
        assert torch.equal(cuda.rotated_nms(boxes, scores, threshold, 5), expected[:5]), (count, threshold)


def test_nms_of_more_words_than_threads(emulators, monkeypatch):
    """Each thread strikes boxes of several words."""
    use(emulators, monkeypatch, HOPPER, falling=True)
    monkeypatch.setattr("lib.ops.cuda.boxes.KEEPERS", 32)
    boxes = any_boxes(64 * 34)
    boxes[:, :2] *= 300  # few meet
    boxes[1::3] = boxes[::3][: len(boxes[1::3])]
    scores = torch.rand(len(boxes), generator=generator)
    assert torch.equal(cuda.rotated_nms(boxes, scores, 0.5), ops.rotated_nms(boxes, scores, 0.5))


def results(inputs, function, op) -> list[torch.Tensor]:
    """Value and gradients."""
    leaves = [i.detach().clone().requires_grad_() for i in inputs]
    out = function(*leaves, op)
    factors = torch.linspace(-1, 2, out.numel(), dtype=out.dtype)  # without cancellation
    (out * factors.to(out.device).view(out.shape)).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves)]


NAMES = [name for name in cases(uniform_cloud) if name in cuda.__all__]  # the others are made of these


@pytest.mark.parametrize(("name", "make"), [*product(NAMES, CLOUDS)])
def test_values_and_gradients(emulator, name, make):
    inputs, function = cases(make)[name]
    for ours, twin in zip(results(inputs, function, cuda), results(inputs, function, reference), strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_by_finite_differences(emulators, monkeypatch, name):
    use(emulators, monkeypatch, HOPPER)
    inputs, function = cases(uniform_cloud)[name]
    inputs = [i.requires_grad_() for i in inputs]
    assert torch.autograd.gradcheck(lambda *a: function(*a, cuda), inputs, fast_mode=True)  # in random directions


def wide_cases(neighbours: int, channels: int, outputs: int) -> dict:
    """Sizes beyond one tile of the kernels; some points have no edge, one has many."""
    index = torch.randint(0, 30, (2, 35, neighbours), generator=generator)
    index[:, :, 0] = 3
    return {
        "gather": ([normal(2, 33, channels)], lambda v, op: op.gather(v, index.to(v.device))),
        "weighted_sum": (
            [normal(2, 33, channels), normal(2, 35, neighbours)],
            lambda v, w, op: op.weighted_sum(v, index.to(v.device), w),
        ),
        "pointconv_net": (
            [
                normal(2, 35, neighbours, 3),
                normal(2, 33, channels),
                *weight_net_layers(),
                normal(outputs, (3 + channels) * 16),
            ],
            lambda o, f, *rest: rest[-1].pointconv_net(
                o, f, index.to(o.device), rest[:6], rest[6], rest[6].new_zeros(outputs)
            ),
        ),
        "flow_embedding": (
            [normal(2, 35, channels), normal(2, 33, channels), normal(outputs, channels), normal(outputs)],
            lambda q, s, w, b, op: op.flow_embedding(q, s, index.to(q.device), w, b),
        ),
    }


@pytest.mark.parametrize("name", list(wide_cases(1, 1, 1)))
@pytest.mark.parametrize("sizes", [(1, 1, 1), (9, 64, 32), (32, 67, 65), (37, 131, 33)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float64, 1e-12)]
)
def test_sizes_beyond_a_tile(emulators, monkeypatch, name, sizes, dtype, tolerance):
    use(emulators, monkeypatch, HOPPER, falling=sizes[0] == 9)
    inputs, function = wide_cases(*sizes)[name]
    inputs = [i.to(dtype) for i in inputs]
    out = results(inputs, function, cuda)
    assert all(o.dtype == dtype for o in out)
    for ours, twin in zip(out, results([i.double() for i in inputs], function, reference), strict=True):
        assert (ours.double() - twin).norm() <= 3 * tolerance * twin.norm() + 1e-12


@pytest.mark.parametrize("blocks", [1, 3])
def test_blocks_that_go_on_with_further_edges(emulator, monkeypatch, blocks):
    """As on a GPU for large clouds: there are more edges than blocks for their gradients."""
    monkeypatch.setattr(pointconv, "BACKWARD_BLOCKS", blocks)
    inputs, function = wide_cases(9, 37, 2)["pointconv_net"]
    for ours, twin in zip(results(inputs, function, cuda), results(inputs, function, reference), strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-10, atol=1e-10)
    assert [made.grid for made in emulator.launches if "backward" in made.kernel] == [(blocks, 1)]


@pytest.mark.parametrize("channels", [0, 5])
def test_a_pointconv_of_no_neighbours_or_no_features(emulators, monkeypatch, channels):
    use(emulators, monkeypatch, HOPPER)
    for neighbours in (0, 3):
        index = torch.randint(0, 7, (2, 5, neighbours), generator=generator)
        inputs = [normal(2, 5, neighbours, 3), normal(2, 7, channels), *weight_net_layers()]
        matrix = normal(4, (3 + channels) * 16)

        def function(offset, features, *rest, index=index, matrix=matrix):
            return rest[-1].pointconv_net(offset, features, index, rest[:-1], matrix, torch.zeros(4).double())

        for ours, twin in zip(results(inputs, function, cuda), results(inputs, function, reference), strict=True):
            torch.testing.assert_close(ours, twin)


def test_features_of_16_bits_beside_coordinates_of_32(emulators, monkeypatch):
    """What autocast hands over: offsets far from 0 are told apart, and the layers' gradients keep their precision."""
    use(emulators, monkeypatch, HOPPER)
    run_kernels(monkeypatch, True)
    (offset, features, *rest), function = wide_cases(9, 67, 33)["pointconv_net"]
    offset = (1000 + offset).float()
    rest[1] = rest[1] - 1000 * rest[0].sum(1)
    rest[-1][:, : 3 * 16] = 0  # what remains of the coordinates is in the weights
    inputs = [offset, features.bfloat16(), *(layer.float() for layer in rest)]
    with torch.autocast("cpu", torch.bfloat16):
        found = results(inputs, function, ops)
    assert [value.dtype for value in found] == [torch.bfloat16, *(i.dtype for i in inputs)]
    for ours, twin in zip(found, results([i.double() for i in inputs], function, reference), strict=True):
        assert (ours.double() - twin).norm() <= 0.02 * twin.norm()


def test_a_tie_gives_its_gradient_to_the_first_neighbour(emulator):
    index = torch.tensor([[[1, 0, 2]]])
    support = torch.ones(1, 3, 2, requires_grad=True)
    cuda.flow_embedding(torch.zeros(1, 1, 2), support, index, torch.eye(2), torch.zeros(2)).sum().backward()
    assert support.grad[0].tolist() == [[0, 0], [1, 1], [0, 0]]


def test_not_a_number_finds_points_that_exist(emulator):
    """A recorded program cannot refuse NaN: what it gathers must still lie in the cloud."""
    xyz = uniform_cloud(1, 40).float()
    xyz[0, 3] = float("nan")
    assert 0 <= cuda.knn(xyz, xyz, 9).min() and cuda.knn(xyz, xyz, 9).max() < 40
    assert 0 <= cuda.furthest_point_sample(xyz, 20).min() and cuda.furthest_point_sample(xyz, 20).max() < 40


def test_not_a_number_is_seen(emulator):
    support = torch.ones(1, 3, 2)
    support[0, 2, 0] = float("nan")
    index = torch.tensor([[[0, 1, 2]], [[0, 1, 1]]]).transpose(0, 1)  # (1, 2, 3): the first query sees it
    out = cuda.flow_embedding(torch.zeros(1, 2, 2), support, index, torch.eye(2), torch.zeros(2))
    assert out.isnan().tolist() == [[[True, True], [False, False]]]


def test_the_same_bits_on_every_run(emulators, monkeypatch):
    """Sums run in a fixed order whatever the order of the threads."""
    for name, (inputs, function) in wide_cases(9, 67, 65).items():
        runs = []
        for falling in (False, True):
            use(emulators, monkeypatch, HOPPER, falling)
            runs.append(results([i.float() for i in inputs], function, cuda))
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True)), name


@pytest.mark.parametrize("wrong", [-1, 33])
@pytest.mark.parametrize("name", list(wide_cases(1, 1, 1)))
def test_an_index_outside_its_cloud_stops_the_kernel(emulators, monkeypatch, name, wrong):
    use(emulators, monkeypatch, HOPPER)
    inputs, function = wide_cases(3, 4, 5)[name]
    captured = next(c.cell_contents for c in function.__closure__ if c.cell_contents.dtype == torch.int64)
    captured[1, 4, 2] = wrong
    with pytest.raises(RuntimeError, match="trap"):
        function(*inputs, cuda)


OPS = torch.ops.point_ops


def operations() -> dict:
    """Every registered operation with arguments."""
    index = torch.randint(0, 7, (2, 5, 3), generator=generator)
    query, support, offset = normal(2, 5, 3), normal(2, 7, 3), normal(2, 5, 3, 3)
    rows, far, weight, winner = normal(2, 5, 4), normal(2, 7, 4), normal(6, 4), torch.randint(0, 3, (2, 5, 6)).int()
    order, starts = torch.arange(15), torch.tensor([0, 4, 4, 15])

    def leaves(*tensors):
        return [t.requires_grad_() if t.is_floating_point() else t for t in tensors]

    boxes = reference_boxes.upright(any_boxes(9))
    return {
        OPS.box_iou: (boxes, boxes[:4], True),
        OPS.nms: (boxes, 0.1, 5),
        OPS.furthest_point_sample: (query, 3),
        OPS.knn: (query, support, 3),
        OPS.gather: leaves(far, index.flatten(1)),
        OPS.sum_edges: (normal(15, 5), None, order, starts, 1, 3, 1),
        OPS.weighted_sum: leaves(far.clone(), index, normal(2, 5, 3)),
        OPS.weighted_sum_backward: (far.detach(), index, rows),
        OPS.inverse_distance_weights: leaves(query.clone(), support.clone(), index),
        OPS.inverse_distance_backward: (query, support, index, normal(2, 5, 3)),
        OPS.pointconv: (*leaves(offset, far.detach().clone(), index), leaves(*weight_net_layers())),
        OPS.pointconv_backward: (offset.detach(), far.detach(), index, weight_net_layers(), normal(2, 5, 7 * 16)),
        OPS.flow_embedding: leaves(rows.clone(), far.detach().clone(), index, weight.clone(), normal(6)),
        OPS.flow_embedding_edges: (rows, far.detach(), index, weight, winner, normal(2, 5, 6)),
        OPS.flow_embedding_matrix: (rows, far.detach(), index, winner, normal(2, 5, 6)),
    }


@pytest.mark.parametrize("op", list(operations()), ids=lambda op: str(op))
def test_registration(emulators, monkeypatch, op):
    """Schema, fake kernel and gradient agree with what the kernels do, also when traced."""
    use(emulators, monkeypatch, HOPPER)
    torch.library.opcheck(op.default, operations()[op])


def test_no_points_are_no_launch(emulator):
    assert cuda.knn(uniform_cloud(2, 0), uniform_cloud(2, 5), 3).shape == (2, 0, 3)
    assert cuda.gather(normal(2, 5, 3), torch.zeros(2, 0, 4, dtype=torch.int64)).shape == (2, 0, 4, 3)
    assert not emulator.launches


def test_without_a_gpu_the_kernels_say_so():
    wide, flat = torch.zeros(4, 4), torch.zeros(3)
    for grid, tensors, message in (
        ((1, 1), (wide, flat), "CUDA kernels need tensors on a GPU, got cpu; tensors of shapes (4, 4), (3,)"),
        ((2**31, 1), (wide,), "too large for one launch: (2147483648, 1) blocks; tensors of shapes (4, 4)"),
        ((1, 2**16), (wide,), "too large for one launch: (1, 65536) blocks; tensors of shapes (4, 4)"),
        ((1, 1), (wide.T,), "tensors must be contiguous and on one device; tensors of shapes (4, 4)"),
    ):
        with pytest.raises(InputError) as error:
            launch.run(launch.Launch("gather", "sum_edges<float>", grid, 32, tensors))
        assert str(error.value) == "sum_edges: " + message


def test_clouds_of_2_to_the_31_points_are_refused():
    cloud = torch.zeros(1, 1, 3).expand(1, 2**31, 3)
    with pytest.raises(InputError, match=r"furthest_point_sample: clouds of shape \(1, 2147483648, 3\) hold 2\^31"):
        cuda.furthest_point_sample(cloud, 2)
    with pytest.raises(InputError, match=r"knn: support \(1, 2147483648, 3\) holds 2\^31 points or more"):
        cuda.knn(cloud[:, :5], cloud, 2)


def test_shapes_of_sampling_launches():
    """Clusters spread few clouds over the whole GPU; every launch fits its table of warps and its registers."""
    for machine, clouds, points in product(
        (HOPPER, TURING, SMALL, Hardware(120, 170)), (1, 2, 16, 40), (1, 600, 2048, 8192, 70000)
    ):
        xyz = torch.empty(clouds, points, 3, device="meta")
        made = sampling_launch(xyz, torch.empty(clouds, 1, device="meta"), machine)
        assert made.kernel in program.KERNELS[made.source]
        assert made.cluster * made.block // 32 <= 128 and made.block <= 512  # MAX_CANDIDATES
        assert made.grid == (clouds * made.cluster, 1) and (made.cluster == 1 or machine.capability >= 90)
        assert made.cluster == 1 or made.grid[0] <= machine.processors
    published = sampling_launch(torch.empty(16, 8192, 3, device="meta"), torch.empty(16, 2048, device="meta"), HOPPER)
    assert (published.cluster, published.block, published.kernel) == (8, 256, "furthest_point_sample<float, 4>")


@pytest.mark.parametrize(
    ("source", "barrier"), [("boxes", 0), ("knn", 0), ("knn", 1), *(("pointconv", barrier) for barrier in (0, 1, 4, 5))]
)
def test_a_missing_barrier_is_noticed(tmp_path, monkeypatch, source, barrier):
    """The proof is worth something: without one of its barriers a kernel gives wrong results here."""
    for path in program.CSRC.iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    parts = (tmp_path / f"{source}.cu").read_text().split("__syncthreads();")
    text = "__syncthreads();".join(parts[: barrier + 1]) + "__syncthreads();".join(["", *parts[barrier + 1 :]])[16:]
    (tmp_path / f"{source}.cu").write_text(text)
    monkeypatch.setattr("tests.ops.cuda_on_host.emulator.CSRC", tmp_path)
    broken = Emulator(tmp_path)
    monkeypatch.setattr(launch, "execute", broken.execute)
    monkeypatch.setattr(launch, "hardware", lambda device: HOPPER)
    monkeypatch.setattr(pointconv, "BACKWARD_BLOCKS", 2)
    wrong = False
    for broken.falling in (False, True):
        if source == "boxes":
            boxes, scores = any_boxes(300), torch.rand(300, generator=generator)
            expected = reference_boxes.rotated_nms(boxes, scores, 0.1)
            wrong |= not torch.equal(cuda.rotated_nms(boxes, scores, 0.1), expected)
        elif source == "knn":
            query, support = uniform_cloud(1, 40), uniform_cloud(1, 3000)
            wrong |= not torch.equal(cuda.knn(query, support, 9), reference.knn(query, support, 9))
        else:
            inputs, function = wide_cases(37, 70, 1)["pointconv_net"]
            ours, twin = results(inputs, function, cuda), results(inputs, function, reference)
            wrong |= not all(map(torch.allclose, ours, twin))
    assert wrong


def run_kernels(monkeypatch, on: bool) -> None:
    """Every operation takes tensors in CPU memory to the kernels, as if on a GPU, or every one to the twins."""
    answers = {"runs_kernels": on, "runs_compiled": False}
    for name, what in product([name for name in sys.modules if name.startswith("lib.ops.")], answers):
        if hasattr(sys.modules[name], what):
            monkeypatch.setattr(sys.modules[name], what, lambda *tensors, what=what: answers[what])


def test_a_network_traced_whole(emulators, monkeypatch, small_pair):
    """torch.compile and torch.export take the network without a break in the graph."""
    use(emulators, monkeypatch, HOPPER)
    run_kernels(monkeypatch, True)
    pair = tuple(xyz[:1] for xyz in small_pair)
    net = build_model("student-tiny").eval()
    finest = FinestFlow(net)
    with torch.no_grad():
        expected = finest(*pair)
        assert torch.equal(torch.compile(finest, backend="aot_eager", fullgraph=True)(*pair), expected)
        assert torch.equal(torch.export.export(finest, pair).module()(*pair), expected)


class FinestFlow(torch.nn.Module):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, xyz1: torch.Tensor, xyz2: torch.Tensor) -> torch.Tensor:
        return self.net(xyz1, xyz2).flows[0]


def test_a_network_and_its_gradients(emulators, monkeypatch, small_pair):
    use(emulators, monkeypatch, HOPPER)
    xyz1, xyz2 = (xyz[:1].double() for xyz in small_pair)
    torch.manual_seed(0)
    net = build_model("student-tiny").double()
    found = []
    for kernels in (True, False):
        run_kernels(monkeypatch, kernels)
        net.zero_grad()
        flows = net(xyz1, xyz2).flows
        sum(flow.square().sum() for flow in flows).backward()
        found.append([*flows, *(p.grad for p in net.parameters())])
    for ours, twin in zip(*found, strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-8, atol=1e-9)
