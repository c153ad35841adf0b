"""Multi-scale feature distillation (M3KD, Cheon et al. 2024, equations 1-2): all levels are compared."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.losses.distill.method import LevelwiseDistillation


def multiscale_feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Sum over levels of the mean squared difference over batch, points and channels: a scalar.

    student[l], teacher[l]: (B, N_l, C_l). No gradient reaches the teacher.
    """
    return torch.stack([(s - t.detach()).square().mean() for s, t in zip(student, teacher, strict=True)]).sum()


class MultiscaleDistillation(LevelwiseDistillation):
    """The multi-scale feature loss. Where the widths differ the student's features pass a learned 1x1 adapter."""

    name = "multiscale"
    weight = 0.5  # of the paper
    place = "pyramid1"

    def loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return multiscale_feature_loss(student, teacher)
