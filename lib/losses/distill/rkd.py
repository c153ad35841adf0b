"""Relational distillation (RKD, Park et al., CVPR 2019): how positions lie to each other in feature space.

The paper compares the samples of a batch. Here the points of a cloud, the cells of a map or the rows of a batch are
compared. Anchors, their neighbours in space, the level weights and the flow relation are our choices.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import InputError
from lib.features import Feature
from lib.losses.distill.context import DistillationContext
from lib.losses.distill.method import DistillationMethod, Setting, level_of
from lib.ops import gather, knn

ANCHORS = 256  # positions a cloud and level between which distances are compared
ANGLE_ANCHORS = 64  # of these, where angles are compared ...
NEIGHBOURS = 8  # ... between the directions to so many nearest points in space
LEVEL_WEIGHTS = (0.25, 0.5)  # of levels 0 and 1; 1 for coarser ones and for features without a level
ANGLE_WEIGHT = 2.0  # of the paper; distances: 1
FLOW_BETA = 0.05  # metres
TOO_FEW = "rkd compares positions with their neighbours: every feature needs at least 2 points, rows or cells"


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_ij h(d^S_ij / mu^S - d^T_ij / mu^T): a scalar without unit, h the Huber function with beta 1.

    d_ij: distance of the features of anchors i and j; mu: mean of the positive ones in the cloud.
    student (B, M, C_S), teacher (B, M, C_T), the widths are free. No gradient reaches the teacher.
    """
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher.detach()))


def _relative_distances(features: Tensor) -> Tensor:
    """(B, M, C) -> (B, M, M), in units of the mean positive distance of the cloud; slope 0 at distance 0."""
    distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    positive = (distance > 0).sum((1, 2)).clamp_min(1)  # (B,)
    mean = distance.sum((1, 2)) / positive
    return distance / torch.where(mean > 0, mean, 1.0).view(-1, 1, 1)


def angle_loss(student: Tensor, teacher: Tensor, anchors: Tensor, neighbours: Tensor) -> Tensor:
    """mean h(cos^S - cos^T) over the angles at each anchor between the differences to two of its neighbours: a scalar.

    student (B, N, C_S), teacher (B, N, C_T); anchors (B, A), neighbours (B, A, K) int64 into N. h: Huber, beta 1.
    No gradient reaches the teacher.
    """
    return F.smooth_l1_loss(_cosines(student, anchors, neighbours), _cosines(teacher.detach(), anchors, neighbours))


def _cosines(features: Tensor, anchors: Tensor, neighbours: Tensor) -> Tensor:
    """(B, A, K, K): cosines of the angles at the anchors; 0 where a neighbour's features equal the anchor's."""
    offset = gather(features, neighbours) - gather(features, anchors).unsqueeze(2)  # (B, A, K, C)
    length = torch.linalg.vector_norm(offset, dim=3, keepdim=True)
    direction = offset / torch.where(length > 0, length, 1.0)
    return direction @ direction.transpose(2, 3)


def flow_relation_loss(student: Tensor, teacher: Tensor, anchors: Tensor, neighbours: Tensor) -> Tensor:
    """mean h(||f^S_i - f^S_j|| - ||f^T_i - f^T_j||) over neighbours i, j in space, in metres: rewards local rigidity.

    student, teacher (B, N, 3) flows, metres; anchors (B, A), neighbours (B, A, K) int64 into N. h: Huber, beta 0.05 m.
    No gradient reaches the teacher.
    """
    lengths = [
        # (B, A, K, 3) - (B, A, 1, 3) -> (B, A, K); torch's norm has the subgradient 0 at 0
        torch.linalg.vector_norm(gather(flow, neighbours) - gather(flow, anchors).unsqueeze(2), dim=3)
        for flow in (student, teacher.detach())
    ]
    return F.smooth_l1_loss(*lengths, beta=FLOW_BETA)


def draw_anchors(xyz: Tensor, count: int = ANCHORS) -> Tensor:
    """At most ``count`` different points of each cloud (B, N, C) at random: (B, min(N, count)) int64.

    From torch's generator on the CPU, on every device.
    """
    batch, points, _ = xyz.shape
    return torch.rand(batch, points).argsort(1)[:, :count].to(xyz.device)


def spatial_neighbours(xyz: Tensor, anchors: Tensor, count: int = NEIGHBOURS) -> Tensor:
    """The nearest other points of each anchor: xyz (B, N, 3) metres, anchors (B, A) -> (B, A, min(N - 1, count)).

    Raises InputError when the cloud has a single point.
    """
    if xyz.shape[1] < 2:
        raise InputError(TOO_FEW)
    nearest = knn(gather(xyz, anchors), xyz, min(count + 1, xyz.shape[1]))  # (B, A, K + 1)
    # Where the anchor itself stands: rarely not first, behind points that coincide with it. Where all candidates do and
    # it is not among them, argmax of zeros is 0: the first goes, all are equally near.
    own = (nearest == anchors.unsqueeze(2)).int().argmax(2, keepdim=True)  # (B, A, 1)
    places = torch.arange(nearest.shape[2] - 1, device=xyz.device)
    return nearest.gather(2, places + (places >= own))  # (B, A, K)


def grid_places(values: Tensor) -> Tensor:
    """Where the cells of a map (B, C, H, W) lie: (B, H W, 3), as (row, column, 0)."""
    height, width = values.shape[2:]
    rows, columns = torch.arange(height), torch.arange(width)
    grid = torch.cartesian_prod(rows, columns, torch.arange(1))  # (H W, 3)
    return grid.to(values).expand(len(values), -1, -1)


def random_neighbours(anchors: Tensor, corners: int, count: int = NEIGHBOURS) -> Tensor:
    """For each of the first ``corners`` anchors the ``count`` that follow it in the random order of the anchors.

    anchors (B, M) -> (B, min(M, corners), min(M - 1, count)) int64. Raises InputError for a single anchor.
    """
    available = anchors.shape[1]
    if available < 2:
        raise InputError(TOO_FEW)
    first = torch.arange(min(available, corners), device=anchors.device)
    steps = torch.arange(1, min(available - 1, count) + 1, device=anchors.device)
    return anchors[:, (first.unsqueeze(1) + steps) % available]  # (B, A, K)


class RelationalDistillation(DistillationMethod):
    """Distances and angles in the features of each level, and the relation of neighbouring flows at the finest.

    Points and cells of a map: within each cloud or image; angles are those between the nearest neighbours in space.
    Rows: within the batch, between rows drawn at random, as in the paper. The flow relation is for tasks that predict
    level by level, at points with coordinates; for others it is left out.
    """

    name = "rkd"
    place = "pyramid1"
    layouts = ("points", "rows", "map")

    def __init__(self, setting: Setting, place: str = place):
        super().__init__(self.served_at(place, setting))

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        distance, angle = [], []
        for name in self.features:
            pair = context.pair(name)
            anchors, corners, neighbours = _draw(name, pair[0])
            student, teacher = (feature.as_clouds() for feature in pair)
            weight = _level_weight(name)
            distance.append(weight * distance_loss(gather(student, anchors), gather(teacher, anchors)))
            angle.append(weight * angle_loss(student, teacher, corners, neighbours))
        parts = {"rkd_distance": torch.stack(distance).sum(), "rkd_angle": torch.stack(angle).sum()}
        total = parts["rkd_distance"] + ANGLE_WEIGHT * parts["rkd_angle"]
        levels = context.student.levels
        if levels is not None and (places := levels.sites[0].places) is not None:
            anchors = draw_anchors(places)
            flows = levels.values[0], context.teacher.levels.values[0]
            parts["rkd_flow"] = flow_relation_loss(*flows, anchors, spatial_neighbours(places, anchors))
            total = total + parts["rkd_flow"]
        return {"rkd": total, **parts}


def _draw(name: str, feature: Feature) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors (B, M), those where angles are compared (B, A), and their neighbours (B, A, K)."""
    if feature.layout == "rows":
        anchors = draw_anchors(feature.as_clouds())
        return anchors, anchors[:, :ANGLE_ANCHORS], random_neighbours(anchors, ANGLE_ANCHORS)
    places = grid_places(feature.values) if feature.layout == "map" else feature.sites.places
    if places is None:
        raise InputError(f"rkd compares neighbours in space, and the points of the feature {name} have no coordinates")
    anchors = draw_anchors(places)
    corners = anchors[:, :ANGLE_ANCHORS]
    return anchors, corners, spatial_neighbours(places, corners)


def _level_weight(name: str) -> float:
    level = level_of(name)
    return LEVEL_WEIGHTS[level] if level is not None and level < len(LEVEL_WEIGHTS) else 1.0
