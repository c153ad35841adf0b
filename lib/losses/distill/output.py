"""Output distillation: the student learns from the teacher's prediction and from the ground truth.

L = gamma L_KD + (1 - gamma) L_GT. L_GT is the task's own loss against the ground truth. L_KD is the task's distance of
the student's prediction to the teacher's.
"""

from collections.abc import Mapping

from torch import Tensor

from lib.errors import InputError
from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod


def total(parts: Mapping[str, Tensor]) -> Tensor:
    """The sum of named scalars, in their order."""
    first, *others = parts.values()
    for part in others:
        first = first + part
    return first


def joined(*groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Several groups of named scalars as one. Raises ValueError for a name that comes twice."""
    names = [name for group in groups for name in group]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two parts of a loss have the name {', '.join(sorted(twice))}: rename one")
    return {name: value for group in groups for name, value in group.items()}


class OutputDistillation(DistillationMethod):
    """The loss of a student under output distillation. A term of weight 0 is neither computed nor returned.

    gamma: weight of the teacher, from 0 (ground truth alone) to 1 (teacher alone).
    Raises InputError for gamma outside [0, 1].
    """

    name = "output"
    weight = 0.3  # the default gamma

    def __init__(self, gamma: float):
        super().__init__()
        if not 0.0 <= gamma <= 1.0:  # also catches NaN
            raise InputError(f"gamma must be in [0, 1] (0: ground truth alone, 1: teacher alone), got {gamma:g}")
        self.gamma = gamma

    @property
    def needs_teacher(self) -> bool:
        return self.gamma > 0.0

    @property
    def needs_ground_truth(self) -> bool:
        return self.gamma < 1.0

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        """Named scalars: "loss", the one to minimise, and unweighted "loss_gt" and "loss_kd".

        Where one of these two has several parts, these follow under their own names.
        The teacher may be missing at gamma 0, the ground truth at gamma 1.
        """
        parts_kd = context.distance(context.student, context.teacher) if self.needs_teacher else {}
        parts_gt = context.task_loss(context.student) if self.needs_ground_truth else {}
        if not parts_kd:
            losses = {"loss": (loss_gt := total(parts_gt)), "loss_gt": loss_gt}
        elif not parts_gt:
            losses = {"loss": (loss_kd := total(parts_kd)), "loss_kd": loss_kd}
        else:
            loss_gt, loss_kd = total(parts_gt), total(parts_kd)
            loss = self.gamma * loss_kd + (1.0 - self.gamma) * loss_gt
            losses = {"loss": loss, "loss_gt": loss_gt, "loss_kd": loss_kd}
        return joined(losses, *(parts for parts in (parts_gt, parts_kd) if len(parts) > 1))
