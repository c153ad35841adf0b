"""``benchmark.py ops``: each point operation, beside other packages where they are installed."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.measure import timed, timed_on_gpu
from benchmarks.workloads import Workload
from lib import ops
from lib.provenance import package_version
from models.scene_flow.levels import (
    CROSS_NEIGHBOURS,
    DOWN_NEIGHBOURS,
    INTERPOLATION_NEIGHBOURS,
    SELF_NEIGHBOURS,
    SIZE_DIVISORS,
)

NEIGHBOURS = (INTERPOLATION_NEIGHBOURS, SELF_NEIGHBOURS, DOWN_NEIGHBOURS, CROSS_NEIGHBOURS)
WIDTH = 128  # channels of the feature operations: those of the widest layers at level 0
TRAINING_BATCH = 8  # pairs, as in the published recipe: both clouds of each are sampled at once
SCAN = 20_000  # points of a scan, about those of a KITTI scan in the image
PILLARS = ops.VoxelGrid((0, -39.68, -3), (0.16, 0.16, 4), (432, 496, 1))  # of PointPillars, as its limits below
PILLAR_POINTS, MAX_PILLARS = 32, 16_000
PROPOSALS, KEPT = 9000, 512  # of PointRCNN
PEERS = ("scipy", "pykdtree", "fpsample", "torch-cluster")
ON_GPU_ALONE = "ours, on the GPU alone"
NOT_INSTALLED = "not installed"

Calls = dict[str, Callable[[], Any] | str]  # implementation -> what to time, or why it cannot be


def run(points: int, batch: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Row -> implementation -> its times, or "not installed", or "not usable" and why; and the peers' versions.

    On a GPU ``ours`` is a call as the caller sees it, checks and launches in it; ``ours, on the GPU alone`` is the time
    of its kernels.
    """
    load = Workload("student-tiny", points, batch, device)
    rows = {}
    for pairs in sorted({batch, TRAINING_BATCH}):
        several = load if pairs == batch else Workload("student-tiny", points, pairs, device)
        rows[f"furthest_point_sample {points} -> {points // SIZE_DIVISORS[1]}, {2 * pairs} clouds"] = _sampling(several)
    for k in NEIGHBOURS:
        rows[f"knn {points} x {points}, k = {k}, {batch} clouds"] = _search(load, k)
    rows |= {f"{name}, {batch} clouds": calls for name, calls in _features(load).items()}
    rows |= _detection(device)
    measured = {
        row: {name: _times(name, call, device, repeats) for name, call in calls.items()} for row, calls in rows.items()
    }
    return measured | {"versions_of_peers": {name: package_version(name) or NOT_INSTALLED for name in PEERS}}


def _times(name: str, call: Callable[[], Any] | str, device: torch.device, repeats: int) -> dict[str, Any] | str:
    if isinstance(call, str):
        return call
    return (timed_on_gpu if name == ON_GPU_ALONE else timed)(call, device, repeats)


def _peer(module: str, call: Callable[[ModuleType], Any]) -> Callable[[], Any] | str:
    """The call with a package of others, or why it cannot be made; it is tried once.

    A package may be missing, built for another torch, or built without CUDA: each fails in its own way.
    """
    try:
        package = importlib.import_module(module)
        call(package)
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (module, module.partition(".")[0]):
            return NOT_INSTALLED
        return f"not usable: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return lambda: call(package)


def _ours(device: torch.device, call: Callable[[], Any], kernels: Callable[[], Any]) -> Calls:
    """``call`` as a caller makes it, and on a GPU the time of the kernels that ``kernels`` launches."""
    return {"ours": call} | ({ON_GPU_ALONE: kernels} if device.type == "cuda" else {})


def _on_cpu(package: str, device: torch.device) -> str:
    """The name of a row whose package knows no GPU."""
    return package if device.type == "cpu" else f"{package}, on the CPU"


def _sampling(load: Workload) -> Calls:
    both = torch.cat([load.xyz1, load.xyz2])  # (2 B, N, 3)
    count = both.shape[1] // SIZE_DIVISORS[1]
    clouds = list(both.cpu().numpy())
    flat, owner = both.flatten(0, 1), torch.arange(len(both), device=both.device).repeat_interleave(both.shape[1])

    def ours() -> Tensor:
        return ops.furthest_point_sample(torch.cat(load.next_pair()), count)

    return _ours(load.device, ours, lambda: ops.furthest_point_sample(both, count)) | {
        "plain torch": lambda: plain.sample(both, count),
        _on_cpu("fpsample", load.device): _peer(
            "fpsample", lambda package: [package.bucket_fps_kdline_sampling(c, count, h=7, start_idx=0) for c in clouds]
        ),
        "torch-cluster": _peer(
            "torch_cluster", lambda package: package.fps(flat, owner, ratio=count / both.shape[1], random_start=False)
        ),
    }


def _search(load: Workload, k: int) -> Calls:
    query, support = load.xyz1, load.xyz2
    pairs = [(q.cpu().numpy(), s.cpu().numpy()) for q, s in zip(query, support, strict=True)]
    owner = torch.arange(len(query), device=query.device).repeat_interleave(query.shape[1])
    workers = torch.get_num_threads()
    return _ours(load.device, lambda: ops.knn(*load.next_pair(), k), lambda: ops.knn(query, support, k)) | {
        "plain torch": lambda: plain.knn(query, support, k),
        _on_cpu("scipy", load.device): _peer(
            "scipy.spatial", lambda package: [package.cKDTree(s).query(q, k, workers=workers) for q, s in pairs]
        ),
        _on_cpu("pykdtree", load.device): _peer(
            "pykdtree.kdtree", lambda package: [package.KDTree(s).query(q, k) for q, s in pairs]
        ),
        "torch-cluster": _peer(
            "torch_cluster", lambda package: package.knn(support.flatten(0, 1), query.flatten(0, 1), k, owner, owner)
        ),
    }


def _features(load: Workload) -> dict[str, Calls]:
    """The operations on features, forward and backward, each beside its readable twin in torch operators."""
    torch.manual_seed(0)
    query, support = load.xyz1, load.xyz2
    near = {k: ops.knn(query, support, k) for k in NEIGHBOURS}

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, device=query.device, requires_grad=True)

    cloud = (*query.shape[:2], WIDTH)
    features, queries, matrix, bias = randn(*cloud), randn(*cloud), randn(WIDTH, WIDTH), randn(WIDTH)
    offset, wide = randn(*near[SELF_NEIGHBOURS].shape, 3), randn(WIDTH, (3 + WIDTH) * 16)
    net = [randn(8, 3), randn(8), randn(8, 8), randn(8), randn(16, 8), randn(16)]
    weights = ops.inverse_distance_weights(query, support, near[INTERPOLATION_NEIGHBOURS])
    calls = {
        f"weighted_sum k = {INTERPOLATION_NEIGHBOURS}": (
            lambda: ops.weighted_sum(features, near[INTERPOLATION_NEIGHBOURS], weights)
        ),
        f"pointconv_net k = {SELF_NEIGHBOURS}": (
            lambda: ops.pointconv_net(offset, features, near[SELF_NEIGHBOURS], net, wide, bias)
        ),
        f"flow_embedding k = {CROSS_NEIGHBOURS}": (
            lambda: ops.flow_embedding(queries, features, near[CROSS_NEIGHBOURS], matrix, bias)
        ),
    }
    rows = {}
    for name, call in calls.items():
        forward, both = _passes(call)
        rows[f"{name}, {WIDTH} channels, forward"] = _ours(load.device, forward, forward) | _twin(forward)
        rows[f"{name}, {WIDTH} channels, forward and backward"] = {"ours": both} | _twin(both)
    return rows


def _detection(device: torch.device) -> dict[str, Calls]:
    """The operations of LiDAR detection, on a scan and boxes drawn at random. Only their size is like real ones."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    way, angle = 4 / (0.06 + draw(SCAN)), 1.4 * (draw(SCAN) - 0.5)  # m, rad: dense where near
    scan = torch.stack([way * angle.cos(), way * angle.sin(), draw(SCAN) - 1.5, draw(SCAN)], 1).to(device)
    boxes = torch.tensor([0, -40, -1, 3.9, 1.6, 1.5, 0]) + draw(PROPOSALS, 7) * torch.tensor([70, 80, 0.5, 1, 1, 1, 6])
    boxes, scores = boxes.to(device), draw(PROPOSALS).to(device)
    cells = ops.voxelise([scan], PILLARS, PILLAR_POINTS, MAX_PILLARS)
    features = torch.rand(len(cells.points), 64, device=device, requires_grad=True)
    calls = {
        f"voxelise {SCAN} points": lambda: ops.voxelise([scan], PILLARS, PILLAR_POINTS, MAX_PILLARS),
        f"points_in_boxes {SCAN} x 20": lambda: ops.points_in_boxes(scan, boxes[:20]),
        f"box_iou {KEPT} x 20": lambda: ops.box_iou(boxes[:KEPT], boxes[:20]),
        "rotated_nms of 100": lambda: ops.rotated_nms(boxes[:100], scores[:100], 0.01),
    }
    alone = {
        f"rotated_nms of {PROPOSALS}, {KEPT} stay": lambda: ops.rotated_nms(boxes, scores, 0.8, KEPT),
        "scatter_to_map 496 x 432, 64 channels, forward and backward": _passes(
            lambda: ops.scatter_to_map(features, cells.places, 1, (496, 432))
        )[1],
    }
    rows = {name: {"ours": call} | _twin(call) for name, call in calls.items()}
    return {
        f"detection: {name}": row for name, row in (rows | {n: {"ours": call} for n, call in alone.items()}).items()
    }


def _passes(call: Callable[[], Tensor]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def forward() -> None:
        with torch.inference_mode():
            call()

    def both() -> None:
        out = call()
        out.backward(torch.ones_like(out))

    return forward, both


def _twin(call: Callable[[], Any]) -> Calls:
    def twin() -> None:
        with ops.use_backend("reference"):
            call()

    return {"plain torch": twin}
