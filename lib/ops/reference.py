"""The slow twins: every point operation written to be read, in plain torch.

They are the definition. The fast implementations must agree with them, ties included, and so the distances that
decide about an index are always evaluated in float64, whatever the precision of the coordinates.
Shapes: B clouds, N queries, M support points, K neighbours, C channels; coordinates in metres.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NEGATIVE_SLOPE = 0.1  # of every LeakyReLU in the network
WEIGHTS = 16  # of a neighbour in a PointConv: what its weight net makes
MIN_DISTANCE = 1e-10  # metres; keeps the inverse of a distance finite
CHUNK = 1024  # queries whose N x M distances are held at once


def squared_distances(query: Tensor, support: Tensor) -> Tensor:
    """(B, N, 3), (B, M, 3) -> (B, N, M) squared Euclidean distances in float64, from differences.

    Never from a^2 - 2ab + b^2, whose cancellation puts neighbours in the wrong order.
    """
    dx, dy, dz = (query.double()[:, :, None] - support.double()[:, None]).unbind(-1)
    return dx * dx + dy * dy + dz * dz


def furthest_point_sample(xyz: Tensor, count: int) -> Tensor:
    """(B, N, 3) -> (B, count) int64. Starts at index 0; each pick is furthest from those before, ties to the lower."""
    rows = torch.arange(xyz.shape[0], device=xyz.device)
    picks = torch.zeros(xyz.shape[0], count, dtype=torch.int64, device=xyz.device)
    nearest = torch.full(xyz.shape[:2], float("inf"), dtype=torch.float64, device=xyz.device)  # to any pick so far
    for i in range(1, count):
        last = xyz[rows, picks[:, i - 1]]  # (B, 3)
        nearest = torch.minimum(nearest, squared_distances(last[:, None], xyz)[:, 0])
        furthest = nearest == nearest.max(dim=1, keepdim=True).values
        picks[:, i] = furthest.int().argmax(dim=1)  # the first of equals: argmax of a 0/1 vector
    return picks


def knn(query: Tensor, support: Tensor, k: int) -> Tensor:
    """(B, N, 3), (B, M, 3) -> (B, N, k) int64, nearest first; equal distances in the order of their indices."""
    chunks = []
    for part in query.detach().split(CHUNK, dim=1):
        distances = squared_distances(part, support.detach())  # (B, chunk, M)
        chunks.append(distances.sort(dim=2, stable=True).indices[:, :, :k])
    return torch.cat(chunks, dim=1)


def gather(values: Tensor, index: Tensor) -> Tensor:
    """values (B, M, C), index (B, ...) into M -> (B, ..., C)."""
    batch = torch.arange(values.shape[0], device=values.device).view(-1, *[1] * (index.dim() - 1))
    return values[batch, index]


def inverse_distance_weights(query: Tensor, support: Tensor, index: Tensor) -> Tensor:
    """(B, N, 3), (B, M, 3), (B, N, K) -> (B, N, K): 1/d with d clamped to >= 1e-10 m, normalised to sum 1."""
    offset = gather(support, index) - query[:, :, None]  # (B, N, K, 3)
    # Clamped before the root: where two points coincide the root's own slope would be infinite.
    distance = offset.square().sum(-1).clamp_min(MIN_DISTANCE**2).sqrt()
    inverse = 1 / distance
    return inverse / inverse.sum(-1, keepdim=True)


def weighted_sum(values: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """values (B, M, C), index and weights (B, N, K) -> (B, N, C) = sum_k weights_k values[index_k]."""
    return (gather(values, index) * weights[..., None]).sum(2)


def pointconv_aggregate(offset: Tensor, features: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The sum of outer products of a PointConv.

    offset (B, N, K, 3), features (B, M, C), index (B, N, K), weights (B, N, K, W) -> (B, N, (3 + C) W):
    A = sum_k [offset_k, features[index_k]] (outer) weights_k, the input channel slow and the weight fast.
    """
    inputs = torch.cat([offset, gather(features, index)], dim=-1)  # (B, N, K, 3 + C)
    return (inputs.transpose(2, 3) @ weights).flatten(2)  # (B, N, 3 + C, W) -> (B, N, (3 + C) W)


def pointconv_linear(
    offset: Tensor, features: Tensor, index: Tensor, weights: Tensor, matrix: Tensor, bias: Tensor
) -> Tensor:
    """``pointconv_aggregate``, then the linear layer matrix (D, (3 + C) W), bias (D): (B, N, D)."""
    return F.linear(pointconv_aggregate(offset, features, index, weights), matrix, bias)


def weight_net(offset: Tensor, *layers: Tensor) -> Tensor:
    """offset (..., 3) -> (..., D_3): three linear layers (weight and bias of each in turn), each followed by ReLU."""
    for weight, bias in zip(layers[::2], layers[1::2], strict=True):
        offset = F.relu(F.linear(offset, weight, bias))
    return offset


def pointconv_net(
    offset: Tensor, features: Tensor, index: Tensor, layers: Sequence[Tensor], matrix: Tensor, bias: Tensor
) -> Tensor:
    """``pointconv_linear`` with the weights ``weight_net`` (offset, *layers): (B, N, D)."""
    return pointconv_linear(offset, features, index, weight_net(offset, *layers), matrix, bias)


def flow_embedding(query: Tensor, support: Tensor, index: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """query (B, N, C), support (B, M, C), index (B, N, K), weight (D, C), bias (D) -> (B, N, D).

    max_k LeakyReLU(weight LeakyReLU(query + support[index_k]) + bias); on a tie the first k takes the gradient, and a
    NaN counts as the largest value.
    """
    hidden = F.leaky_relu(query[:, :, None] + gather(support, index), NEGATIVE_SLOPE)  # (B, N, K, C)
    hidden = F.leaky_relu(F.linear(hidden, weight, bias), NEGATIVE_SLOPE)  # (B, N, K, D)
    largest = (hidden == hidden.amax(2, keepdim=True)) | hidden.isnan()
    first = largest.int().argmax(2, keepdim=True)  # (B, N, 1, D)
    return hidden.gather(2, first)[:, :, 0]
