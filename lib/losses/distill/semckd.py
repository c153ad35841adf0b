"""Semantic calibration (SemCKD, Wang et al., TKDE 2023): attention picks the teacher layers that guide a layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import InputError
from lib.features import Feature
from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod, Setting
from lib.losses.distill.similarity import sample_similarity

MIN_EMBEDDING = 8  # our choice: a quarter of a batch of 4 would leave a query of one number


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
    """Every student layer learns from all teacher layers, weighted by attention, at the sites of the coarser one.

    The features at the place must stand from fine to coarse. Points: the coarser level keeps some of the finer one's
    points. Maps: the finer one is averaged over the cells of the coarser.
    """

    name = "semckd"
    weight = 50.0  # of the paper, for large inputs
    place = "pyramid1"
    layouts = ("points", "map")

    def __init__(self, setting: Setting, place: str = place):
        super().__init__(self.served_at(place, setting))
        if setting.batch < 2:
            raise InputError("semckd compares the samples of a batch: it needs at least 2 a process")
        self.batch = setting.batch
        count = len(self.features)
        self.queries = nn.ModuleList(LayerEmbedding(setting.batch) for _ in range(count))
        self.keys = nn.ModuleList(LayerEmbedding(setting.batch) for _ in range(count))
        self.projections = nn.ModuleList(
            nn.ModuleList(Projection(setting.student[i].width, setting.teacher[j].width) for j in self.features)
            for i in self.features
        )

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        pairs = [context.pair(name) for name in self.features]
        if (size := len(pairs[0][0].values)) != self.batch:
            raise InputError(f"semckd was built for batches of {self.batch} samples and got {size}")
        queries, keys = (
            [embed(sample_similarity(pair[whose].by_position())) for embed, pair in zip(embeddings, pairs, strict=True)]
            for whose, embeddings in enumerate((self.queries, self.keys))
        )
        errors = [self._errors(i, pairs) for i in range(len(pairs))]
        attention = layer_attention(torch.stack(queries, 1), torch.stack(keys, 1))
        return {"semckd": attended_loss(attention, torch.stack(errors, 1))}

    def _errors(self, i: int, pairs: list[tuple[Feature, Feature]]) -> Tensor:
        """(b, J): mean squared error of every scene between student layer ``i`` and each teacher layer."""
        student, errors = pairs[i][0], []
        for j, (projection, (_, teacher)) in enumerate(zip(self.projections[i], pairs, strict=True)):
            coarser = pairs[max(i, j)][0]
            difference = projection(student.at(coarser)) - teacher.at(coarser)  # (b, N_coarser, C_T)
            errors.append(difference.square().mean((1, 2)))
        return torch.stack(errors, 1)
