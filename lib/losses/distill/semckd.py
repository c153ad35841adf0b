"""Semantic calibration (SemCKD, Wang et al., TKDE 2023): attention picks the teacher layers that guide a layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import InputError
from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod, Setting, features_at, level_of

MIN_EMBEDDING = 8  # our choice: a quarter of a batch of 4 would leave a query of one number


def similarity(features: Tensor) -> Tensor:
    """Inner products between the scenes of a batch: (b, N, C) -> (b, b)."""
    rows = features.flatten(1)  # (b, N C)
    return rows @ rows.t()


def layer_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Softmax over the teacher's layers of query . key.

    queries (b, I, m) of the student's layers, keys (b, J, m) of the teacher's -> (b, I, J), rows sum to 1.
    """
    return torch.softmax(queries @ keys.transpose(1, 2), dim=2)


def attended_loss(attention: Tensor, errors: Tensor) -> Tensor:
    """sum_nij attention[n, i, j] errors[n, i, j] / (b I): a scalar.

    attention (b, I, J); errors (b, I, J): mean squared error of scene n between student layer i and teacher layer j.
    """
    return (attention * errors).sum() / (attention.shape[0] * attention.shape[1])


class LayerEmbedding(nn.Module):
    """A layer's similarities -> one unit vector a scene: (b, b) -> (b, m), through an MLP b -> 2m -> m."""

    def __init__(self, batch: int):
        super().__init__()
        size = max(batch // 4, MIN_EMBEDDING)
        self.mlp = nn.Sequential(nn.Linear(batch, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))

    def forward(self, similarities: Tensor) -> Tensor:
        return F.normalize(self.mlp(similarities), dim=1)


class Projection(nn.Module):
    """Student features (b, N, C_S) -> (b, N, C_T): 1x1, batch normalisation, ReLU, 1x1.

    The normalisation always uses the statistics of this process's batch and keeps no running ones.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first = nn.Linear(inputs, outputs)
        self.norm = nn.BatchNorm1d(outputs, track_running_stats=False)
        self.second = nn.Linear(outputs, outputs)

    def forward(self, features: Tensor) -> Tensor:
        rows = self.first(features).flatten(0, 1)  # (b N, C_T)
        return self.second(F.relu(self.norm(rows))).view(*features.shape[:2], -1)


class SemanticCalibration(DistillationMethod):
    """Every student layer learns from all teacher layers, weighted by attention, at the points of the coarser one."""

    name = "semckd"
    weight = 50.0  # of the paper, for large inputs
    place = "pyramid1"

    def __init__(self, setting: Setting, place: str = place):
        super().__init__(features_at(place, setting))
        if setting.batch < 2:
            raise InputError("semckd compares the scenes of a batch: it needs at least 2 a process")
        self.batch = setting.batch
        count = len(self.features)
        self.queries = nn.ModuleList(LayerEmbedding(setting.batch) for _ in range(count))
        self.keys = nn.ModuleList(LayerEmbedding(setting.batch) for _ in range(count))
        self.projections = nn.ModuleList(
            nn.ModuleList(Projection(setting.student[i], setting.teacher[j]) for j in self.features)
            for i in self.features
        )

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        pairs = [context.pair(name) for name in self.features]
        if len(pairs[0][0]) != self.batch:
            raise InputError(f"semckd was built for batches of {self.batch} scenes and got {len(pairs[0][0])}")
        queries = [embed(similarity(student)) for embed, (student, _) in zip(self.queries, pairs, strict=True)]
        keys = [embed(similarity(teacher)) for embed, (_, teacher) in zip(self.keys, pairs, strict=True)]
        errors = [self._errors(context, i, student, pairs) for i, (student, _) in enumerate(pairs)]
        attention = layer_attention(torch.stack(queries, 1), torch.stack(keys, 1))
        return {"semckd": attended_loss(attention, torch.stack(errors, 1))}

    def _errors(
        self, context: DistillationContext, i: int, student: Tensor, pairs: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """(b, J): mean squared error of every scene between student layer ``i`` and each teacher layer."""
        own, errors = level_of(self.features[i]), []
        for name, projection, (_, teacher) in zip(self.features, self.projections[i], pairs, strict=True):
            other = level_of(name)
            coarse = max(own, other)
            projected = projection(context.bring_down(student, own, coarse))
            difference = projected - context.bring_down(teacher, other, coarse)  # (b, N_coarse, C_T)
            errors.append(difference.square().mean((1, 2)))
        return torch.stack(errors, 1)
