#!/usr/bin/env python
"""Draws one pair of a data set with the flow a checkpoint predicts: source, target and warped source, as a PNG."""

import argparse
from pathlib import Path

import torch

from lib.cli import Parser, add_data_flags, add_machine_flags, number, parse_data, run_script, session
from lib.files import write_atomically
from lib.metrics.scene_flow import scene_flow_metrics
from lib.ops.errors import InputError
from lib.picture import draw_flow
from lib.prediction import predict_flow
from lib.tasks import TASKS, Task
from models import load_model

EPILOG = """examples:
  python visualize.py --checkpoint runs/demo/student/best.pt --dataset synthetic-drive --num-points 2048 --out flow.png
  python visualize.py --checkpoint best.pt --dataset kitti --data-root DATA --split all --scene 3 --out scene3.png
"""


def main(argv: list[str] | None = None) -> int:
    task = TASKS["scene-flow"]
    args = parse(task, argv)
    with session(args) as device:
        pairs = task.open_pairs(args.dataset, args.split, args.data_root, args.subset, args.num_scenes, args.num_points)
        if args.scene >= len(pairs):
            raise InputError(f"--scene {args.scene}: {args.dataset} {args.split} has scenes 0 to {len(pairs) - 1}")
        pair = pairs[args.scene]
        net = load_model(args.checkpoint, device)
        source, target = pair.xyz1.numpy(), pair.xyz2.numpy()
        flow = predict_flow(net, source, target, device, amp=args.amp).flow
        epe = scene_flow_metrics(torch.from_numpy(flow), pair.flow, pair.xyz1, pair.camera)["EPE3D"]
        title = f"{pair.name}: EPE3D {epe:.3f} m"
        write_atomically(args.out, draw_flow(source, target, flow, title))
        print(f"wrote {args.out}: {pair.name}, EPE3D {epe:.4f} m")
    return 0


def parse(task: Task, argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="visualize.py", description=__doc__, epilog=EPILOG)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="network whose flow is drawn")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="the picture")
    parser.add_argument("--scene", type=number(int, 0), default=0, metavar="I", help="index of the pair in the split")
    add_data_flags(parser, task.datasets, default="kitti")
    parser.add_argument("--split", choices=["test", "all", "validation", "train"], default="test", help="its part")
    add_machine_flags(parser, workers=0)
    args = parse_data(parser.parse_args(argv))
    if args.out.suffix != ".png":
        raise InputError(f"--out {args.out}: pictures are written as .png")
    if not args.out.absolute().parent.is_dir():
        raise InputError(f"--out {args.out}: its folder does not exist; create it first")
    return args


if __name__ == "__main__":
    run_script(main)
