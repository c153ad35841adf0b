"""The convolutions over a bird's-eye-view map (BEV): stages from fine to coarse, and the neck that joins them.

SECOND (Yan et al., Sensors 2018) and PointPillars (Lang et al., CVPR 2019) share them. A map (B, C, H, W) is the ground
seen from above: rows along y, columns along x.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.ops.cpu.product import kept
from models.norm import BatchNorm2d

EPS = 1e-3  # of every batch normalisation of these detectors


class ConvNorm(nn.Module):
    """A convolution without bias, batch normalisation and ReLU: (B, C, H, W) -> (B, D, H', W').

    In a frozen network the three are one convolution with bias.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, momentum: float) -> None:
        super().__init__()
        self.conv = conv
        self.norm = BatchNorm2d(conv.out_channels, eps=EPS, momentum=momentum)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        if self.training or conv.weight.requires_grad:
            return F.relu(norm(conv(maps)), inplace=True)
        transposed = isinstance(conv, nn.ConvTranspose2d)
        weight, bias = _folded(
            conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var, eps=norm.eps, axis=int(transposed)
        )
        convolve = F.conv_transpose2d if transposed else F.conv2d
        return F.relu(convolve(maps, weight, bias, conv.stride, conv.padding), inplace=True)


@kept
def _folded(
    weight: Tensor, gain: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, eps: float, axis: int
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution; axis: that of the outputs in the weight. Made once for frozen weights."""
    scale = gain.double() * (variance.double() + eps).rsqrt()
    bias = shift.double() - mean.double() * scale
    shape = [1, -1, 1, 1] if axis else [-1, 1, 1, 1]
    folded = (weight.double() * scale.view(shape)).to(weight.dtype)  # (D, C, k, k), transposed: (C, D, k, k)
    return folded.contiguous(memory_format=torch.channels_last), bias.to(weight.dtype)


class BevBackbone(nn.Module):
    """Stages of 3 x 3 convolutions: a map (B, C, H, W) -> the output of each stage, from fine to coarse.

    inputs: channels of the map. widths, strides: of the stages; layers: how many convolutions follow the first of each.
    """

    def __init__(
        self, inputs: int, widths: Sequence[int], strides: Sequence[int], layers: Sequence[int], momentum: float
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for width, stride, more in zip(widths, strides, layers, strict=True):
            first = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
            rest = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(more)]
            self.stages.append(nn.Sequential(*(ConvNorm(conv, momentum) for conv in (first, *rest))))
            inputs = width

    def forward(self, maps: Tensor) -> list[Tensor]:
        """-> one map a stage, (B, widths[i], H_i, W_i)."""
        outputs = []
        for stage in self.stages:
            maps = stage(maps)
            outputs.append(maps)
        return outputs


class BevNeck(nn.Module):
    """Brings the stages' maps to the finest one's size and joins them.

    strides[i]: how much coarser stage i is than the joint map. Kernel and stride of a transposed convolution are equal.
    """

    def __init__(self, inputs: Sequence[int], strides: Sequence[int], width: int, momentum: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvNorm(nn.ConvTranspose2d(channels, width, stride, stride, bias=False), momentum)
            for channels, stride in zip(inputs, strides, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, inputs[i], H_i, W_i) -> (B, width * number of stages, H, W)."""
        return torch.cat([branch(stage) for branch, stage in zip(self.branches, maps, strict=True)], 1)
