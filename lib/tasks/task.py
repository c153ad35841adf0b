"""The contract of a task: all that the training loop, the scripts, the scoring loop and the tables know of it.

A task is one ``Task`` of plain functions, in a file of its own beside this one. ``lib/tasks/__init__.py`` names them.
A *sample* is what a data set yields under a key, a *batch* what ``collate`` makes of samples: a named tuple (tensors
may lie nested in it) with the field ``names``. A *record* is a JSON-able dict about one scored sample.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from lib.features import Levels, Outputs, Shape

Record = dict[str, Any]
DEFAULT_TASK = "scene-flow"  # what --task is when it is not given

# Parts of every data set: what --split calls them, and what they are for.
PARTS = {
    "test": "what reported scores are from",
    "validation": "held out of training, to choose best.pt",
    "train": "what is trained on",
}


class Metric(NamedTuple):
    """What a metric is counted in ("" for a share), and whether less or more of it is better."""

    unit: str = ""
    lower_is_better: bool = True


class Report(NamedTuple):
    """The page of evaluate.py --html: it watches the scoring and is drawn at the end."""

    start: Callable[[], Any]  # -> what watches: its observe(batch, prediction, record) is called for every sample
    merge: Callable[[list[Any]], Any]  # those of all processes in one
    page: Callable[[Record, Any], bytes]  # (what --json writes, what has watched) -> the page


def no_levels(outputs: Outputs, batch: Any) -> Levels | None:
    """The truth by levels of a task that does not predict level by level: there is none."""
    return None


def no_logits(net: nn.Module) -> dict[str, int]:
    """The logits of a network that has none to compare."""
    return {}


@dataclass(frozen=True)
class Task:
    """Everything that is particular to a task.

    teachers, students: short name -> name for ``models.build_model``; the first of each is the default.
    datasets: names of the data sets; on_disk: those that need a folder. default_datasets: of train_teacher.py and of
    train_student.py. known_teachers: name for --teacher -> data set that train_teacher.py trained it on.
    recipes: "teacher" and "student" -> defaults of the training flags, as published; "teacher on DATASET" and so on ->
    those that differ on a data set, with those of other flags, such as the network.
    methods: distillation method -> (default place, default weight) on this task, where they are not the method's own.
    baselines: name -> what predicts without a network, called as a network is; the first is scored beside teachers.
    metrics: all that ``summarise`` returns; best_metric chooses the checkpoint. headline: the metrics that are printed
    and stand in tables, in this order; none named: all. JSON files hold every metric.
    protocol: flags of this task that belong to a result; repeated: those of them that evaluate.py needs as the training
    had them. parts: part of a data set -> what it is for. sample: the word for one sample, in texts.
    augmentation: what --augment auto does, for its help; "" for a task that augments nothing and has no such flag.
    """

    name: str
    teachers: Mapping[str, str]
    students: Mapping[str, str]
    datasets: Sequence[str]
    on_disk: frozenset[str]
    default_datasets: Mapping[str, str]
    known_teachers: Mapping[str, str]
    recipes: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, Metric]
    best_metric: str
    baselines: Mapping[str, Callable[..., Any]]
    protocol: tuple[str, ...]
    repeated: tuple[str, ...]

    # flags and data
    add_flags: Callable[[Any], None]  # adds the flags that only this task's data have to a group of argparse
    complete: Callable[[argparse.Namespace], None]  # fills in defaults that depend on other flags
    open: Callable[[str, str, argparse.Namespace], Any]  # (data set, part, flags) -> samples, with ``names``
    collate: Callable[[list[Any]], Any]
    check: Callable[[nn.Module, argparse.Namespace], None]  # InputError where the network cannot take such samples

    # networks
    shapes: Callable[[nn.Module], Mapping[str, Shape]]  # features that ``forward`` can return
    forward: Callable[..., Outputs]  # (net, batch, want, beside): see lib/tasks/scene_flow.py
    loss: Callable[[Outputs, Any], dict[str, Tensor]]  # against the ground truth: weighted parts, their sum counts
    distance: Callable[..., dict[str, Tensor]]  # (student, teacher, batch, flags): of output distillation, as above

    # scores
    predict: Callable[[Any, Any], Any]  # (network or baseline, batch of one on its device) -> prediction
    score: Callable[[Any, Any], Record]  # (prediction, batch of one) -> record; InputError for unusable predictions
    summarise: Callable[[Sequence[Record]], dict[str, float]]  # records -> metrics

    sample: str = "sample"
    headline: tuple[str, ...] = ()
    brief: Callable[[Record], Record] = lambda record: record  # what JSON files hold of a record
    parts: Mapping[str, str] = field(default_factory=lambda: PARTS)
    augmentation: str = ""
    add_student_flags: Callable[[Any], None] = lambda group: None  # flags of train_student.py that only this task has
    flops: Callable[[nn.Module, argparse.Namespace], int | None] = lambda net, args: (
        None
    )  # of one sample; None: unknown
    read_results: Callable[[Path, Path, Path | None], list[Record]] | None = None  # (results, labels, list of samples)
    graphed: Callable[[nn.Module], Any] | None = None  # the network behind --cuda-graph, where the task has one
    report: Callable[[], Report] | None = None  # None: the task has no page
    logits: Callable[[nn.Module], dict[str, int]] = no_logits  # name -> classes of the logits that networks can return
    levels: int = 0  # at how many levels the networks predict; 0: one prediction only
    truth: Callable[[Outputs, Any], Levels | None] = no_levels  # the ground truth at the levels of the outputs
    methods: Mapping[str, tuple[str, float]] = field(default_factory=dict)

    def recipe(self, role: str, dataset: str) -> dict[str, Any]:
        """The defaults of the flags of a training script. role: "teacher" or "student"."""
        return {**self.recipes[role], **self.recipes.get(f"{role} on {dataset}", {})}

    @property
    def units(self) -> dict[str, str]:
        """metric -> unit, of all metrics."""
        return {name: metric.unit for name, metric in self.metrics.items()}

    @property
    def printed(self) -> dict[str, str]:
        """metric -> unit, of the metrics that are printed."""
        return {name: self.metrics[name].unit for name in self.headline or self.metrics}

    @property
    def folder(self) -> str:
        """Where the task's teachers lie in checkpoints/: those of the default task in checkpoints/ itself."""
        return "" if self.name == DEFAULT_TASK else self.name

    @property
    def lower_is_better(self) -> bool:
        """Whether the best checkpoint is the one with the least or with the most of ``best_metric``."""
        return self.metrics[self.best_metric].lower_is_better

    @property
    def networks(self) -> dict[str, str]:
        """Every network of the task: short name -> name for ``models.build_model``."""
        return {**self.teachers, **self.students}

    def command_for(self, teacher: str) -> str:
        """The command that makes the teacher of this name."""
        dataset = self.known_teachers[teacher]
        data = " --data-root DATA" if dataset in self.on_disk else ""
        task = "" if self.name == DEFAULT_TASK else f" --task {self.name}"
        return f"python train_teacher.py{task} --dataset {dataset}{data}"
