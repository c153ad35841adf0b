"""The network written straight from the paper in torch operators: the baseline of ``benchmark.py``, used nowhere else.

Every layer searches its own neighbours in an N x M matrix of distances, sampling is a loop of torch operators, each
level is sampled anew, features are gathered in front of the layers that mix them, and each cloud passes the pyramid on
its own. Nothing is slow on purpose. The weights are those of ``BiPointFlowNet``, and so are the flows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import FlowOutput
from models.scene_flow.bi_pointflownet import FLOW_LEVELS, MAX_RESIDUAL, BidirectionalFlowEmbedding, BiPointFlowNet
from models.scene_flow.levels import CROSS_NEIGHBOURS, DOWN_NEIGHBOURS, INTERPOLATION_NEIGHBOURS, SELF_NEIGHBOURS
from models.scene_flow.pointconv import NEGATIVE_SLOPE, PointConvAggregation


def sample(xyz: Tensor, count: int) -> Tensor:
    """Furthest point sampling: (B, N, 3) in metres -> (B, count) int64, starting at index 0."""
    rows = torch.arange(len(xyz), device=xyz.device)
    picks = torch.zeros(len(xyz), count, dtype=torch.int64, device=xyz.device)
    nearest = torch.full(xyz.shape[:2], torch.inf, dtype=xyz.dtype, device=xyz.device)  # to any pick so far
    for i in range(1, count):
        last = xyz[rows, picks[:, i - 1]][:, None]  # (B, 1, 3)
        nearest = torch.minimum(nearest, (xyz - last).square().sum(-1))
        picks[:, i] = nearest.argmax(1)
    return picks


def knn(query: Tensor, support: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(B, N, 3), (B, M, 3) in metres -> the k nearest: distances and indices into M, both (B, N, k)."""
    with torch.no_grad():
        distances = torch.cdist(query, support, compute_mode="donot_use_mm_for_euclid_dist")  # (B, N, M)
        found = distances.topk(min(k, support.shape[1]), largest=False)
    return found.values, found.indices


def gather(values: Tensor, index: Tensor) -> Tensor:
    """values (B, M, C), index (B, ...) into M -> (B, ..., C)."""
    rows = torch.arange(len(values), device=values.device).view(-1, *[1] * (index.dim() - 1))
    return values[rows, index]


def interpolate(query: Tensor, support: Tensor, values: Tensor) -> Tensor:
    """values (B, M, C) at the support points -> (B, N, C) at the queries: inverse distances of the 3 nearest."""
    _, index = knn(query, support, INTERPOLATION_NEIGHBOURS)
    square = (gather(support, index) - query[:, :, None]).square().sum(-1)  # (B, N, 3)
    inverse = 1 / square.clamp_min(1e-20).sqrt()
    weights = inverse / inverse.sum(-1, keepdim=True)
    return (gather(values, index) * weights[..., None]).sum(2)


def pointconv(layer: PointConvAggregation, query: Tensor, support: Tensor, features: Tensor, k: int) -> Tensor:
    """PointConv of query (B, N, 3) over support (B, M, 3) with features (B, M, C) -> (B, N, out)."""
    _, index = knn(query, support, k)
    offset = gather(support, index) - query[:, :, None]  # (B, N, K, 3)
    inputs = torch.cat([offset, gather(features, index)], -1)  # (B, N, K, 3 + C)
    weights = layer.weightnet(offset)  # (B, N, K, 16)
    return layer.linear((inputs.transpose(2, 3) @ weights).flatten(2))


def embed(query: Tensor, support: Tensor, queries: Tensor, keys: Tensor, position: nn.Linear, mlp: nn.Linear) -> Tensor:
    """One direction of the flow embedding: queries (B, N, C) at query, keys (B, M, C) at support -> (B, N, w)."""
    _, index = knn(query, support, CROSS_NEIGHBOURS)
    offset = gather(support, index) - query[:, :, None]  # (B, N, K, 3)
    hidden = F.leaky_relu(gather(keys, index) + queries[:, :, None] + position(offset), NEGATIVE_SLOPE)
    return F.leaky_relu(mlp(hidden), NEGATIVE_SLOPE).amax(2)


def exchange(
    layer: BidirectionalFlowEmbedding, xyz1: Tensor, xyz2: Tensor, context1: Tensor, context2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The bidirectional flow embedding: augmented features of both clouds and the embedding of the source."""
    first = layer.position1, layer.mlp1
    augmented1 = layer.update1(embed(xyz1, xyz2, layer.query(context1), layer.key(context2), *first))
    augmented2 = layer.update2(embed(xyz2, xyz1, layer.query(context2), layer.key(context1), *first))
    return augmented1, augmented2, embed(xyz1, xyz2, augmented1, augmented2, layer.position2, layer.mlp2)


class PlainBiPointFlowNet(BiPointFlowNet):
    """``BiPointFlowNet`` with a forward pass written without thought of speed; same weights, same contract."""

    def forward(self, xyz1: Tensor, xyz2: Tensor) -> FlowOutput:
        """Source (B, N, 3) and target (B, M, 3), metres, camera frame -> flows and sampling indices."""
        clouds1, indices1, pyramid1 = self._pyramid(xyz1)
        clouds2, indices2, pyramid2 = self._pyramid(xyz2)
        flows: list[Tensor | None] = [None] * FLOW_LEVELS
        above1, above2, predicted = pyramid1[4], pyramid2[4], None
        for level in reversed(range(FLOW_LEVELS)):
            (near1, far1), (near2, far2) = clouds1[level : level + 2], clouds2[level : level + 2]
            context1 = torch.cat([pyramid1[level], self.context[level](interpolate(near1, far1, above1))], -1)
            context2 = torch.cat([pyramid2[level], self.context[level](interpolate(near2, far2, above2))], -1)
            parts, flow_up, warped = [pyramid1[level]], 0, near2
            if level < 3:
                flow_up = interpolate(near1, far1, flows[level + 1])
                warped = near2 - interpolate(near2, near1 + flow_up, flow_up)
                parts.append(interpolate(near1, far1, predicted))
            above1, above2, embedding = exchange(self.embedding[level], near1, warped, context1, context2)
            predictor, predicted = self.predictor[level], torch.cat([*parts, embedding], -1)
            for layer in predictor.pointconvs:
                normalised = layer.norm(pointconv(layer, near1, near1, predicted, SELF_NEIGHBOURS))
                predicted = F.leaky_relu(normalised, NEGATIVE_SLOPE)
            predicted = predictor.mlp(predicted)
            flows[level] = predictor.head(predicted).clamp(-MAX_RESIDUAL, MAX_RESIDUAL) + flow_up
        return FlowOutput(flows, indices1, indices2)

    def _pyramid(self, xyz: Tensor) -> tuple[list[Tensor], list[Tensor | None], list[Tensor]]:
        """(B, N, 3) -> coordinates of levels 0..4, sampling indices and features of each."""
        clouds, indices, features = [xyz], [None], [self.pyramid.stem(xyz)]
        for level, size in enumerate(self.sizes_for(xyz.shape[1])[1:]):
            index = sample(clouds[-1], size)
            clouds.append(gather(clouds[-1], index))
            down = self.pyramid.down[level]
            lifted = self.pyramid.lift[level](features[-1])
            coarse = F.leaky_relu(pointconv(down, clouds[-1], clouds[-2], lifted, DOWN_NEIGHBOURS), NEGATIVE_SLOPE)
            features.append(self.pyramid.refine[level](coarse) if level < 3 else coarse)
            indices.append(index)
        return clouds, indices[:FLOW_LEVELS], features
