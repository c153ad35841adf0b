"""The table of tasks: which data sets, networks, losses, metrics and evaluation belong together."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.datasets.scene_flow import AUGMENTED, DATASETS, open_scenes
from lib.datasets.scene_flow.pairs import FlowBatch, FlowPairs, collate
from lib.evaluation import BASELINES, UNITS, Score, evaluate
from lib.losses import gather_levels
from lib.losses.distill import DistillationContext, DistillationMethod, Prediction
from lib.training import distributed
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
    refresh: Callable[..., None]
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
    """One forward pass of the student (and of teacher and peer, when the method asks for one) -> named losses.

    net: the network or its data-parallel wrapper. progress: part of the training that is done.
    """
    context = _predict(net, batch, method, teacher, progress)
    with torch.autocast(batch.xyz1.device.type, enabled=False):  # losses in full precision
        return method(context)


@torch.no_grad()
def refresh_flow(net: nn.Module, batch: FlowBatch, method: DistillationMethod, teacher: nn.Module | None) -> None:
    """Shows the method what the networks predict on held-out pairs, in evaluation mode; leaves them in training."""
    net.eval()
    method.eval()
    method.refresh(_predict(distributed.unwrapped(net), batch, method, teacher))
    net.train()
    method.train()


def _predict(
    net: nn.Module, batch: FlowBatch, method: DistillationMethod, teacher: nn.Module | None, progress: float = 1.0
) -> DistillationContext:
    """What the method asks for. All networks see the same points and, where level sizes agree, share one geometry."""
    student = distributed.unwrapped(net)
    geometry = student.geometry(batch.xyz1, batch.xyz2)
    with_features = bool(method.features)
    output = net(batch.xyz1, batch.xyz2, geometry, return_features=with_features)
    targets = gather_levels(batch.flow, output.indices1) if method.needs_ground_truth else None
    context = DistillationContext(
        _prediction(output), targets=targets, xyz1=batch.xyz1, indices=output.indices1, progress=progress
    )

    def of(other: nn.Module, return_features: bool) -> Prediction:
        points = batch.xyz1.shape[1]
        shared = geometry if other.sizes_for(points) == student.sizes_for(points) else None
        return _prediction(other(batch.xyz1, batch.xyz2, shared, return_features=return_features))

    if method.needs_teacher:
        with torch.no_grad():
            context.teacher = of(teacher, with_features)
    if method.needs_peer:
        context.peer = of(method.peer, return_features=False)
    return context


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
        refresh=refresh_flow,
        evaluate=evaluate,
        baselines=BASELINES,
        best_metric="EPE3D",
        units=UNITS,
    )
}
