#!/usr/bin/env python
"""Measures this machine: point operations, networks, training steps, and growth with the size of the clouds.

Times are medians with quartiles after a warm-up; peak memory is that of a process of its own. `plain` is the same
network written straight from the paper in torch operators (benchmarks/plain.py), with the same weights.
Pairs are synthetic, weights are random (seed 0), float32.
"""

import lib  # noqa: F401  (before torch: it sets up OpenMP)

# isort: split
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import suite_networks, suite_ops
from lib.cli import choose_device, run_script
from lib.flags import Parser, number
from lib.provenance import provenance

SUITES = {
    "ops": suite_ops.run,
    "model": suite_networks.model,
    "train": suite_networks.train,
    "scaling": suite_networks.scaling,
}
REPEATS = {"cpu": 5, "cuda": 20}  # a call takes milliseconds on a GPU

EPILOG = """examples:
  python benchmark.py ops --json results/scene_flow/benchmark/ops.json
  python benchmark.py model --num-points 2048
other packages that `ops` compares with where they are installed: pip install pykdtree fpsample torch-cluster
"""


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="benchmark.py", description=__doc__.strip(), epilog=EPILOG)
    parser.add_argument("suite", choices=list(SUITES), help="what to measure")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--num-points", type=number(int, 128), metavar="N", default=8192, help="points of each cloud; scaling: to 16 N"
    )
    parser.add_argument("--batch-size", type=number(int, 1), metavar="B", default=1, help="pairs at once")
    parser.add_argument("--repeats", type=number(int, 1), metavar="R", help="timed calls (default: 5, on a GPU 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured here")
    args = parser.parse_args(argv)

    device = choose_device(args.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    repeats = args.repeats or REPEATS[device.type]
    result = SUITES[args.suite](args.num_points, args.batch_size, device, repeats)
    settings = {"suite": args.suite, "num_points": args.num_points, "batch_size": args.batch_size}
    result = settings | {"device": str(device)} | result | {"provenance": provenance()}
    for line in report(result):
        print(line)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def report(result: dict[str, Any], indent: str = "") -> Iterator[str]:
    """The result as indented lines; a time is its median and quartiles."""
    for name, value in result.items():
        if name in ("provenance", "all"):
            continue
        if isinstance(value, dict) and "median_seconds" in value:
            low, high = value["quartiles"]
            line = f"{value['median_seconds'] * 1e3:.4g} ms ({low * 1e3:.4g} to {high * 1e3:.4g})"
            yield f"{indent}{name}: {line}{_memory(value)}"
        elif isinstance(value, dict):
            yield f"{indent}{name}"
            yield from report(value, indent + "  ")
        else:
            yield f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}"


def _memory(value: dict[str, Any]) -> str:
    return f", peak {value['peak_bytes'] / 1e9:.3g} GB" if "peak_bytes" in value else ""


if __name__ == "__main__":
    run_script(main)
