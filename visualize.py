#!/usr/bin/env python
"""Draws a scene flow or a detector's boxes: a picture for a paper (.png), or a page to turn that needs nothing else."""

import argparse
import sys
from pathlib import Path

from lib import cli
from lib.clouds.axes import AXES, to_project
from lib.clouds.files import read_cloud, read_flow
from lib.datasets.kitti_object import read_calibration
from lib.errors import InputError
from lib.files import write_atomically
from lib.flags import Parser, check_output, number
from lib.metrics.scene_flow import scene_flow_metrics
from lib.predict.box_files import holds_boxes, read_boxes
from lib.predict.lidar import LIDAR_AXES, ScanSettings, detect, read_as_measured
from lib.predict.scene_flow import predict_flow
from lib.show.detection.picture import draw_scene
from lib.show.detection.scene import THRESHOLD, Scene, scene_of
from lib.show.detection.view3d import detection_page
from lib.show.scene_flow.flow_page import flow_page
from lib.show.scene_flow.picture import draw_flow
from lib.show.scene_flow.score_file import PROTOCOL, read_score
from lib.show.scene_flow.view import View
from lib.tasks import TASKS, Task
from models import load_model

EPILOGS = {
    "scene-flow": """examples:
  python visualize.py flow.npz --target after.ply --axes kitti-camera --out flow.html
      what predict.py wrote, with the cloud it was predicted for
  python visualize.py --checkpoint best.pt --dataset kitti --data-root DATA --split all --scene 3 --out scene3.png
      a pair of a data set, with the error of the flow
  python visualize.py score.json --scene worst --out worst.png --out worst.html
      a scene of what evaluate.py --json wrote: its network, data set and points; add --data-root for a set on disk

The flags for a LiDAR detector: python visualize.py --task lidar-detection --help
""",
    "lidar-detection": """examples:
  python visualize.py boxes.json --cloud 000008.bin --out boxes.html
      what predict.py wrote, with the scan it was predicted for
  python visualize.py boxes.json --cloud 000008.bin --calib 000008.txt --image 000008.png --out boxes.png
      also in the camera's image
  python visualize.py --checkpoint best.pt --dataset synthetic-lidar --scene 3 --out frame3.png --out frame3.html
      a frame of a data set, with the ground truth
""",
}
TOLERANCE = 1e-3  # m, by which EPE3D may differ between machines


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if any(holds_boxes(Path(word)) for word in words if word.endswith(".json")):
        task = TASKS["lidar-detection"]
    else:
        task = cli.task_of_checkpoint(argv)
    cli.only_for(task, tuple(EPILOGS), "visualize.py")
    args = parse(task, argv)
    if task.name == "lidar-detection":
        scene = read_objects(args) if args.file else find_objects(task, args)
        shown = len(scene.above(args.score).scores)
        what = f"{scene.name}, {shown} of {len(scene.detections.scores)} boxes with a score of {args.score:g} or more"
        title = scene.name
        drawings = {".png": lambda: draw_scene(scene, title, args.score)}
        drawings[".html"] = lambda: detection_page(scene, title, args.score)
    else:
        view = read_prediction(args) if is_prediction(args.file) else predict_scene(task, args)
        epe = None if view.error is None else view.error.mean()
        title = view.name if epe is None else f"{view.name}: EPE3D {epe:.3f} m"
        what = view.name + ("" if epe is None else f", EPE3D {epe:.4f} m")
        drawings = {".png": lambda: draw_flow(view, title), ".html": lambda: flow_page(view, title)}
    for out in args.out:
        write_atomically(out, drawings[out.suffix.lower()]())
        print(f"wrote {out}: {what}")
    return 0


def parse(task: Task, argv: list[str] | None) -> argparse.Namespace:
    """The flags; for an evaluation with what it was scored with, and the evaluation itself as ``score_file``."""
    detects = task.name == "lidar-detection"
    made = "boxes.json of predict.py" if detects else "flow.npz of predict.py, or the .json of evaluate.py"
    parser = Parser(prog="visualize.py", description=__doc__, epilog=EPILOGS[task.name])
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help=f"{made}; none: --checkpoint")
    parser.add_argument(
        "--out",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="a .png or a .html; may be given several times",
    )
    group = parser.add_argument_group("with boxes.json" if detects else "with flow.npz")
    if detects:
        group.add_argument("--cloud", type=Path, metavar="CLOUD", help="the scan, in any format of predict.py")
        group.add_argument("--calib", type=Path, metavar="FILE", help="KITTI calibration of --image")
        group.add_argument("--image", type=Path, metavar="FILE", help="the camera's PNG, for the boxes in it")
    else:
        group.add_argument("--target", type=Path, metavar="CLOUD", help="the target cloud, in any format of predict.py")
    group.add_argument("--axes", choices=list(AXES), help="axes of the clouds, as they were for predict.py")
    group = parser.add_argument_group("without")
    group.add_argument("--checkpoint", type=Path, metavar="FILE", help="network whose prediction is drawn")
    best = "" if detects else "; best or worst with an evaluation"
    group.add_argument("--scene", metavar="I", help=f"its index in the split, or its name{best} (default: 0)")
    cli.add_task_flag(group, "task of the evaluation; a checkpoint knows its own")
    cli.add_data_flags(parser, task, default=task.default_datasets["student"])
    group.add_argument("--split", choices=list(task.parts), default="test", help="its part")
    if detects:
        parser.add_argument(
            "--score", type=number(float, 0, 1), default=THRESHOLD, metavar="S", help="lowest score that is drawn"
        )
    cli.add_machine_flags(parser, workers=0)
    args = parser.parse_args(argv)
    for out in args.out:
        check_output("--out", out, [".png", ".html"])
    known = (".json",) if detects else (".npz", ".json")
    if args.file is not None and args.file.suffix.lower() not in known:
        raise InputError(f"{args.file}: give {made.replace(', or', ' or')}")
    if args.file is None and args.checkpoint is None:
        raise InputError(f"nothing to draw: give {made.replace(', or', ',')}, or --checkpoint")
    predicted, kind = (args.file is not None, "boxes.json") if detects else (is_prediction(args.file), ".npz")
    theirs = ("cloud", "calib", "image", "axes") if detects else ("target", "axes")
    for name in ("checkpoint", "scene") if predicted else theirs:
        if getattr(args, name) is not None:
            raise InputError(f"--{name} has no use {'with' if predicted else 'without'} a {kind}: leave it out")
    if detects and predicted and args.cloud is None:
        raise InputError("boxes.json holds no points: give the scan with --cloud")
    if detects and (args.calib is None) != (args.image is None):
        raise InputError("--calib and --image belong together: give both or neither")
    score = None
    if not detects and args.file is not None and not predicted:
        score = read_score(args.file)
        recorded = {name: score["protocol"][name] for name in PROTOCOL}
        parser.set_defaults(**recorded, checkpoint=Path(score["checkpoint"]))
        args = parser.parse_args(argv)
        for name, value in recorded.items():
            if getattr(args, name) != value:
                flag = "--" + name.replace("_", "-")
                raise InputError(f"{flag} {getattr(args, name)}: {args.file} was scored with {value}; leave it out")
    args.score_file = score
    return cli.parse_data(args, task)


def is_prediction(file: Path | None) -> bool:
    return file is not None and file.suffix.lower() == ".npz"


def read_prediction(args: argparse.Namespace) -> View:
    """What predict.py wrote, in the project's frame."""
    axes = args.axes or "as-is"
    source, flow = (to_project(array, axes) for array in read_flow(args.file))
    target = None if args.target is None else to_project(read_cloud(args.target), axes)
    return View(args.file.name, source, flow, target)


def predict_scene(task: Task, args: argparse.Namespace) -> View:
    """A pair of a data set with the flow that the checkpoint predicts."""
    with cli.session(args) as device:
        pairs = task.open(args.dataset, args.split, args)
        names = list(pairs.names)
        if args.score_file and names != [scene["name"] for scene in args.score_file["scenes"]]:
            raise InputError(
                f"{args.dataset} {args.split} holds other scenes than {args.file}: give the --data-root, "
                f"or for a synthetic set the --num-scenes, of that evaluation"
            )
        pair = pairs[find_scene(args, names)]
        net = load_model(args.checkpoint, device)
        source, target = pair.xyz1.numpy(), pair.xyz2.numpy()
        flow = predict_flow(net, source, target, device, amp=args.amp).flow
    epe = scene_flow_metrics(flow, pair.flow, pair.xyz1, pair.camera)["EPE3D"]
    if args.score_file:
        before = args.score_file["scenes"][names.index(pair.name)]["EPE3D"]
        if abs(before - epe) > TOLERANCE:
            print(
                f"warning: EPE3D is {epe:.4f} m here and {before:.4f} m in {args.file}: is {args.checkpoint} still "
                f"the network that was scored?",
                file=sys.stderr,
            )
    return View(pair.name, source, flow, target, pair.flow.numpy())


def read_objects(args: argparse.Namespace) -> Scene:
    """What predict.py wrote, with the scan in the LiDAR frame."""
    calibration = None if args.calib is None else read_calibration(args.calib)
    if args.image is not None and not args.image.is_file():
        raise InputError(f"no file {args.image}")
    points = read_as_measured(args.cloud, args.axes or LIDAR_AXES)
    return Scene(args.cloud.name, points, read_boxes(args.file), None, args.image, calibration)


def find_objects(task: Task, args: argparse.Namespace) -> Scene:
    """A frame of a data set with the objects that the checkpoint finds."""
    with cli.session(args) as device:
        samples = task.open(args.dataset, args.split, args)
        sample = samples[find_scene(args, list(samples.names))]
        net = load_model(args.checkpoint, device)
        task.check(net, args)
        found, _ = detect(net, sample.points.numpy(), device, ScanSettings(), args.amp)
    return scene_of(sample.frame, found)


def find_scene(args: argparse.Namespace, names: list[str]) -> int:
    """The index that --scene means. Raises InputError for a scene that is not there."""
    wanted = args.scene or "0"
    if wanted in ("best", "worst"):
        if args.score_file is None:
            raise InputError(f"--scene {wanted} needs the .json of an evaluation")
        epe = [scene["EPE3D"] for scene in args.score_file["scenes"]]
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
