#!/usr/bin/env python
"""Time and memory of predicting on a large pair: every point through the network, or a draw with interpolation.

    python benchmarks/large_cloud.py --num-points 131072 --json results/large_cloud.json
    python benchmarks/large_cloud.py --num-points 131072 --draw 8192

Weights are random (seed 0). The pair is synthetic: scenes of synthetic-things side by side until there are enough
points. The peak memory is that of the whole process on the CPU, and of the tensors on a GPU.
"""

import argparse
import json
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from the checkout, nothing is installed

import numpy as np  # noqa: E402
import torch  # noqa: E402

from lib.datasets import open_scenes  # noqa: E402
from lib.prediction import predict_flow  # noqa: E402
from lib.provenance import provenance  # noqa: E402
from models import build_model  # noqa: E402

SPACING = 12.0  # m between scenes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-points", type=int, default=131072, help="points of each cloud")
    parser.add_argument("--draw", type=int, help="points the network sees; default: all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()

    device = torch.device(args.device)
    source, target = large_pair(args.num_points)
    torch.manual_seed(0)
    net = build_model("teacher").eval().to(device)
    predict_flow(net, source[:1024], target[:1024], device)  # warm-up: compiled loops, kernels
    made = predict_flow(net, source, target, device, args.draw)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else \
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # fmt: skip
    result = {
        "points": args.num_points,
        "drawn": args.draw,
        "device": args.device,
        "seconds": made.seconds,
        "peak_gigabytes": memory / 1e9,
        "finite": bool(np.isfinite(made.flow).all()),
        "provenance": provenance(),
    }
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if args.json:
        args.json.write_text(text)
    return 0


def large_pair(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two aligned clouds (count, 3) float32, metres, from as many scenes as that takes."""
    parts, scenes = [], open_scenes("synthetic-things", "test")
    while sum(len(pair[0]) for pair in parts) < count:
        shift = np.float32([SPACING * len(parts), 0, 0])
        scene = scenes[len(parts)]
        parts.append((scene.pc1 + shift, scene.pc2 + shift))
    source, target = (np.concatenate(clouds)[:count] for clouds in zip(*parts, strict=True))
    return source, target


if __name__ == "__main__":
    sys.exit(main())
