#!/usr/bin/env python
"""Predicts on your own clouds, without ground truth: the motion of every point, or the objects as 3-D boxes.

What it does is decided by the checkpoint. A network for scene flow takes two clouds of one scene and gives every point
of the first one its motion. A LiDAR detector takes one scan and gives boxes with class and score.
"""

import lib  # noqa: F401  (before torch: it sets up OpenMP)

# isort: split
import argparse
import os
from pathlib import Path

import torch
from torch import nn

from lib import cli
from lib.clouds.axes import AXES
from lib.clouds.files import READERS, WRITERS
from lib.errors import InputError
from lib.flags import Parser, number
from lib.predict.box_files import BOX_FILES
from lib.predict.lidar import GROUND, LIDAR_AXES, ScanSettings
from lib.predict.rigid_motion import FOLLOWS
from lib.predict.scans import BoxSettings, predict_folder, predict_scan
from lib.predict.scene_flow import FlowSettings, predict_one, predict_sequence
from lib.predict.sequence import Job, consecutive_pairs
from lib.tasks import Task
from models import load_model

FORMATS = f"""formats: {" ".join(READERS)}; units: metres
axes: {"; ".join(f"{name}: {what}" for name, (what, _) in AXES.items())}"""
EPILOGS = {
    "scene-flow": f"""examples:
  python predict.py before.ply after.ply --checkpoint best.pt --axes kitti-camera --out flow.ply
      opens in MeshLab and CloudCompare: the motion stands in nx ny nz, its length in quality
  python predict.py 0000.bin 0001.bin --checkpoint best.pt --axes velodyne --num-points 8192
      the network sees 8192 points of each scan; every point gets a flow, in flow.npz
  python predict.py --batch FRAMES --checkpoint best.pt --axes velodyne --num-points 8192 --out FLOWS
      each frame of a folder to the next, by name, into FLOWS/<frame>.npz; started again it goes on where it stopped

{FORMATS}
The flow is written in the axes of the input, row i for point i of SOURCE.
--rigid fits p -> R p + t to the flow by least squares over the half of the points that fit best, and says how many of
all points end within {FOLLOWS:g} m of it; a .npz has it as rotation (3, 3), translation (3,), m, and follows (N,).
The flags of a LiDAR detector: python predict.py --task lidar-detection --help
""",
    "lidar-detection": f"""examples:
  python predict.py 000008.bin --checkpoint best.pt --out boxes.json
      boxes, scores, classes, and what the seven numbers of a box are
  python predict.py 000008.bin --checkpoint best.pt --calib calib/000008.txt --image 1242x375 --out 000008.txt
      KITTI's result lines; only points that the camera sees are used, as in training
  python predict.py --batch velodyne --checkpoint best.pt --calib calib --image image_2 --format txt --out RESULTS
      every scan of a folder, into RESULTS/<frame>.txt; started again it goes on where it stopped

{FORMATS}
Boxes are in the LiDAR frame: x ahead, y left, z up. A .ply holds the points and the edges of the boxes, in the axes of
the input. Points need a reflectance (intensity) from 0 to 1: column 4 of .bin, .npy and plain tables, else by name.
""",
}


def main(argv: list[str] | None = None) -> int:
    task = cli.task_of_checkpoint(argv)
    cli.only_for(task, tuple(EPILOGS), "predict.py")
    args = parse(task, argv)
    with cli.session(args) as device:
        net = load_model(args.checkpoint, device)
        if task.name == "lidar-detection":
            find_objects(net, args, device)
        else:
            predict_flows(task.graphed(net) if args.cuda_graph else net, args, device)
    return 0


def predict_flows(net: nn.Module, args: argparse.Namespace, device: torch.device) -> None:
    """The flow of one pair of clouds, or of each pair of a folder."""
    settings = FlowSettings(args.axes, args.num_points, args.amp, args.rigid)
    if args.batch is None:
        predict_one(net, Job(args.source, args.target, args.out), settings, device)
    else:
        jobs = consecutive_pairs(args.batch, args.out)
        predict_sequence(net, jobs, args.out, args.checkpoint, settings, device)


def find_objects(net: nn.Module, args: argparse.Namespace, device: torch.device) -> None:
    """The boxes of one scan, or of each scan of a folder."""
    scan = ScanSettings(args.axes, args.reflectance, args.reflectance_max, args.ground_height)
    settings = BoxSettings(scan, args.score, args.amp, args.calib, args.image)
    if args.batch is None:
        predict_scan(net, args.source, args.out, args.checkpoint, settings, device)
    else:
        predict_folder(net, args.batch, args.out, f".{args.format}", args.checkpoint, settings, device)


def parse(task: Task, argv: list[str] | None) -> argparse.Namespace:
    detects = task.name == "lidar-detection"
    parser = Parser(prog="predict.py", description=__doc__, epilog=EPILOGS[task.name])
    if detects:
        parser.add_argument("source", type=Path, metavar="SCAN", nargs="?", help="the cloud in which objects are found")
    else:
        parser.add_argument("source", type=Path, metavar="SOURCE", nargs="?", help="the cloud whose points get a flow")
        parser.add_argument(
            "target", type=Path, metavar="TARGET", nargs="?", help="the same scene a moment later, rows in any order"
        )
    given = "SCAN" if detects else "SOURCE and TARGET"
    parser.add_argument(
        "--batch",
        type=Path,
        metavar="FOLDER",
        help=f"instead of {given}: a folder of frames, " + ("each alone" if detects else "each to the next by name"),
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="FILE", help="best.pt or last.pt, or a published state"
    )
    parser.add_argument("--axes", choices=list(AXES), default=LIDAR_AXES if detects else "as-is", help="of the clouds")
    cli.add_task_flag(parser, "task of the network; a checkpoint knows its own")
    (add_detector_flags if detects else add_flow_flags)(parser)
    cli.add_machine_flags(parser, workers=None)
    if not detects:
        cli.add_graph_flag(parser)
    args = parser.parse_args(argv)
    last = args.source if detects else args.target
    if args.batch is None and last is None:
        raise InputError(f"give {given}, or a folder of frames with --batch")
    if args.batch is not None and args.source is not None:
        raise InputError(f"--batch takes the frames from its folder: leave out {given}")
    if detects:
        complete_detector(args)
    else:
        args.out = args.out or Path("flow.npz" if args.batch is None else "flows")
        check_out(args.out, args.batch is None, "a flow is", WRITERS)
    return args


def add_flow_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"the flow: {', '.join(WRITERS)} (default: flow.npz); "
        "with --batch a folder for a .npz of each pair (default: flows)",
    )
    parser.add_argument(
        "--num-points",
        type=number(int, 1),
        metavar="N",
        help="draw N points of each cloud and interpolate (default: all points)",
    )
    parser.add_argument("--rigid", action="store_true", help="also fit the rigid motion that most points follow")


def add_detector_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"the boxes: {', '.join(BOX_FILES)} (default: boxes.json); with --batch a folder (default: boxes)",
    )
    parser.add_argument(
        "--format", choices=[ending[1:] for ending in BOX_FILES], help="of the files with --batch (default: json)"
    )
    parser.add_argument(
        "--score", type=number(float, 0, 1), default=0.0, metavar="S", help="leave out boxes with a lower score"
    )
    parser.add_argument("--calib", type=Path, metavar="FILE", help="KITTI calibration; with --batch a folder or a file")
    parser.add_argument(
        "--image", metavar="FILE", help="the camera's PNG, a folder of them with --batch, or its size as 1242x375"
    )
    parser.add_argument(
        "--reflectance", type=number(float, 0, 1), metavar="R", help="of every point, for clouds that have none"
    )
    parser.add_argument(
        "--reflectance-max",
        type=number(float, 0, open_low=True),
        default=1.0,
        metavar="V",
        help="the number in the file that means 1: 255 or 65535 for whole numbers",
    )
    parser.add_argument(
        "--ground-height",
        type=number(float, -20, 20),
        default=GROUND,
        metavar="Z",
        help="z of the ground below the sensor, m, where it does not stand as high as KITTI's",
    )


def complete_detector(args: argparse.Namespace) -> None:
    """Fills in defaults and raises InputError for flags that do not fit together."""
    args.out = args.out or Path("boxes.json" if args.batch is None else "boxes")
    if args.batch is None and args.format is not None:
        raise InputError("--format is for --batch: the ending of --out says the format of one file")
    args.format = args.format or "json"
    check_out(args.out, args.batch is None, "boxes are", BOX_FILES)
    ending = args.out.suffix.lower() if args.batch is None else f".{args.format}"
    if (args.calib is None) != (args.image is None):
        raise InputError("--calib and --image belong together: give both or neither")
    if ending == ".txt" and args.calib is None:
        raise InputError("KITTI's result lines (.txt) need --calib and --image")


def check_out(out: Path, file: bool, what: str, endings: object) -> None:
    """Raises InputError when a result file, or a folder of them, cannot be written there. what: the result is."""
    if file and out.suffix.lower() not in endings:
        raise InputError(f"--out {out}: {what} written as {', '.join(endings)}")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise InputError(f"--out {out}: its folder does not exist; create it first")
    there = out if out.is_dir() and not file else folder
    if (file and out.is_dir()) or not os.access(there, os.W_OK):
        raise InputError(f"--out {out}: cannot be written there")


if __name__ == "__main__":
    cli.run_script(main)
