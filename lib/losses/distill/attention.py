"""Attention transfer (Zagoruyko & Komodakis, ICLR 2017): where in a sample the features are strong."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.features import Feature
from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod, Setting


def attention_map(features: Tensor) -> Tensor:
    """Energy of each position, as a vector of length 1 for each sample: (B, N, C) -> (B, N).

    The energy is the sum over channels of the squares. It is 0 everywhere for features of zeros.
    """
    return F.normalize(features.square().sum(2), dim=1)


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Sum over features of the mean over samples and positions of (q_S - q_T)^2, q the attention map: a scalar.

    student[l] (B, N_l, C_S), teacher[l] (B, N_l, C_T): the widths are free. No gradient reaches the teacher.
    """
    terms = [
        (attention_map(s) - attention_map(t.detach())).square().mean() for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(terms).sum()


def attention_of(feature: Feature) -> Tensor:
    """The attention maps of a feature: (B, N), or for rows (P,), one sample behind the other.

    Raises InputError for rows that do not tell which sample they belong to.
    """
    if feature.layout != "rows":
        return attention_map(feature.by_position())
    samples = feature.sites.rows_of_samples()
    return torch.cat([attention_map(feature.values[rows][None])[0] for rows in samples])  # (1, P_b, C) -> (P_b,)


class AttentionTransfer(DistillationMethod):
    """The attention loss of all features at the place. It needs no adapter.

    Rows count as the positions of their samples; a sample of more rows counts more (our choice).
    """

    name = "attention"
    weight = 1000.0  # of the paper's experiments; that positions are counted in the mean is our choice
    place = "pyramid1"
    layouts = ("points", "rows", "map")

    def __init__(self, setting: Setting, place: str = place):
        super().__init__(self.served_at(place, setting))

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        pairs = [context.pair(name) for name in self.features]
        terms = [(attention_of(s) - attention_of(t)).square().mean() for s, t in pairs]
        return {"attention": torch.stack(terms).sum()}
