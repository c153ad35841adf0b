"""The table of tasks: which data sets, networks, losses, metrics and evaluation belong together."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib import distributed
from lib.datasets import AUGMENTED, DATASETS, open_scenes
from lib.datasets.pairs import FlowBatch, FlowPairs, collate
from lib.evaluation import BASELINES, UNITS, Score, evaluate
from lib.losses import gather_levels
from lib.losses.distill import DistillationContext, DistillationMethod, Prediction
from models import FlowOutput


@dataclass(frozen=True)
class Task:
    """Everything that is particular to a task; the scripts and the engine take it from here."""

    name: str
    datasets: tuple[str, ...]
    teacher: str  # names for models.build_model
    students: dict[str, str]  # short names of the students -> names for models.build_model
    open_pairs: Callable[..., Any]
    collate: Callable[[list[Any]], Any]
    losses: Callable[..., dict[str, Tensor]]
    evaluate: Callable[..., Score]
    baselines: dict[str, Callable[..., Any]]
    best_metric: str  # lower is better; chooses the checkpoint
    units: dict[str, str]  # metric -> unit


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


def flow_losses(
    net: nn.Module, batch: FlowBatch, method: DistillationMethod, teacher: nn.Module | None, progress: float = 1.0
) -> dict[str, Tensor]:
    """One forward pass of the student (and the teacher, when the method asks for it) -> the method's named losses.

    net: the network or its data-parallel wrapper. Both networks see the same points; where their level sizes agree they
    share one geometry, computed once. progress: part of the training that is done.
    """
    student = distributed.unwrapped(net)
    geometry = student.geometry(batch.xyz1, batch.xyz2)
    with_features = bool(method.features)
    output = net(batch.xyz1, batch.xyz2, geometry, return_features=with_features)
    targets = gather_levels(batch.flow, output.indices1) if method.needs_ground_truth else None
    teacher_prediction = None
    if method.needs_teacher:
        points = batch.xyz1.shape[1]
        shared = geometry if teacher.sizes_for(points) == student.sizes_for(points) else None
        with torch.no_grad():
            teacher_output = teacher(batch.xyz1, batch.xyz2, shared, return_features=with_features)
        teacher_prediction = _prediction(teacher_output)
    context = DistillationContext(
        _prediction(output), teacher_prediction, targets, batch.xyz1, output.indices1, progress
    )
    with torch.autocast(batch.xyz1.device.type, enabled=False):  # losses in full precision
        return method(context)


def _prediction(output: FlowOutput) -> Prediction:
    """Flows and features in the precision of the coordinates."""
    dtype = output.flows[0].dtype
    return Prediction(output.flows, {name: feature.to(dtype) for name, feature in output.features.items()})


# short name, for --student -> name in models.MODELS
STUDENTS = {
    "half": "student",
    "half-all": "student-half-all",
    "quarter": "student-quarter",
    "tiny": "student-tiny",
}

TASKS = {
    "scene-flow": Task(
        name="scene-flow",
        datasets=tuple(DATASETS),
        teacher="teacher",
        students=STUDENTS,
        open_pairs=open_flow_pairs,
        collate=collate,
        losses=flow_losses,
        evaluate=evaluate,
        baselines=BASELINES,
        best_metric="EPE3D",
        units=UNITS,
    )
}
