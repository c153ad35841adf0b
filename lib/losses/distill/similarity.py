"""Similarity-preserving distillation (Tung & Mori, ICCV 2019): which samples of a batch are alike."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import InputError
from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod, Setting


def sample_similarity(features: Tensor) -> Tensor:
    """Inner products between the samples of a batch: (b, N, C) -> (b, b)."""
    rows = features.flatten(1)  # (b, N, C) -> (b, N C)
    return rows @ rows.t()


def similarity_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Sum over features of the squared differences of the similarities, divided by b^2: a scalar.

    The similarities of a sample to all, a row of (b, b), are scaled to length 1.
    student[l] (b, N_l, C_S), teacher[l] (b, N_l, C_T): the widths are free. No gradient reaches the teacher.
    """
    terms = [
        (F.normalize(sample_similarity(s), dim=1) - F.normalize(sample_similarity(t.detach()), dim=1)).square().mean()
        for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(terms).sum()


class SimilarityDistillation(DistillationMethod):
    """The similarity loss of all features at the place. It needs no adapter, and at least 2 samples a process.

    As in the paper it compares whole samples. Rows are not served: their number differs from sample to sample.
    """

    name = "similarity"
    weight = 3000.0  # of the paper
    place = "pyramid1"
    layouts = ("points", "map")

    def __init__(self, setting: Setting, place: str = place):
        super().__init__(self.served_at(place, setting))
        if setting.batch < 2:
            raise InputError("similarity compares the samples of a batch: it needs at least 2 a process")

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        pairs = [context.pair(name) for name in self.features]
        if len(pairs[0][0].values) < 2:
            raise InputError("similarity compares the samples of a batch: it needs at least 2 and got 1")
        return {"similarity": similarity_loss([s.by_position() for s, _ in pairs], [t.by_position() for _, t in pairs])}
