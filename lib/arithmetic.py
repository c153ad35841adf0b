"""How much arithmetic a network does on a pair of clouds: its matrix products, the point operations' included."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models.bi_pointflownet import BidirectionalFlowEmbedding
from models.layers import WEIGHTS, PointConvAggregation


@dataclass(frozen=True)
class Flops:
    """Floating point operations of one forward pass on one pair; a multiply-add counts as 2."""

    linear: int  # linear layers (1x1 convolutions), those that make a PointConv's weights included
    pointconv: int  # a PointConv's sum over neighbours of [offset, features] (outer) weights
    embedding: int  # a flow embedding's layer on every pair of neighbours, and its layer on coordinates

    @property
    def total(self) -> int:
        return self.linear + self.pointconv + self.embedding


@torch.no_grad()
def count_flops(net: nn.Module, num_points: int) -> Flops:
    """Counts the matrix products of ``net`` on two clouds of ``num_points`` by watching one forward pass.

    Not counted, as no processor's rate for matrix products speaks of them: element-wise operations, maxima,
    normalisation, sampling, the search for neighbours, and interpolation (together a few percent). The count depends
    on widths and sizes alone, so clouds are drawn at random, from a generator of their own. The network is left as it
    was. Raises InputError when a cloud of so many points is too small for the network.
    """
    counts = dict.fromkeys(("linear", "pointconv", "embedding"), 0)

    def linear(module: nn.Linear, inputs: tuple[Any, ...], _output: Any) -> None:
        rows = inputs[0].numel() // module.in_features
        counts["linear"] += 2 * rows * module.in_features * module.out_features

    def pointconv(_module: PointConvAggregation, inputs: tuple[Any, ...], _output: Any) -> None:
        offset, features, index = inputs  # (B, N, K, 3), (B, M, C), (B, N, K)
        counts["pointconv"] += 2 * index.numel() * (3 + features.shape[2]) * WEIGHTS

    def embedding(module: BidirectionalFlowEmbedding, inputs: tuple[Any, ...], _output: Any) -> None:
        xyz1, xyz2, _, _, near12, near21 = inputs  # near12 (B, N, K), near21 (B, M, K)
        pairs = 2 * near12.numel() * module.mlp2.weight.numel()  # source to target a second time: the flow embedding
        pairs += 2 * (near12.numel() + near21.numel()) * module.mlp1.weight.numel()
        places = 2 * (xyz1.numel() + xyz2.numel()) * (module.position1.out_features + module.position2.out_features)
        counts["embedding"] += pairs + places

    watched = {nn.Linear: linear, PointConvAggregation: pointconv, BidirectionalFlowEmbedding: embedding}
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(0)
    pair = [torch.rand(1, num_points, 3, generator=generator).to(device) for _ in range(2)]
    training = net.training
    handles = [
        module.register_forward_hook(hook)
        for module in net.modules()
        for kind, hook in watched.items()
        if isinstance(module, kind)
    ]
    try:
        net.eval()(*pair)
    finally:
        net.train(training)
        for handle in handles:
            handle.remove()
    return Flops(**counts)
