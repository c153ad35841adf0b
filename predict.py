#!/usr/bin/env python
"""Two point clouds in, the motion of every source point out. No ground truth and no calibration are needed."""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from torch import nn

from lib.cli import Parser, add_machine_flags, number, run_script, session
from lib.cloud_axes import AXES, check_pair, from_project, to_project, warnings_of
from lib.cloud_files import READERS, WRITERS, encode_flow, read_cloud
from lib.files import write_atomically
from lib.ops.errors import InputError
from lib.prediction import predict_flow
from models import load_model

EPILOG = f"""examples:
  python predict.py before.ply after.ply --checkpoint best.pt --axes kitti-camera --out flow.ply
      opens in MeshLab and CloudCompare: the motion stands in nx ny nz, its length in quality
  python predict.py 0000.bin 0001.bin --checkpoint best.pt --axes velodyne --num-points 8192
      the network sees 8192 points of each scan; every point gets a flow, in flow.npz

formats: {" ".join(READERS)}; units: metres
axes: {"; ".join(f"{name}: {what}" for name, (what, _) in AXES.items())}
The flow is written in the axes of the input, row i for point i of SOURCE.
"""


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    source, target = read_cloud(args.source), read_cloud(args.target)
    check_pair(source, target)
    for line in warnings_of(source, target, args.axes):
        print(f"warning: {line}", file=sys.stderr)
    with session(args) as device:
        net = load_model(args.checkpoint, device)
        check_sizes(net, args, source, target)
        xyz1, xyz2 = (to_project(cloud, args.axes) for cloud in (source, target))
        flow, seconds = predict_flow(net, xyz1, xyz2, device, args.num_points, args.amp)
        flow = from_project(flow, args.axes)
    write_atomically(args.out, encode_flow(args.out.suffix.lower(), source, flow))
    length = np.linalg.norm(flow, axis=1)
    rows = [
        ("axes", f"{args.axes} ({AXES[args.axes][0]})"),
        ("points", f"{len(source)} source, {len(target)} target"
                   + (f", {args.num_points} drawn of each that has more" if args.num_points else "")),
        ("flow", f"median {np.median(length):.4f} m, largest {length.max():.4f} m"),
        ("time", f"{seconds:.3f} s for this pair (network and interpolation, first pair of the process, {device})"),
        ("written", f"{args.out}"),
    ]  # fmt: skip
    print("\n".join(f"{name:<9}{value}" for name, value in rows))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="predict.py", description=__doc__, epilog=EPILOG)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the cloud whose points get a flow")
    parser.add_argument("target", type=Path, metavar="TARGET", help="the same scene a moment later, rows in any order")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE",
                        help="best.pt or last.pt, or a published state")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("flow.npz"), metavar="FILE",
                        help=f"the flow: {', '.join(WRITERS)}")  # fmt: skip
    parser.add_argument("--axes", choices=list(AXES), default="as-is", help="axes of both clouds")
    parser.add_argument("--num-points", type=number(int, 1), metavar="N",
                        help="draw N points of each cloud and interpolate (default: all points)")  # fmt: skip
    add_machine_flags(parser, workers=None)
    args = parser.parse_args(argv)
    if args.out.suffix.lower() not in WRITERS:
        raise InputError(f"--out {args.out}: a flow is written as {', '.join(WRITERS)}")
    folder = args.out.absolute().parent
    if not folder.is_dir():
        raise InputError(f"--out {args.out}: its folder does not exist; create it first")
    if args.out.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"--out {args.out}: cannot be written there")
    return args


def check_sizes(net: nn.Module, args: argparse.Namespace, source: np.ndarray, target: np.ndarray) -> None:
    """Raises InputError naming the cloud, or the flag, that gives the network too few points."""
    for path, cloud in ((args.source, source), (args.target, target)):
        try:
            net.sizes_for(len(cloud))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    if args.num_points:
        try:
            net.sizes_for(args.num_points)
        except InputError as error:
            raise InputError(f"--num-points {args.num_points}: {error}") from None


if __name__ == "__main__":
    run_script(main)
