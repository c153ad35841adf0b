"""Scene flow: how every point of a source cloud moves until the target cloud is seen.

Bi-PointFlowNet (Cheng & Ko, ECCV 2022) teaches students of smaller width. The networks predict level by level, level 0
being the finest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.datasets.scene_flow import AUGMENTED, DATASETS, FlowBatch, FlowPairs, collate, open_scenes
from lib.errors import InputError
from lib.features import Feature, Levels, Outputs, Shape, Sites, Want
from lib.flags import number
from lib.losses.scene_flow import ALPHAS, gather_levels, multiscale_loss, output_distillation
from lib.metrics.scene_flow import average, scene_flow_metrics
from lib.ops import gather, knn
from lib.tasks.task import PARTS, Metric, Record, Report, Task
from lib.training.distributed import unwrapped
from models import FlowOutput, PairGeometry
from models.scene_flow.arithmetic import count_flops
from models.scene_flow.cuda_graph import GraphedNetwork

LEVELS = len(ALPHAS)
NOTHING = Want()


# --- flags and data ----------------------------------------------------------------------------------------------


def add_flags(group: Any) -> None:
    """The flags that say which points of which scenes."""
    group.add_argument(
        "--subset",
        choices=["full", "quarter"],
        help="quarter: every 4th training scene of ft3d (default: quarter for ft3d, else full)",
    )
    group.add_argument(
        "--num-scenes", type=number(int, 2), metavar="N", help="training scenes of a synthetic set (default: 512)"
    )
    group.add_argument("--num-points", type=number(int, 1), metavar="N", default=8192, help="points drawn per cloud")


def add_student_flags(group: Any) -> None:
    """The flag of output distillation that only makes sense with levels."""
    group.add_argument("--final-only", action="store_true", help="compare with the teacher at the finest level only")


def complete(args: argparse.Namespace) -> None:
    """The published training set of ft3d is a quarter of it."""
    if args.subset is None:
        args.subset = "quarter" if args.dataset == "ft3d" else "full"


def open_pairs(dataset: str, part: str, args: argparse.Namespace) -> FlowPairs:
    """The samples of a part of a data set, as the flags say. A script that does not train augments nothing."""
    flags = vars(args)
    return open_flow_pairs(
        dataset,
        part,
        args.data_root,
        args.subset,
        args.num_scenes,
        args.num_points,
        augment=flags.get("augment", "off"),
        seed=flags.get("seed", 0),
    )


def open_flow_pairs(
    dataset: str,
    part: str,
    root: Path | None,
    subset: str,
    num_scenes: int | None,
    num_points: int,
    augment: str = "off",
    seed: int = 0,
) -> FlowPairs:
    """Samples of one part of a data set. augment: "on", "off", or "auto" for the published recipe of that data set.

    seed orders and draws the training samples; which scenes a procedural set holds does not depend on it.
    Raises InputError for unknown names and unfit folders.
    """
    scenes = open_scenes(dataset, part, root, subset=subset, num_scenes=num_scenes)
    wanted = dataset in AUGMENTED if augment == "auto" else augment == "on"
    return FlowPairs(scenes, num_points, augment=wanted, seed=seed)


def check(net: nn.Module, args: argparse.Namespace) -> None:
    """Raises InputError when clouds of --num-points are too small for the network."""
    net.sizes_for(args.num_points)


# --- networks ----------------------------------------------------------------------------------------------------


def shapes(net: nn.Module) -> dict[str, Shape]:
    """The features of the source's points at the levels that have a flow."""
    return {name: Shape(width, "points") for name, width in net.feature_widths().items()}


def forward(net: nn.Module, batch: FlowBatch, want: Want = NOTHING, beside: Outputs | None = None) -> Outputs:
    """One network on one batch.

    net: the network or its data-parallel wrapper. beside: the outputs of another network on the same batch. Sampling
    and neighbours depend on the points alone, so networks with the same level sizes share them, and their features
    stand on the same sites. Networks with other level sizes share level 0 only.
    """
    geometry, sites = _geometry(unwrapped(net), batch, beside)
    output = net(batch.xyz1, batch.xyz2, geometry, return_features=bool(want.features))
    dtype = output.flows[0].dtype  # of the coordinates; under autocast features come with 16 bits
    features = {
        name: Feature(output.features[name].to(dtype), "points", sites[int(name.rsplit("/", 1)[1])])
        for name in want.features
    }
    return Outputs(output, features, levels=Levels(output.flows, sites, ALPHAS), shared=(geometry, sites))


def _geometry(net: nn.Module, batch: FlowBatch, beside: Outputs | None) -> tuple[PairGeometry, list[Sites]]:
    finest = Sites(batch.xyz1)
    if beside is not None:
        geometry, sites = beside.shared
        if net.sizes_for(batch.xyz1.shape[1]) == tuple(xyz.shape[1] for xyz in geometry.cloud1.xyz):
            return geometry, sites
        finest = sites[0]
    geometry = net.geometry(batch.xyz1, batch.xyz2)
    sites = [finest]
    for level in range(1, LEVELS):
        sites.append(Sites(geometry.cloud1.xyz[level], sites[-1], geometry.cloud1.indices[level]))
    return geometry, sites


def truth(outputs: Outputs, batch: FlowBatch) -> Levels:
    """The true flow at the points of each level: values[l] (B, N_l, 3), metres."""
    flows = gather_levels(batch.flow, outputs.prediction.indices1)
    return Levels(flows, outputs.levels.sites, ALPHAS)


def loss(outputs: Outputs, batch: FlowBatch) -> dict[str, Tensor]:
    """L_GT: the multi-scale loss against the true flow, metres."""
    return {"flow": multiscale_loss(outputs.levels.values, truth(outputs, batch).values)}


def distance(student: Outputs, teacher: Outputs, batch: FlowBatch, args: argparse.Namespace) -> dict[str, Tensor]:
    """L_KD: the same distance to the teacher's flow, metres; with --final-only at the finest level alone."""
    final_only = vars(args).get("final_only", False)
    return {"flow": output_distillation(student.levels.values, teacher.levels.values, final_only)}


# --- scores ------------------------------------------------------------------------------------------------------


def zero_flow(xyz1: Tensor, xyz2: Tensor) -> FlowOutput:
    """The baseline that nothing moves. xyz1 (B, N, 3), xyz2 (B, M, 3), metres."""
    return FlowOutput([torch.zeros_like(xyz1)], [None], [None])


def nearest_flow(xyz1: Tensor, xyz2: Tensor) -> FlowOutput:
    """The baseline that each source point moves to its nearest target point. xyz1 (B, N, 3), xyz2 (B, M, 3), metres."""
    index = knn(xyz1, xyz2, 1).squeeze(2)  # (B, N, 1) -> (B, N)
    return FlowOutput([gather(xyz2, index) - xyz1], [None], [None])


def predict(net: Callable[[Tensor, Tensor], FlowOutput], batch: FlowBatch) -> Tensor:
    """The finest flow of a network or a baseline: (B, N, 3), metres."""
    return net(batch.xyz1, batch.xyz2).flows[0]


def score(flow: Tensor, batch: FlowBatch) -> Record:
    """The six metrics of one scene. flow (1, N, 3), metres. Raises InputError when it is not finite."""
    if not flow.isfinite().all():
        raise InputError(f"the predicted flow of scene {batch.names[0]} is not finite: unusable weights")
    return scene_flow_metrics(flow[0], batch.flow[0], batch.xyz1[0], batch.cameras[0])


def summarise(records: Sequence[Record]) -> dict[str, float]:
    """The metrics averaged over the scenes."""
    return average(records)


def flops(net: nn.Module, args: argparse.Namespace) -> int:
    """Arithmetic of one pair of clouds of --num-points."""
    return count_flops(net, args.num_points).total


def report() -> Report:
    """The page of an evaluation. Imported when asked for: the rest of the task needs no package that draws."""
    from lib.show.scene_flow.evaluation_report import Observations, evaluation_report, merged

    return Report(Observations, merged, evaluation_report)


RECIPE = {
    "optimizer": "adam",
    "schedule": "step",
    "batch_size": 8,
    "epochs": 560,
    "lr": 1e-3,
    "lr_gamma": 0.5,
    "lr_min": 1e-5,
    "weight_decay": 1e-4,
}

SCENE_FLOW = Task(
    name="scene-flow",
    teachers={"teacher": "teacher"},
    students={
        "half": "student",
        "half-all": "student-half-all",
        "quarter": "student-quarter",
        "tiny": "student-tiny",
    },
    datasets=tuple(DATASETS),
    on_disk=frozenset(name for name, dataset in DATASETS.items() if dataset.on_disk),
    default_datasets={"teacher": "ft3d", "student": "kitti"},
    known_teachers={"ft3d": "ft3d", "kitti": "kitti", "synthetic": "synthetic-things"},
    recipes={"teacher": {**RECIPE, "lr_step": 80}, "student": {**RECIPE, "lr_step": 150}},
    metrics={
        "EPE3D": Metric("m"),
        "ACC3DS": Metric(lower_is_better=False),
        "ACC3DR": Metric(lower_is_better=False),
        "Outliers3D": Metric(),
        "EPE2D": Metric("px"),
        "ACC2D": Metric(lower_is_better=False),
    },
    best_metric="EPE3D",
    baselines={"zero": zero_flow, "nearest": nearest_flow},
    sample="scene",
    parts={**PARTS, "all": "all KITTI frames that are ever scored"},
    augmentation="as published, on for ft3d and synthetic-things, off for the others",
    protocol=("subset", "num_points"),
    repeated=("num_points",),
    add_flags=add_flags,
    add_student_flags=add_student_flags,
    complete=complete,
    open=open_pairs,
    collate=collate,
    check=check,
    shapes=shapes,
    forward=forward,
    levels=LEVELS,
    truth=truth,
    loss=loss,
    distance=distance,
    predict=predict,
    score=score,
    summarise=summarise,
    flops=flops,
    graphed=GraphedNetwork,
    report=report,
)
