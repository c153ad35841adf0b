#!/usr/bin/env python
"""The compiled CPU path against the readable twins: the same teacher, the same pair, one process.

    python benchmarks/fast_vs_reference.py --json results/fast_vs_reference.json

Weights are random (seed 0), the pair is a synthetic-things test scene of 8192 points; float32, batch size 1, inference.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from the checkout, nothing is installed

from lib import ops  # noqa: E402, I001 (lib first: it sets up OpenMP, as in the scripts)
from lib.datasets import FlowPairs, open_scenes  # noqa: E402
from lib.provenance import provenance  # noqa: E402
from models import FlowOutput, build_model  # noqa: E402
import torch  # noqa: E402


def timed(net: torch.nn.Module, pair: tuple, backend: str, repeats: int) -> tuple[FlowOutput, list[float]]:
    """Output of the network on the pair with one backend, and the seconds of ``repeats`` calls after a warm-up."""
    seconds = []
    with torch.inference_mode(), ops.use_backend(backend):
        out = net(*pair)
        for _ in range(repeats):
            start = time.perf_counter()
            out = net(*pair)
            seconds.append(time.perf_counter() - start)
    return out, seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-points", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=7, help="timed calls of the fast path")
    parser.add_argument("--reference-repeats", type=int, default=2, help="timed calls of the reference path")
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()

    torch.manual_seed(0)
    net = build_model("teacher").eval()
    sample = FlowPairs(open_scenes("synthetic-things", "test"), args.num_points)[0]
    pair = sample.xyz1[None], sample.xyz2[None]
    fast, fast_seconds = timed(net, pair, "fast", args.repeats)
    slow, slow_seconds = timed(net, pair, "reference", args.reference_repeats)

    levels = []
    for level, (a, b) in enumerate(zip(fast.flows, slow.flows, strict=True)):
        difference = (a - b).norm(dim=-1).flatten()
        levels.append({
            "level": level,
            "median_m": difference.median().item(),
            "max_m": difference.max().item(),
            "share_over_1e-4_m": (difference > 1e-4).float().mean().item(),
        })  # fmt: skip
    same = all(torch.equal(a, b) for a, b in zip(fast.indices1[1:], slow.indices1[1:], strict=True))
    result = {
        "num_points": args.num_points,
        "fast_seconds": fast_seconds,
        "reference_seconds": slow_seconds,
        "speedup_of_medians": statistics.median(slow_seconds) / statistics.median(fast_seconds),
        "sampling_indices_equal": same,
        "difference_of_flows": levels,
        "provenance": provenance(),
    }
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if args.json:
        args.json.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
