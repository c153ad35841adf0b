"""Distillation by Pearson correlation (PKD, Cao et al., NeurIPS 2022): scale and offset of a channel do not count."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.losses.distill.method import FeaturewiseDistillation

EPSILON = 1e-6  # added to the standard deviation


def pearson_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Sum over features of half the mean squared difference of the standardised features: a scalar.

    Equals the sum of (1 - Pearson's r, averaged over channels) times (n - 1) / n for n rows.
    student[l], teacher[l]: (B, N_l, C_l) or rows (P_l, C_l). No gradient reaches the teacher.
    """
    terms = [
        0.5 * (_standardised(s) - _standardised(t.detach())).square().mean()
        for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(terms).sum()


def _standardised(features: Tensor) -> Tensor:
    """(B, N, C) or (P, C) -> (R, C): each channel with mean 0 and standard deviation 1 over batch and positions."""
    rows = features.flatten(0, -2)  # (B, N, C) -> (B N, C)
    rows = rows - rows.mean(0)
    variance = rows.square().sum(0) / (len(rows) - 1)
    varies = variance > 0  # the square root has no slope at the variance 0 of a constant channel
    deviation = torch.where(varies, variance, 1.0).sqrt() * varies
    return rows / (deviation + EPSILON)


class PearsonDistillation(FeaturewiseDistillation):
    """The Pearson loss of each feature. Where the widths differ the student's features pass a learned 1x1 adapter."""

    name = "pkd"
    weight = 6.0  # of the paper's detectors with a feature pyramid
    place = "predictor"

    def loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return pearson_loss(student, teacher)
