"""Counting the arithmetic of a network, point operations included."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.workloads import Workload
from lib import ops
from models import build_model, count_parameters

COUNTED_POINTS = 1024  # every layer sees its full number of neighbours; from here on the counts grow with the points


def network_arithmetic(name: str, points: int) -> dict[str, Any]:
    """Parameters and multiply-accumulates of one pair of ``points`` each, in all and by part.

    Matrix products are counted as they run in the readable twins, where every sum over neighbours but the interpolation
    is one; the interpolations' sums are added. One MAC is two FLOP. Searches, sampling and activations are left out.
    """
    load = Workload(name, COUNTED_POINTS, 1, torch.device("cpu"))
    net = load.net.eval()
    sums: Counter[str] = Counter()
    with torch.inference_mode(), ops.use_backend("reference"), FlopCounterMode(display=False) as counter:
        with _interpolation_counted(sums):
            net(load.xyz1, load.xyz2)
    scale = points / COUNTED_POINTS
    counts = counter.get_flop_counts()
    parts = {part: _flops(counts, f"{type(net).__name__}.{part}") for part, _ in net.named_children()}
    macs = {part: round(flops * scale / 2) for part, flops in parts.items()}
    macs |= {"interpolation": round(sums["interpolation"] * scale)}
    total = round(sum(counts["Global"].values()) * scale / 2) + macs["interpolation"]
    return {
        "points": points,
        "parameters": count_parameters(build_model(name)),
        "macs": total,
        "flop": 2 * total,
        "macs_by_part": macs,
    }


def _flops(counts: dict[str, dict[Any, int]], prefix: str) -> int:
    """FLOP below one child of the network: of itself, or of its outermost members that were called."""
    inside = [name for name in counts if f"{name}.".startswith(f"{prefix}.")]
    outermost = [name for name in inside if not any(name.startswith(f"{other}.") for other in inside)]
    return sum(sum(counts[name].values()) for name in outermost)


@contextmanager
def _interpolation_counted(macs: Counter[str]) -> Iterator[None]:
    """Within the block, the multiply-accumulates of ``ops.weighted_sum`` are added up."""
    original = ops.weighted_sum

    @wraps(original)
    def counted(values: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        macs["interpolation"] += index.numel() * values.shape[-1]
        return original(values, index, weights)

    ops.weighted_sum = counted
    try:
        yield
    finally:
        ops.weighted_sum = original
