"""PointDistiller (Zhang et al., CVPR 2023): local structure around the positions that matter most to the teacher.

A candidate is a position of a feature: a point, a pillar or voxel, or a cell of a map.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import InputError
from lib.features import Feature
from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod, Option, Setting, adapter
from lib.ops import gather

MODES = ("paper", "reference")
KEPT = 512  # N, candidates a sample (our choice)
NEIGHBOURS = 32  # K (our choice)
TEMPERATURE = 1.0  # tau of the weights in mode paper (our choice) ...
COUNT_TEMPERATURE = 8.0  # ... and where they follow an importance that the network knows: counts of points (our choice)
REFERENCE_TEMPERATURE = 0.01  # tau of the published code
DISTANCES = 2**24  # computed at once: 64 MiB in float32


def point_importance(teacher: Feature) -> Tensor:
    """How much each position matters to the teacher: (B, N).

    ``Feature.importance`` where the network knows it, such as the number of points in a pillar; else the maximum over
    channels. Rows of a batch are one cloud: (1, P).
    """
    known = teacher.importance_of_clouds()
    return teacher.as_clouds().amax(2) if known is None else known.to(teacher.values.dtype)


def important_points(importance: Tensor, count: int = KEPT) -> Tensor:
    """The positions of largest importance: (B, N) -> (B, min(N, count)) int64.

    Most important first; equal ones in the order of their indices.
    """
    return importance.argsort(dim=1, descending=True, stable=True)[:, :count]


def feature_neighbours(teacher: Tensor, kept: Tensor, count: int = NEIGHBOURS, exact: bool = True) -> Tensor:
    """The nearest points, in the teacher's feature space, of the kept ones, which themselves count.

    teacher (B, N, C), kept (B, n) int64 -> (B, n, min(N, count)) int64 into N. Of the (B, n, N) distances at most
    ``DISTANCES`` are held at once. exact False: |a|^2 - 2 a b + |b|^2, which is three times as fast and may swap
    neighbours whose distances differ by a rounding error.
    """
    count = min(count, teacher.shape[1])
    mode = "donot_use_mm_for_euclid_dist" if exact else "use_mm_for_euclid_dist"
    parts = []
    for part in kept.split(max(DISTANCES // max(teacher.shape[0] * teacher.shape[1], 1), 1), 1):  # (B, part)
        distance = torch.cdist(gather(teacher, part), teacher, compute_mode=mode)  # (B, part, N)
        parts.append(distance.topk(count, dim=2, largest=False).indices)  # (B, part, K)
    return torch.cat(parts, 1)


class Neighbourhoods(NamedTuple):
    """Which positions are compared, and with which neighbours. The student takes over the teacher's."""

    kept: Tensor  # (B, n) int64 into the N positions
    near: Tensor  # (B, n, K) int64 likewise; K = 0 where no neighbours were asked for
    sizes: tuple[int, ...]  # the n positions are those of one sample, or of several behind each other: how many of each


def neighbourhoods(
    teacher: Tensor, importance: Tensor, count: int, neighbours: int, exact: bool = False
) -> Neighbourhoods:
    """Those of each cloud. teacher (B, N, C), importance (B, N); count: N of the paper, neighbours: K, 0 for none."""
    kept = important_points(importance, count)
    near = feature_neighbours(teacher, kept, neighbours, exact) if neighbours else kept.new_empty(*kept.shape, 0)
    return Neighbourhoods(kept, near, (kept.shape[1],))


def neighbourhoods_of_rows(
    teacher: Tensor, importance: Tensor, samples: list[Tensor], count: int, neighbours: int
) -> Neighbourhoods:
    """Those of the rows of a batch, in each sample on its own: kept (1, n), near (1, n, K).

    teacher (P, C), importance (P,); samples: which rows belong to each, (P_b,) int64. A sample of fewer than K rows
    repeats its list of neighbours (our choice).
    """
    own = [neighbourhoods(teacher[rows][None], importance[rows][None], count, neighbours) for rows in samples]
    most = max(part.near.shape[2] for part in own)
    kept, near = [], []
    for rows, part in zip(samples, own, strict=True):
        repeated = torch.arange(most, device=rows.device) % max(part.near.shape[2], 1)
        kept.append(rows[part.kept])  # (1, n_b): index in the sample -> row of the batch
        near.append(rows[part.near[:, :, repeated]])  # (1, n_b, K)
    return Neighbourhoods(torch.cat(kept, 1), torch.cat(near, 1), tuple(part.kept.shape[1] for part in own))


def importance_weights(importance: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """phi: softmax over the kept points of (importance / temperature), without gradient: (B, n) -> (B, n).

    Rows sum to 1. In at least 32 bits: counts over a small temperature are large numbers.
    """
    importance = importance.detach().to(torch.promote_types(importance.dtype, torch.float32))
    return torch.softmax(importance / temperature, dim=1)


def omega_of(importance: Tensor, sizes: tuple[int, ...], temperature: float) -> Tensor:
    """omega = N phi in each sample, whose mean is 1: (B, n) -> (B, n). sizes: those of ``Neighbourhoods``."""
    parts = importance.split(sizes, 1)  # (B, n_b) each
    return torch.cat([part.shape[1] * importance_weights(part, temperature) for part in parts], 1)


def graph_loss(student_graph: Tensor, teacher_graph: Tensor, omega: Tensor) -> Tensor:
    """2 mean(omega_i (G^T_i - G^S_i)^2) over everything: a scalar.

    Graph features (B, n, C'), or (B, n, K, C') where neighbours are not pooled; omega (B, n).
    """
    omega = omega.view(*omega.shape, *[1] * (student_graph.dim() - 2))  # (B, n) -> (B, n, 1) or (B, n, 1, 1)
    return 2 * (omega * (teacher_graph - student_graph).square()).mean()


class GraphLayer(nn.Module):
    """ReLU(BatchNorm(W [z_j; z_i])) of each kept i and neighbour j: (B, N, C), kept (B, n), near (B, n, K) ->

    (B, n, K, C'), or with ``pooled`` its maximum over the neighbours (B, n, C').
    The normalisation always uses the statistics of this process's batch and keeps no running ones.
    """

    def __init__(self, inputs: int, outputs: int, pooled: bool = True):
        super().__init__()
        # W [z_j; z_i] = W_a z_j + W_b z_i, projected per point instead of per pair
        self.neighbour = nn.Linear(inputs, outputs, bias=False)
        self.centre = nn.Linear(inputs, outputs, bias=False)
        self.norm = nn.BatchNorm1d(outputs, track_running_stats=False)
        self.pooled = pooled

    def forward(self, features: Tensor, kept: Tensor, near: Tensor) -> Tensor:
        edges = gather(self.neighbour(features), near) + self.centre(gather(features, kept)).unsqueeze(2)
        rows = self.norm(edges.flatten(0, 2))  # (B n K, C')
        graph = F.relu(rows).view(edges.shape)  # (B, n, K, C')
        return graph.amax(2) if self.pooled else graph


class Kept(nn.Module):
    """In place of a graph layer: the features of the kept positions, through a 1x1 layer where widths differ."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.adapter = adapter(inputs, outputs)

    def forward(self, features: Tensor, kept: Tensor, near: Tensor) -> Tensor:
        return self.adapter(gather(features, kept))  # (B, n, C')


class PointDistiller(DistillationMethod):
    """Graph features of the kept positions, by a learned layer for each network, compared under the weights omega.

    The losses of all features at the place are summed. ``graphs`` has (student's layer, teacher's layer) of each.
    Neighbours are pooled for points and stay apart for rows and maps.

    mode "paper": positions are kept, and neighbours looked for, in each sample. omega = N phi, phi the softmax over
    the N kept of a sample of ``Feature.importance`` / tau where the network knows it, else of the largest number of
    the teacher's graph feature / tau.
    mode "reference", as the published code: rows of the whole batch are one sample. omega = N phi for rows whose
    importance is known, B (the batch size) for maps, 1 for all others.

    kept, neighbours: N and K. temperature: tau; None for 8 with a known importance and 1 without, in mode reference
    0.01. reweight False: omega = 1, the local graphs alone. local False: features in place of graphs, the weighting
    alone; where widths differ the student's pass a learned 1x1 layer to the teacher's width (our choice). width: C' of
    the graph layers; None for the student's width. freeze_teacher True keeps the teacher's graph layer as it was
    initialised. Otherwise that layer is trained too, and could lower the loss by giving up detail.
    """

    name = "pointdistiller"
    place = "pyramid1/1"
    layouts = ("points", "rows", "map")
    options = {
        "mode": Option("paper", MODES),
        "kept": Option(KEPT),
        "neighbours": Option(NEIGHBOURS),
        "temperature": Option(None, kind=float),
        "reweight": Option(True),
        "local": Option(True),
        "width": Option(None, kind=int),
        "freeze_teacher": Option(False),
    }

    def __init__(
        self,
        setting: Setting,
        place: str = place,
        mode: str = "paper",
        kept: int = KEPT,
        neighbours: int = NEIGHBOURS,
        temperature: float | None = None,
        reweight: bool = True,
        local: bool = True,
        width: int | None = None,
        freeze_teacher: bool = False,
    ):
        if not local and (width is not None or freeze_teacher):
            raise InputError("pointdistiller+local=off has no graph layers: leave out width and freeze_teacher")
        super().__init__(self.served_at(place, setting))
        self.by_sample, self.reweight, self.temperature = mode == "paper", reweight, temperature
        self.kept, self.neighbours = kept, neighbours if local else 0
        self.graphs = nn.ModuleList()
        for name in self.features:
            student, teacher = setting.student[name], setting.teacher[name]
            if local:
                outputs, pooled = width or student.width, student.layout == "points"
                layers = [GraphLayer(shape.width, outputs, pooled) for shape in (student, teacher)]
                layers[1].requires_grad_(not freeze_teacher)
            else:
                layers = [Kept(shape.width, teacher.width) for shape in (student, teacher)]
            self.graphs.append(nn.ModuleList(layers))

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        terms = [
            self._term(name, *layers, *context.pair(name))
            for name, layers in zip(self.features, self.graphs, strict=True)
        ]
        return {"pointdistiller": torch.stack(terms).sum()}

    def _term(
        self, name: str, student_layer: nn.Module, teacher_layer: nn.Module, student: Feature, teacher: Feature
    ) -> Tensor:
        """The loss of one feature."""
        importance, numbers = point_importance(teacher), (self.kept, self.neighbours)  # (B, N), (N, K)
        if teacher.layout == "rows" and self.by_sample:
            if teacher.sites.sample is None:
                raise InputError(
                    f"pointdistiller@{name} keeps rows of each sample, and these rows do not tell which sample they "
                    f"belong to: add +mode=reference"
                )
            samples = teacher.sites.rows_of_samples()
            chosen = neighbourhoods_of_rows(teacher.values, importance[0], samples, *numbers)
        else:
            # exact for points, as in the results on record
            chosen = neighbourhoods(teacher.as_clouds(), importance, *numbers, exact=teacher.layout == "points")
        student_graph = student_layer(student.as_clouds(), chosen.kept, chosen.near)
        teacher_graph = teacher_layer(teacher.as_clouds(), chosen.kept, chosen.near)
        return graph_loss(student_graph, teacher_graph, self._omega(teacher, teacher_graph, importance, chosen))

    def _omega(self, teacher: Feature, graph: Tensor, importance: Tensor, chosen: Neighbourhoods) -> Tensor:
        """The weights of the kept positions: (B, n)."""
        known = teacher.importance is not None
        if not self.reweight:
            return graph.new_ones(chosen.kept.shape)
        if not self.by_sample and not (known and teacher.layout == "rows"):
            return graph.new_full(chosen.kept.shape, len(graph) if teacher.layout == "map" else 1)
        usual = (COUNT_TEMPERATURE if known else TEMPERATURE) if self.by_sample else REFERENCE_TEMPERATURE
        # graph: (B, n, C') or (B, n, K, C') -> (B, n)
        strength = importance.gather(1, chosen.kept) if known else graph.flatten(2).amax(2)
        return omega_of(strength, chosen.sizes, self.temperature or usual)
