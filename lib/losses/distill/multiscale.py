"""Multi-scale feature distillation (M3KD, Cheon et al. 2024, equations 1-2): all levels are compared."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod, Setting, adapters, features_at


def multiscale_feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Sum over levels of the mean squared difference over batch, points and channels: a scalar.

    student[l], teacher[l]: (B, N_l, C_l). No gradient reaches the teacher.
    """
    return torch.stack([(s - t.detach()).square().mean() for s, t in zip(student, teacher, strict=True)]).sum()


class MultiscaleDistillation(DistillationMethod):
    """The multi-scale feature loss. Where the widths differ the student's features pass a learned 1x1 adapter."""

    name = "multiscale"
    weight = 0.5  # of the paper
    place = "pyramid1"

    def __init__(self, setting: Setting, place: str = place):
        super().__init__(features_at(place, setting))
        self.adapters = adapters(self.features, setting)

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        pairs = [context.pair(name) for name in self.features]
        student = [self.adapters[name](s) for name, (s, _) in zip(self.features, pairs, strict=True)]
        return {"multiscale": multiscale_feature_loss(student, [t for _, t in pairs])}
