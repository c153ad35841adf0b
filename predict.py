#!/usr/bin/env python
"""Two point clouds in, the motion of every source point out. No ground truth and no calibration are needed."""

import lib  # noqa: F401  (before torch: it sets up OpenMP)

# isort: split
import argparse
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from lib import cli
from lib.clouds.axes import AXES, check_pair, from_project, to_project, warnings_of
from lib.clouds.files import READERS, WRITERS, encode_flow, read_cloud
from lib.errors import InputError
from lib.files import write_atomically
from lib.flags import Parser, number
from lib.predict.rigid_motion import FOLLOWS, RigidMotion, fit_rigid_motion
from lib.predict.scene_flow import predict_flow
from lib.predict.sequence import Job, check_results, consecutive_pairs, is_finished, note_settings
from lib.training.checkpoint import file_digest
from models import load_model
from models.scene_flow.cuda_graph import GraphedNetwork

EPILOG = f"""examples:
  python predict.py before.ply after.ply --checkpoint best.pt --axes kitti-camera --out flow.ply
      opens in MeshLab and CloudCompare: the motion stands in nx ny nz, its length in quality
  python predict.py 0000.bin 0001.bin --checkpoint best.pt --axes velodyne --num-points 8192
      the network sees 8192 points of each scan; every point gets a flow, in flow.npz
  python predict.py --batch FRAMES --checkpoint best.pt --axes velodyne --num-points 8192 --out FLOWS
      each frame of a folder to the next, by name, into FLOWS/<frame>.npz; started again it goes on where it stopped

formats: {" ".join(READERS)}; units: metres
axes: {"; ".join(f"{name}: {what}" for name, (what, _) in AXES.items())}
The flow is written in the axes of the input, row i for point i of SOURCE.
--rigid fits p -> R p + t to the flow by least squares over the half of the points that fit best, and says how many of
all points end within {FOLLOWS:g} m of it; a .npz has it as rotation (3, 3), translation (3,), m, and follows (N,).
"""


class Result(NamedTuple):
    """flow (N, 3), metres, in the axes of the input; seconds it took; the rigid motion, where asked for."""

    flow: np.ndarray
    seconds: float
    rigid: RigidMotion | None


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    cli.only_for(cli.task_of_checkpoint(argv), "scene-flow", "predict.py")
    with cli.session(args) as device:
        net = load_model(args.checkpoint, device)
        net = GraphedNetwork(net) if args.cuda_graph else net
        if args.batch is None:
            predict_one(net, Job(args.source, args.target, args.out), args, device)
        else:
            predict_sequence(net, consecutive_pairs(args.batch, args.out), args, device)
    return 0


def predict_one(net: nn.Module, job: Job, args: argparse.Namespace, device: torch.device) -> None:
    """One pair, told at length."""
    source, target = read_cloud(job.source), read_cloud(job.target)
    made = predict(net, job, source, target, args, device)
    write(job.out, source, made)
    rows = [
        ("axes", f"{args.axes} ({AXES[args.axes][0]})"),
        (
            "points",
            f"{len(source)} source, {len(target)} target"
            + (f", {args.num_points} drawn of each that has more" if args.num_points else ""),
        ),
        ("flow", described(made.flow)),
        *(made.rigid.lines() if made.rigid else []),
        (
            "time",
            f"{made.seconds:.3f} s for this pair (network and interpolation, first pair of the process, {device})",
        ),
        ("written", f"{job.out}"),
    ]
    print("\n".join(f"{name:<9}{value}" for name, value in rows))


def predict_sequence(net: nn.Module, jobs: list[Job], args: argparse.Namespace, device: torch.device) -> None:
    """Every pair of a folder, a line each. Pairs that an earlier start finished are left as they are."""
    settings = {
        "checkpoint": file_digest(args.checkpoint),
        "axes": args.axes,
        "num_points": args.num_points,
        "amp": args.amp,
        "rigid": args.rigid,
    }
    check_results(args.out, settings)
    seconds = []
    source = read_cloud(jobs[0].source)
    for job in jobs:
        target = read_cloud(job.target)
        if is_finished(job, source):
            print(f"{job}: finished before")
        else:
            made = predict(net, job, source, target, args, device)
            if not seconds:
                note_settings(args.out, settings)
            write(job.out, source, made)
            seconds.append(made.seconds)
            rigid = "".join(f"; {value}" for _, value in made.rigid.lines()) if made.rigid else ""
            print(f"{job}: {described(made.flow)}{rigid}; {made.seconds:.3f} s", flush=True)
        source = target
    rows = [
        ("pairs", f"{len(seconds)} predicted, {len(jobs) - len(seconds)} finished before"),
        *(
            [("time", f"{np.median(seconds):.3f} s a pair, the median (network and interpolation, {device})")]
            if seconds
            else []
        ),
        ("written", f"{args.out}"),
    ]
    print("\n".join(f"{name:<9}{value}" for name, value in rows))


def predict(
    net: nn.Module, job: Job, source: np.ndarray, target: np.ndarray, args: argparse.Namespace, device: torch.device
) -> Result:
    """The flow of every point of source (N, 3) to target (M, 3), both in the axes of the input.

    Warns about what looks wrong; raises InputError for clouds that cannot be a pair. In a sequence both name the pair.
    """
    where = f"{job}: " if args.batch else ""
    try:
        check_pair(source, target)
        check_sizes(net, job, args.num_points, source, target)
        for line in warnings_of(source, target, args.axes):
            print(f"warning: {where}{line}", file=sys.stderr)
        xyz1, xyz2 = (to_project(cloud, args.axes) for cloud in (source, target))
        flow, seconds = predict_flow(net, xyz1, xyz2, device, args.num_points, args.amp)
        flow = from_project(flow, args.axes)
        return Result(flow, seconds, fit_rigid_motion(source, flow) if args.rigid else None)
    except InputError as error:
        raise InputError(f"{where}{error}") from None


def write(out: Path, source: np.ndarray, made: Result) -> None:
    """The flow file, whole or not at all."""
    more = (
        {}
        if made.rigid is None
        else {"rotation": made.rigid.rotation, "translation": made.rigid.translation, "follows": made.rigid.follows}
    )
    write_atomically(out, encode_flow(out.suffix.lower(), source, made.flow, **more))


def described(flow: np.ndarray) -> str:
    length = np.linalg.norm(flow, axis=1)
    return f"median {np.median(length):.4f} m, largest {length.max():.4f} m"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="predict.py", description=__doc__, epilog=EPILOG)
    parser.add_argument("source", type=Path, metavar="SOURCE", nargs="?", help="the cloud whose points get a flow")
    parser.add_argument(
        "target", type=Path, metavar="TARGET", nargs="?", help="the same scene a moment later, rows in any order"
    )
    parser.add_argument(
        "--batch",
        type=Path,
        metavar="FOLDER",
        help="instead of SOURCE and TARGET: a folder of frames, each to the next by name",
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="FILE", help="best.pt or last.pt, or a published state"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"the flow: {', '.join(WRITERS)} (default: flow.npz); "
        "with --batch a folder for a .npz of each pair (default: flows)",
    )
    parser.add_argument("--axes", choices=list(AXES), default="as-is", help="axes of the clouds")
    parser.add_argument(
        "--num-points",
        type=number(int, 1),
        metavar="N",
        help="draw N points of each cloud and interpolate (default: all points)",
    )
    cli.add_task_flag(parser, "task of the network; a checkpoint knows its own")
    parser.add_argument("--rigid", action="store_true", help="also fit the rigid motion that most points follow")
    cli.add_machine_flags(parser, workers=None)
    cli.add_graph_flag(parser)
    args = parser.parse_args(argv)
    if args.batch is None and args.target is None:
        raise InputError("give SOURCE and TARGET, or a folder of frames with --batch")
    if args.batch is not None and args.source is not None:
        raise InputError("--batch takes the frames from its folder: leave out SOURCE and TARGET")
    args.out = args.out or Path("flow.npz" if args.batch is None else "flows")
    check_out(args.out, file=args.batch is None)
    return args


def check_out(out: Path, file: bool) -> None:
    """Raises InputError when a flow file, or a folder of them, cannot be written there."""
    if file and out.suffix.lower() not in WRITERS:
        raise InputError(f"--out {out}: a flow is written as {', '.join(WRITERS)}")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise InputError(f"--out {out}: its folder does not exist; create it first")
    there = out if out.is_dir() and not file else folder
    if (file and out.is_dir()) or not os.access(there, os.W_OK):
        raise InputError(f"--out {out}: cannot be written there")


def check_sizes(net: nn.Module, job: Job, num_points: int | None, source: np.ndarray, target: np.ndarray) -> None:
    """Raises InputError naming the cloud, or the flag, that gives the network too few points."""
    for path, cloud in ((job.source, source), (job.target, target)):
        try:
            net.sizes_for(len(cloud))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    if num_points:
        try:
            net.sizes_for(num_points)
        except InputError as error:
            raise InputError(f"--num-points {num_points}: {error}") from None


if __name__ == "__main__":
    cli.run_script(main)
