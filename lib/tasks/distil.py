"""One step of distillation, for any task: student forward, teacher forward without gradient, loss."""

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from lib.features import Outputs, Want
from lib.losses.distill import DistillationContext, DistillationMethod
from lib.tasks.task import Task
from lib.training.distributed import unwrapped


class Distiller:
    """What a student learns from: the ground truth, the teacher, and where the method has one a peer.

    args: the flags of the script. teacher: a frozen network, or None where the method needs none.
    """

    def __init__(self, task: Task, args: argparse.Namespace, method: DistillationMethod, teacher: nn.Module | None):
        self.task, self.args, self.method, self.teacher = task, args, method, teacher
        self.want = Want(method.features, method.logits)

    def step(self, student: nn.Module, batch: Any, done: float = 1.0) -> dict[str, Tensor]:
        """Named losses of one batch; "loss" is the one to minimise.

        student: the network or its data-parallel wrapper. done: the part of the training that is behind us.
        """
        context = self._see(student, batch, done)
        with torch.autocast(self._device(student).type, enabled=False):  # losses in full precision
            return self.method(context)

    @torch.no_grad()
    def refresh(self, student: nn.Module, batch: Any) -> None:
        """Shows the method what the networks predict on held-out samples. They are left in training mode."""
        student.eval()
        self.method.eval()
        self.method.refresh(self._see(unwrapped(student), batch))
        student.train()
        self.method.train()

    def _see(self, student: nn.Module, batch: Any, done: float = 1.0) -> DistillationContext:
        """All networks on one batch: they see the same samples and, where they can, share the sites of features."""
        task, method = self.task, self.method
        learned = task.forward(student, batch, self.want)
        taught, peer = None, None
        if method.needs_teacher:
            with torch.no_grad():
                taught = task.forward(self.teacher, batch, self.want, beside=learned)
        if method.needs_peer:
            peer = task.forward(method.peer, batch, beside=learned)

        def distance(first: Outputs, second: Outputs) -> dict[str, Tensor]:
            return task.distance(first, second, batch, self.args)

        return DistillationContext(
            student=learned,
            teacher=taught,
            peer=peer,
            truth=task.truth(learned, batch) if method.needs_ground_truth else None,
            task_loss=lambda outputs: task.loss(outputs, batch),
            distance=distance,
            progress=done,
        )

    @staticmethod
    def _device(net: nn.Module) -> torch.device:
        return next(net.parameters()).device
