"""Hints (FitNets, Romero et al., ICLR 2015): a regressor predicts the teacher's features of one level."""

import torch
from torch import Tensor, nn

from lib.errors import InputError
from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod, Setting, features_at


def hint_loss(regressed: Tensor, teacher: Tensor) -> Tensor:
    """mean ||regressed - teacher||^2 / mean ||teacher||^2, a scalar without unit.

    regressed, teacher: (B, N, C). No gradient reaches the teacher. Dividing (our choice) makes the weight
    independent of the scale of the teacher's features.
    """
    teacher = teacher.detach()
    tiny = torch.finfo(teacher.dtype).tiny  # a teacher of zeros
    return (regressed - teacher).square().mean() / teacher.square().mean().clamp_min(tiny)


class HintDistillation(DistillationMethod):
    """The hint loss with a learned 1x1 regressor from the student's width to the teacher's, at one level."""

    name = "hint"
    place = "pyramid1/1"

    def __init__(self, setting: Setting, place: str = place):
        names = features_at(place, setting)
        if len(names) != 1:
            raise InputError(f"hint compares the features of one level: choose hint@{place}/1, for example")
        super().__init__(names)
        self.regressor = nn.Linear(setting.student[place], setting.teacher[place])

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        student, teacher = context.pair(self.features[0])
        return {"hint": hint_loss(self.regressor(student), teacher)}
