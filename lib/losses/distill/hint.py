"""Hints (FitNets, Romero et al., ICLR 2015): a regressor predicts one feature of the teacher."""

import torch
from torch import Tensor, nn

from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod, Setting


def hint_loss(regressed: Tensor, teacher: Tensor) -> Tensor:
    """mean ||regressed - teacher||^2 / mean ||teacher||^2, a scalar without unit.

    regressed, teacher: (B, N, C) or rows (P, C). No gradient reaches the teacher. Dividing is our choice: the weight
    then does not depend on the scale of the teacher's features.
    """
    teacher = teacher.detach()
    tiny = torch.finfo(teacher.dtype).tiny  # a teacher of zeros
    return (regressed - teacher).square().mean() / teacher.square().mean().clamp_min(tiny)


class HintDistillation(DistillationMethod):
    """The hint loss of one feature, with a learned 1x1 regressor from the student's width to the teacher's."""

    name = "hint"
    place = "pyramid1/1"
    layouts = ("points", "rows", "map")

    def __init__(self, setting: Setting, place: str = place):
        name = self.one_served_at(place, setting)
        super().__init__((name,))
        self.regressor = nn.Linear(setting.student[name].width, setting.teacher[name].width)

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        student, teacher = context.pair(self.features[0])
        return {"hint": hint_loss(self.regressor(student.by_position()), teacher.by_position())}
