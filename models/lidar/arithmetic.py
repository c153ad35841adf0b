"""How much arithmetic a LiDAR detector does on a cloud: the convolutions over its bird's-eye-view map."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.flops import Flops, parts_of


class _Convolutions(nn.Module):
    """The part of a detector that sees every cell of the map, whatever the cloud."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = net.backbone, net.neck, net.head

    def forward(self, maps: torch.Tensor) -> None:
        self.head(self.neck(self.backbone(maps)))


@torch.no_grad()
def count_flops(net: nn.Module) -> Flops:
    """Counts the backbone, neck and head of ``net`` (PointPillars) for one cloud.

    Not counted: normalisation, and the pillar network, whose arithmetic depends on the cloud and is small (640
    multiply-adds a point in the teacher: 0.01 G). So the published counts are made as well. torch's counter watches the
    convolutions on a map without memory ("meta"): nothing is computed, and the network is left as it was.
    """
    twin = _Convolutions(type(net)(net.name, **net.options).to("meta")).eval()
    along_x, along_y, _ = net.grid.shape
    with FlopCounterMode(display=False) as counter:
        twin(torch.empty(1, net.settings.pillar, along_y, along_x, device="meta"))
    return Flops(parts_of(twin, counter))
