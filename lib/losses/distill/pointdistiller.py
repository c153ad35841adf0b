"""PointDistiller (Zhang et al., CVPR 2023): local structure around the points that matter most to the teacher."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.features import Feature
from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod, Option, Setting
from lib.ops import gather

KEPT = 512  # points a cloud (our choice)
NEIGHBOURS = 32  # our choice
TEMPERATURE = 1.0  # tau of the re-weighting (our choice)


def point_importance(teacher: Feature) -> Tensor:
    """How much each position matters to the teacher: (B, N).

    ``Feature.importance`` where the network knows it, such as the number of points in a pillar; else the maximum over
    channels. Rows of a batch are one cloud.
    """
    known = teacher.importance_of_clouds()
    return teacher.as_clouds().amax(2) if known is None else known.to(teacher.values.dtype)


def important_points(importance: Tensor, count: int = KEPT) -> Tensor:
    """The positions of largest importance: (B, N) -> (B, min(N, count)) int64.

    Most important first; equal ones in the order of their indices.
    """
    return importance.argsort(dim=1, descending=True, stable=True)[:, :count]


def feature_neighbours(teacher: Tensor, kept: Tensor, count: int = NEIGHBOURS) -> Tensor:
    """The nearest points, in the teacher's feature space, of the kept ones, which themselves count.

    teacher (B, N, C), kept (B, n) int64 -> (B, n, min(N, count)) int64 into N.
    """
    distance = torch.cdist(gather(teacher, kept), teacher, compute_mode="donot_use_mm_for_euclid_dist")  # (B, n, N)
    return distance.topk(min(count, teacher.shape[1]), dim=2, largest=False).indices


def importance_weights(importance: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """phi: softmax over the kept points of (importance / temperature), without gradient: (B, n) -> (B, n).

    Rows sum to 1.
    """
    return torch.softmax(importance.detach() / temperature, dim=1)


def graph_loss(student_graph: Tensor, teacher_graph: Tensor, weights: Tensor) -> Tensor:
    """2 mean(n phi_i (G^T_i - G^S_i)^2): a scalar. Graph features (B, n, C), weights phi (B, n)."""
    points = student_graph.shape[1]
    return 2 * (points * weights.unsqueeze(2) * (teacher_graph - student_graph).square()).mean()


class GraphLayer(nn.Module):
    """max over neighbours j of ReLU(BatchNorm(W [z_j; z_i])): (B, N, C), kept (B, n), near (B, n, K) -> (B, n, C').

    The normalisation always uses the statistics of this process's batch and keeps no running ones.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        # W [z_j; z_i] = W_a z_j + W_b z_i, projected per point instead of per pair
        self.neighbour = nn.Linear(inputs, outputs, bias=False)
        self.centre = nn.Linear(inputs, outputs, bias=False)
        self.norm = nn.BatchNorm1d(outputs, track_running_stats=False)

    def forward(self, features: Tensor, kept: Tensor, near: Tensor) -> Tensor:
        edges = gather(self.neighbour(features), near) + self.centre(gather(features, kept)).unsqueeze(2)
        rows = self.norm(edges.flatten(0, 2))  # (B n K, C')
        return F.relu(rows).view(edges.shape).amax(2)


class PointDistiller(DistillationMethod):
    """Graph features of the kept points, by a learned layer for each network, compared under the weights phi.

    Points are kept in each cloud, cells of a map in each image, and rows in the whole batch together.
    kept, neighbours: N and K of the paper. temperature: tau of the weights phi, which follow the teacher's graph
    features, or ``Feature.importance`` where the network knows it. reweight False gives every kept point the same
    weight. freeze_teacher True keeps the teacher's graph layer as it was initialised. Otherwise that layer is trained
    too, and could lower the loss by giving up detail.
    """

    name = "pointdistiller"
    place = "pyramid1/1"
    layouts = ("points", "rows", "map")
    options = {
        "kept": Option(KEPT),
        "neighbours": Option(NEIGHBOURS),
        "temperature": Option(TEMPERATURE),
        "reweight": Option(True),
        "freeze_teacher": Option(False),
    }

    def __init__(
        self,
        setting: Setting,
        place: str = place,
        kept: int = KEPT,
        neighbours: int = NEIGHBOURS,
        temperature: float = TEMPERATURE,
        reweight: bool = True,
        freeze_teacher: bool = False,
    ):
        name = self.one_served_at(place, setting)
        super().__init__((name,))
        width = setting.student[name].width
        self.kept, self.neighbours, self.temperature, self.reweight = kept, neighbours, temperature, reweight
        self.student_graph = GraphLayer(width, width)
        self.teacher_graph = GraphLayer(setting.teacher[name].width, width).requires_grad_(not freeze_teacher)

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        pair = context.pair(self.features[0])
        student, teacher = (feature.as_clouds() for feature in pair)
        importance = point_importance(pair[1])
        kept = important_points(importance, self.kept)
        near = feature_neighbours(teacher, kept, self.neighbours)
        student_graph = self.student_graph(student, kept, near)
        teacher_graph = self.teacher_graph(teacher, kept, near)
        if not self.reweight:
            weights = torch.full(kept.shape, 1 / kept.shape[1], dtype=student.dtype, device=student.device)
        elif pair[1].importance is None:
            weights = importance_weights(teacher_graph.amax(2), self.temperature)
        else:
            weights = importance_weights(importance.gather(1, kept), self.temperature)
        return {"pointdistiller": graph_loss(student_graph, teacher_graph, weights)}
