"""Multi-scale feature distillation (M3KD, Cheon et al. 2024, equations 1-2): features of all levels are compared."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.losses.distill.method import FeaturewiseDistillation


def multiscale_feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Sum over levels of the mean squared difference over batch, positions and channels: a scalar.

    student[l], teacher[l]: (B, N_l, C_l) or rows (P_l, C_l). No gradient reaches the teacher.
    """
    return torch.stack([(s - t.detach()).square().mean() for s, t in zip(student, teacher, strict=True)]).sum()


class MultiscaleDistillation(FeaturewiseDistillation):
    """The multi-scale feature loss. Where the widths differ the student's features pass a learned 1x1 adapter."""

    name = "multiscale"
    weight = 0.5  # of the paper
    place = "pyramid1"

    def loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return multiscale_feature_loss(student, teacher)
