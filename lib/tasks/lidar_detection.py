"""LiDAR detection: cars, pedestrians and cyclists as upright 3-D boxes in the scan of one turn of a LiDAR.

PointPillars (Lang et al., CVPR 2019) teaches students of smaller width. Average precision by KITTI's rules.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lib.boxes import Detections
from lib.datasets.kitti_object import as_results
from lib.datasets.lidar import POINTPILLARS, SMALL, Augmentation, LidarBatch, LidarScenes, collate, open_database
from lib.datasets.lidar.parts import DATASETS, ON_DISK, Area, FramesInside, open_part
from lib.errors import InputError
from lib.features import Feature, Outputs, Shape, Sites, Want
from lib.flags import number
from lib.losses.lidar import assign_targets, detection_loss, output_distance
from lib.tasks import kitti_scores
from lib.tasks.task import PARTS, Record, Report, Task
from lib.training.distributed import unwrapped
from models.lidar.arithmetic import count_flops

CLASSES = ("Pedestrian", "Cyclist", "Car")  # a label of a batch is a place in here
NOTHING = Want()


class Ground(NamedTuple):
    """A part of the LiDAR's surroundings that detectors search, and how they are trained on it.

    low, high: x, y, z in m, LiDAR frame. min_points: an object with fewer points inside is not trained on.
    crop_labels: objects outside do not count in the scores either.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    augmentation: Augmentation
    min_points: int
    crop_labels: bool


GROUNDS = {
    "kitti": Ground((0.0, -39.68, -3.0), (69.12, 39.68, 1.0), POINTPILLARS, 0, crop_labels=False),
    "near": Ground((0.0, -17.92, -3.0), (35.84, 17.92, 1.0), SMALL, 5, crop_labels=True),
}
OF_DATASET = {"kitti": "kitti", "synthetic-lidar": "near"}  # the default of --ground


# --- flags and data ----------------------------------------------------------------------------------------------


def add_flags(group: Any) -> None:
    """The flags that say which frames, and where detectors look."""
    group.add_argument(
        "--ground",
        choices=list(GROUNDS),
        help="where to look for objects: kitti, 69 m ahead and 40 m to both sides; near, 36 m and 18 m, for the small "
        "networks (default: near for synthetic-lidar, kitti for kitti)",
    )
    group.add_argument(
        "--train-frames", type=Path, metavar="FILE", help="kitti: list of frame numbers (default: ImageSets/train.txt)"
    )
    group.add_argument(
        "--test-frames", type=Path, metavar="FILE", help="kitti: list of frame numbers (default: ImageSets/val.txt)"
    )
    group.add_argument(
        "--database",
        type=Path,
        metavar="DIR",
        help="folder for the database of objects that augmentation puts into other scenes (default: --data-root)",
    )
    group.add_argument(
        "--num-scenes", type=number(int, 2), metavar="N", help="training frames of synthetic-lidar (default: 400)"
    )


def complete(args: argparse.Namespace) -> None:
    """Where to look depends on the data set."""
    if args.ground is None:
        args.ground = OF_DATASET[args.dataset]


def open_clouds(dataset: str, part: str, args: argparse.Namespace) -> LidarScenes:
    """The samples of a part of a data set, as the flags say. A script that does not train augments nothing."""
    flags, ground = vars(args), GROUNDS[args.ground]
    frames = open_part(dataset, part, args.data_root, args.train_frames, args.test_frames, args.num_scenes)
    if ground.crop_labels:
        frames = FramesInside(frames, Area(ground.low[:2], ground.high[:2]))
    augmentation = None
    if part == "train" and flags.get("augment", "off") != "off":
        augmentation = ground.augmentation
    fills = augmentation is not None and "database" in augmentation.steps
    database = open_database(frames, args.database or args.data_root) if fills else None
    return LidarScenes(
        frames,
        CLASSES,
        (*ground.low, *ground.high),
        augment=augmentation,
        database=database,
        min_points=ground.min_points,
        seed=flags.get("seed", 0),
    )


def check(net: nn.Module, args: argparse.Namespace) -> None:
    """Raises InputError when the network looks elsewhere than --ground says."""
    ground = GROUNDS[args.ground]
    if tuple(net.range) != (*ground.low, *ground.high):
        fits = [name for name, other in GROUNDS.items() if tuple(net.range) == (*other.low, *other.high)]
        raise InputError(
            f"{net.name} looks for objects from {net.range[:3]} to {net.range[3:]} m, --ground {args.ground} holds "
            f"those from {ground.low} to {ground.high}: "
            + (f"give --ground {fits[0]}" if fits else "choose another network")
        )


# --- networks ----------------------------------------------------------------------------------------------------


def shapes(net: nn.Module) -> dict[str, Shape]:
    """The pillars and the stages of the bird's-eye view."""
    return net.feature_shapes()


def logits(net: nn.Module) -> dict[str, int]:
    """The classes of each anchor, and one for the background."""
    return {"class": len(net.classes) + 1}


def forward(net: nn.Module, batch: LidarBatch, want: Want = NOTHING, beside: Outputs | None = None) -> Outputs:
    """One network on one batch.

    net: the network or its data-parallel wrapper. beside: the outputs of another network on the same batch. Networks of
    one grid share the cells, and their features stand on the same sites.
    """
    plain = unwrapped(net)
    if beside is not None and beside.shared.grid == plain.grid:
        shared = beside.shared
    else:
        cells = plain.cells(batch.points)
        shared = Shared(plain.grid, cells, {"pillars": Sites(sample=cells.places[:, 0])})
    output = net(batch.points, shared.cells, want.features)
    features = {}
    for name in want.features:
        values = output.features[name].float()  # under autocast they come with 16 bits
        if name == "pillars":
            features[name] = Feature(values, "rows", shared.sites[name], shared.cells.counts)
        else:
            sites = shared.sites.setdefault(name + str(tuple(values.shape[2:])), Sites())
            features[name] = Feature(values, "map", sites)
    output = replace(
        output,
        class_logits=output.class_logits.float(),
        box_codes=output.box_codes.float(),
        direction_logits=output.direction_logits.float(),
    )
    found = Found(output, plain.assignment, tuple(plain.classes))
    names = {"class": with_background(output.class_logits)} if want.logits else {}
    return Outputs(found, features, names, shared=shared)


class Shared(NamedTuple):
    """What networks on the same batch share."""

    grid: Any  # VoxelGrid
    cells: Any  # Cells
    sites: dict[str, Sites]


class Found(NamedTuple):
    """What one network says of one batch, and what its ground truth is made with."""

    output: Any  # LidarOutput
    assignment: Any  # which anchors are for which class, and from what overlap on
    classes: tuple[str, ...]


def with_background(class_logits: Tensor) -> Tensor:
    """Logits (B, A, K) of K independent classes -> (B A, K + 1) of a choice among them and the background.

    The background has the logit 0, so that with one class the probabilities are those of the sigmoid. Our choice.
    """
    rows = class_logits.flatten(0, 1)  # (B, A, K) -> (B A, K)
    return torch.cat([rows, rows.new_zeros(len(rows), 1)], dim=1)


def loss(outputs: Outputs, batch: LidarBatch) -> dict[str, Tensor]:
    """The detector's loss: classes, boxes, directions, weighted as published."""
    found = outputs.prediction
    place = torch.tensor([found.classes.index(name) for name in CLASSES])  # of our classes among the network's
    labels = [place.to(label.device)[label] for label in batch.labels]
    targets = assign_targets(found.assignment, batch.boxes, labels)
    output = found.output
    return detection_loss(output.class_logits, output.box_codes, output.direction_logits, targets)


def distance(student: Outputs, teacher: Outputs, batch: LidarBatch, args: argparse.Namespace) -> dict[str, Tensor]:
    """The student's classes and boxes against the teacher's, anchor by anchor."""
    learned, taught = student.prediction, teacher.prediction
    if learned.classes != taught.classes or not torch.equal(learned.output.anchors, taught.output.anchors):
        raise InputError("output distillation compares anchor by anchor: student and teacher have different anchors")
    return output_distance(
        learned.output.class_logits, learned.output.box_codes, taught.output.class_logits, taught.output.box_codes
    )


# --- scores ------------------------------------------------------------------------------------------------------


def nothing(points: Sequence[Tensor]) -> list[Detections]:
    """The baseline that finds no object. points: clouds (N_i, 4)."""
    empty = torch.zeros(0)
    return [Detections(empty.reshape(0, 7), empty, empty.long(), CLASSES) for _ in points]  # (0,) -> (0, 7)


def predict(net: Callable[[Sequence[Tensor]], list[Detections]], batch: LidarBatch) -> Detections:
    """What a network or a baseline finds in the one cloud of a batch, with the centre inside the network's range."""
    if not isinstance(net, nn.Module):
        return net(batch.points)[0]
    return net.detect(batch.points)[0].within(net.range)


def score(detections: Detections, batch: LidarBatch) -> Record:
    """The labels and the detections of one frame. Raises InputError when a box is not finite."""
    if not (detections.boxes.isfinite().all() and detections.scores.isfinite().all()):
        raise InputError(f"a detection in {batch.names[0]} is not finite: unusable weights")
    frame = batch.frames[0]
    found = as_results(detections, frame.calibration, frame.image_size)
    return kitti_scores.frame_record(batch.names[0], frame.objects, found)


def flops(net: nn.Module, args: argparse.Namespace) -> int:
    """Arithmetic of one scan. That of the pillars, which depends on the scan and is small, is left out."""
    return count_flops(net).total


def report() -> Report:
    """The page of an evaluation. Imported when asked for: the rest of the task needs no package that draws."""
    from lib.show.detection.evaluation_report import Observations, evaluation_report, merged

    def page(result: Record, seen: Observations) -> bytes:
        return evaluation_report(result, seen, kitti_scores.curves_of(seen.records))

    return Report(Observations, merged, page)


RECIPE = {
    "optimizer": "adamw",
    "schedule": "one-cycle",
    "batch_size": 48,
    "epochs": 160,  # 80 that see the set twice
    "lr": 1e-3,
    "weight_decay": 0.01,
    "clip_norm": 35.0,
}

# Of the small networks on two CPU cores; our choice.
SMALL_RECIPE = {"batch_size": 4, "lr": 3e-4, "save_every": 100}

LIDAR_DETECTION = Task(
    name="lidar-detection",
    teachers={"pointpillars": "pointpillars", "small": "pointpillars-small"},
    students={
        "4x": "pointpillars-4x",
        "16x": "pointpillars-16x",
        "small-4x": "pointpillars-small-4x",
        "small-16x": "pointpillars-small-16x",
    },
    datasets=DATASETS,
    on_disk=ON_DISK,
    default_datasets={"teacher": "kitti", "student": "kitti"},
    known_teachers={"kitti": "kitti", "synthetic": "synthetic-lidar"},
    recipes={
        "teacher": RECIPE,
        "student": RECIPE,
        "teacher on synthetic-lidar": {**SMALL_RECIPE, "model": "small", "epochs": 15, "eval_every": 5},
        "student on synthetic-lidar": {**SMALL_RECIPE, "student": "small-4x", "epochs": 24, "eval_every": 8},
    },
    metrics=kitti_scores.AVERAGE_PRECISIONS,
    best_metric=kitti_scores.BEST,
    headline=kitti_scores.HEADLINE,
    sample="scan",
    parts={**PARTS, "all": "every frame of kitti's folder"},
    augmentation="as published: objects of other scenes (--ground kitti), flip, turn, scale",
    brief=kitti_scores.counts_of,
    baselines={"nothing": nothing},
    protocol=("ground",),
    repeated=("ground",),
    add_flags=add_flags,
    complete=complete,
    open=open_clouds,
    collate=collate,
    check=check,
    shapes=shapes,
    logits=logits,
    forward=forward,
    loss=loss,
    distance=distance,
    predict=predict,
    score=score,
    summarise=kitti_scores.average_precisions,
    flops=flops,
    report=report,
    read_results=kitti_scores.read_results,
    methods={
        "pointdistiller": ("pillars", 1.0),
        "hint": ("bev/1", 1.0),
        "multiscale": ("bev", 1.0),
        "pkd": ("bev", 1.0),
        "semckd": ("bev", 1.0),
        "rkd": ("bev", 1.0),
        "attention": ("bev", 1.0),
        "similarity": ("bev", 1.0),
        "logits": ("class", 1.0),
    },
)
