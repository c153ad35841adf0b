"""``benchmark.py ops``: each point operation, beside other packages where they are installed."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from benchmarks import plain
from benchmarks.measure import timed
from benchmarks.workloads import Workload
from lib import ops
from models.geometry import CROSS_NEIGHBOURS, DOWN_NEIGHBOURS, INTERPOLATION_NEIGHBOURS, SELF_NEIGHBOURS, SIZE_DIVISORS

NEIGHBOURS = (INTERPOLATION_NEIGHBOURS, SELF_NEIGHBOURS, DOWN_NEIGHBOURS, CROSS_NEIGHBOURS)
WIDTH = 128  # channels of the feature operations: those of the widest layers at level 0
NOT_INSTALLED = "not installed"


def run(points: int, batch: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Row -> implementation -> its times, or "not installed"."""
    load = Workload("student-tiny", points, batch, device)
    rows = {f"furthest_point_sample {points} -> {points // SIZE_DIVISORS[1]}, {2 * batch} clouds": _sampling(load)}
    for k in NEIGHBOURS:
        rows[f"knn {points} x {points}, k = {k}, {batch} clouds"] = _search(load, k)
    rows |= {f"{name}, {batch} clouds": calls for name, calls in _features(load).items()}
    return {
        row: {
            name: NOT_INSTALLED if call is None else timed(call, device, repeats) for name, call in calls.items()
        }
        for row, calls in rows.items()
    }


def _package(name: str) -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def _sampling(load: Workload) -> dict[str, Callable[[], Any] | None]:
    both = torch.cat([load.xyz1, load.xyz2])  # (2 B, N, 3)
    count = both.shape[1] // SIZE_DIVISORS[1]
    clouds = list(both.cpu().numpy())
    fpsample, cluster = _package("fpsample"), _package("torch_cluster")
    flat, owner = both.flatten(0, 1), torch.arange(len(both), device=both.device).repeat_interleave(both.shape[1])
    return {
        "ours": lambda: ops.furthest_point_sample(torch.cat(load.next_pair()), count),
        "plain torch": lambda: plain.sample(both, count),
        "fpsample": fpsample and (
            lambda: [fpsample.bucket_fps_kdline_sampling(c, count, h=7, start_idx=0) for c in clouds]
        ),
        "torch-cluster": cluster and (
            lambda: cluster.fps(flat, owner, ratio=count / both.shape[1], random_start=False)
        ),
    }  # fmt: skip


def _search(load: Workload, k: int) -> dict[str, Callable[[], Any] | None]:
    query, support = load.xyz1, load.xyz2
    pairs = [(q.cpu().numpy(), s.cpu().numpy()) for q, s in zip(query, support, strict=True)]
    pykdtree, cluster = _package("pykdtree.kdtree"), _package("torch_cluster")
    owner = torch.arange(len(query), device=query.device).repeat_interleave(query.shape[1])
    workers = torch.get_num_threads()
    return {
        "ours": lambda: ops.knn(*load.next_pair(), k),
        "plain torch": lambda: plain.knn(query, support, k),
        "scipy": lambda: [cKDTree(s).query(q, k, workers=workers) for q, s in pairs],
        "pykdtree": pykdtree and (lambda: [pykdtree.KDTree(s).query(q, k) for q, s in pairs]),
        "torch-cluster": cluster and (
            lambda: cluster.knn(support.flatten(0, 1), query.flatten(0, 1), k, owner, owner)
        ),
    }  # fmt: skip


def _features(load: Workload) -> dict[str, dict[str, Callable[[], Any]]]:
    """The operations on features, forward and backward, each beside its readable twin in torch operators."""
    torch.manual_seed(0)
    query, support = load.xyz1, load.xyz2
    near = {k: ops.knn(query, support, k) for k in NEIGHBOURS}

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, device=query.device, requires_grad=True)

    cloud = (*query.shape[:2], WIDTH)
    features, queries, matrix, bias = randn(*cloud), randn(*cloud), randn(WIDTH, WIDTH), randn(WIDTH)
    offset, kernel = (randn(*near[SELF_NEIGHBOURS].shape, width) for width in (3, 16))
    weights = ops.inverse_distance_weights(query, support, near[INTERPOLATION_NEIGHBOURS])
    calls = {
        f"weighted_sum k = {INTERPOLATION_NEIGHBOURS}": (
            lambda: ops.weighted_sum(features, near[INTERPOLATION_NEIGHBOURS], weights)
        ),
        f"pointconv_aggregate k = {SELF_NEIGHBOURS}": (
            lambda: ops.pointconv_aggregate(offset, features, near[SELF_NEIGHBOURS], kernel)
        ),
        f"flow_embedding k = {CROSS_NEIGHBOURS}": (
            lambda: ops.flow_embedding(queries, features, near[CROSS_NEIGHBOURS], matrix, bias)
        ),
    }
    rows = {}
    for name, call in calls.items():
        forward, both = _passes(call)
        rows[f"{name}, {WIDTH} channels, forward"] = _with_twin(forward)
        rows[f"{name}, {WIDTH} channels, forward and backward"] = _with_twin(both)
    return rows


def _passes(call: Callable[[], Tensor]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def forward() -> None:
        with torch.inference_mode():
            call()

    def both() -> None:
        out = call()
        out.backward(torch.ones_like(out))

    return forward, both


def _with_twin(call: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    def twin() -> None:
        with ops.use_backend("reference"):
            call()

    return {"ours": call, "plain torch": twin}

