#!/usr/bin/env python
"""Draws a scene flow: a picture for a paper (.png), or a page to turn and to play that needs nothing else (.html)."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lib import cli
from lib.clouds.axes import AXES, to_project
from lib.clouds.files import read_cloud, read_flow
from lib.errors import InputError
from lib.files import write_atomically
from lib.flags import Parser, check_output
from lib.metrics.scene_flow import scene_flow_metrics
from lib.predict.scene_flow import predict_flow
from lib.show.scene_flow.flow_page import flow_page
from lib.show.scene_flow.picture import draw_flow
from lib.show.scene_flow.view import View
from lib.tasks import Task
from models import load_model

EPILOG = """examples:
  python visualize.py flow.npz --target after.ply --axes kitti-camera --out flow.html
      what predict.py wrote, with the cloud it was predicted for
  python visualize.py --checkpoint best.pt --dataset kitti --data-root DATA --split all --scene 3 --out scene3.png
      a pair of a data set, with the error of the flow
  python visualize.py score.json --scene worst --out worst.png --out worst.html
      a scene of what evaluate.py --json wrote: its network, data set and points; add --data-root for a set on disk
"""
PROTOCOL = ("dataset", "split", "subset", "num_points", "amp")  # what a scene of an evaluation depends on
TOLERANCE = 1e-3  # m, by which EPE3D may differ between machines


def main(argv: list[str] | None = None) -> int:
    task = cli.task_of_checkpoint(argv)
    cli.only_for(task, ("scene-flow",), "visualize.py")
    args = parse(task, argv)
    view = read_prediction(args) if is_prediction(args.file) else predict_scene(task, args)
    epe = None if view.error is None else view.error.mean()
    title = view.name if epe is None else f"{view.name}: EPE3D {epe:.3f} m"
    for out in args.out:
        content = draw_flow(view, title) if out.suffix.lower() == ".png" else flow_page(view, title)
        write_atomically(out, content)
        print(f"wrote {out}: {view.name}" + ("" if epe is None else f", EPE3D {epe:.4f} m"))
    return 0


def parse(task: Task, argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="visualize.py", description=__doc__, epilog=EPILOG)
    parser.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="flow.npz of predict.py, or the .json of evaluate.py; none: --checkpoint",
    )
    parser.add_argument(
        "--out",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="a .png or a .html; may be given several times",
    )
    group = parser.add_argument_group("with flow.npz")
    group.add_argument("--target", type=Path, metavar="CLOUD", help="the target cloud, in any format of predict.py")
    group.add_argument("--axes", choices=list(AXES), help="axes of both clouds, as for predict.py (default: as-is)")
    group = parser.add_argument_group("without")
    group.add_argument("--checkpoint", type=Path, metavar="FILE", help="network whose flow is drawn")
    group.add_argument(
        "--scene",
        metavar="I",
        help="a scene's index in the split, or its name; best or worst with an evaluation (default: 0)",
    )
    cli.add_task_flag(group, "task of the evaluation; a checkpoint knows its own")
    cli.add_data_flags(parser, task, default=task.default_datasets["student"])
    group.add_argument("--split", choices=["test", "all", "validation", "train"], default="test", help="its part")
    cli.add_machine_flags(parser, workers=0)
    args = parser.parse_args(argv)
    for out in args.out:
        check_output("--out", out, [".png", ".html"])
    if args.file is not None and args.file.suffix.lower() not in (".npz", ".json"):
        raise InputError(f"{args.file}: give flow.npz of predict.py or the .json of evaluate.py")
    if args.file is None and args.checkpoint is None:
        raise InputError("nothing to draw: give flow.npz of predict.py, the .json of evaluate.py, or --checkpoint")
    without = "with" if is_prediction(args.file) else "without"
    for name in ("checkpoint", "scene") if is_prediction(args.file) else ("target", "axes"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name} has no use {without} a .npz: leave it out")
    score = None
    if args.file is not None and not is_prediction(args.file):
        score = read_score(args.file)
        recorded = {name: score["protocol"][name] for name in PROTOCOL}
        parser.set_defaults(**recorded, checkpoint=Path(score["checkpoint"]))
        args = parser.parse_args(argv)
        for name, value in recorded.items():
            if getattr(args, name) != value:
                flag = "--" + name.replace("_", "-")
                raise InputError(f"{flag} {getattr(args, name)}: {args.file} was scored with {value}; leave it out")
    args.score = score
    return cli.parse_data(args, task)


def is_prediction(file: Path | None) -> bool:
    return file is not None and file.suffix.lower() == ".npz"


def read_prediction(args: argparse.Namespace) -> View:
    """What predict.py wrote, in the project's frame."""
    axes = args.axes or "as-is"
    source, flow = (to_project(array, axes) for array in read_flow(args.file))
    target = None if args.target is None else to_project(read_cloud(args.target), axes)
    return View(args.file.name, source, flow, target)


def read_score(path: Path) -> dict[str, Any]:
    """What evaluate.py --json wrote about a network. Raises InputError for anything else."""
    try:
        score = json.loads(path.read_bytes())
        protocol = score["protocol"]
        what = [protocol[name] for name in PROTOCOL]
        what += [(str(scene["name"]), float(scene["EPE3D"])) for scene in score["scenes"]]
        baseline = score.get("baseline")
        if baseline is None:
            what += [Path(score["checkpoint"])]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is not what evaluate.py --json writes: evaluate again") from None
    if baseline is not None:
        raise InputError(
            f"{path} scores the baseline {baseline}, which has no network: give the evaluation of a checkpoint"
        )
    return score


def predict_scene(task: Task, args: argparse.Namespace) -> View:
    """A pair of a data set with the flow that the checkpoint predicts."""
    with cli.session(args) as device:
        pairs = task.open(args.dataset, args.split, args)
        names = list(pairs.scenes.names)
        if args.score and names != [scene["name"] for scene in args.score["scenes"]]:
            raise InputError(
                f"{args.dataset} {args.split} holds other scenes than {args.file}: give the --data-root, "
                f"or for a synthetic set the --num-scenes, of that evaluation"
            )
        pair = pairs[find_scene(args, names)]
        net = load_model(args.checkpoint, device)
        source, target = pair.xyz1.numpy(), pair.xyz2.numpy()
        flow = predict_flow(net, source, target, device, amp=args.amp).flow
    epe = scene_flow_metrics(flow, pair.flow, pair.xyz1, pair.camera)["EPE3D"]
    if args.score:
        before = args.score["scenes"][names.index(pair.name)]["EPE3D"]
        if abs(before - epe) > TOLERANCE:
            print(
                f"warning: EPE3D is {epe:.4f} m here and {before:.4f} m in {args.file}: is {args.checkpoint} still "
                f"the network that was scored?",
                file=sys.stderr,
            )
    return View(pair.name, source, flow, target, pair.flow.numpy())


def find_scene(args: argparse.Namespace, names: list[str]) -> int:
    """The index that --scene means. Raises InputError for a scene that is not there."""
    wanted = args.scene or "0"
    if wanted in ("best", "worst"):
        if args.score is None:
            raise InputError(f"--scene {wanted} needs the .json of an evaluation")
        epe = [scene["EPE3D"] for scene in args.score["scenes"]]
        return epe.index(min(epe) if wanted == "best" else max(epe))
    if wanted in names:
        return names.index(wanted)
    if not (wanted.isascii() and wanted.isdecimal()) or int(wanted) >= len(names):
        raise InputError(
            f"--scene {wanted}: {args.dataset} {args.split} has scenes 0 to {len(names) - 1}, named like {names[0]}"
        )
    return int(wanted)


if __name__ == "__main__":
    cli.run_script(main)
