"""The layers that are the same at every level: shared MLPs and the two PointConvs. All tensors are channels-last."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib import ops
from lib.ops import NEGATIVE_SLOPE, WEIGHTS
from models.norm import BatchNorm


class Linear(nn.Linear):
    """A 1x1 convolution with bias: (..., inputs) -> (..., outputs)."""

    def forward(self, values: Tensor, slope: float = 1.0) -> Tensor:
        """The layer, then LeakyReLU of this slope; 1: none."""
        return ops.linear(values, *self.layer(slope))

    def layer(self, slope: float = 1.0) -> ops.Layer:
        """The same as a layer of ``ops.mlp``."""
        return self.weight, self.bias, slope


class SharedMLP(nn.Sequential):
    """1x1 convolutions with bias, each followed by LeakyReLU(0.1): (..., widths[0]) -> (..., widths[-1]).

    The LeakyReLU modules only give the layers the names that they have in checkpoints.
    """

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
            layers += [Linear(inputs, outputs), nn.LeakyReLU(NEGATIVE_SLOPE)]
        super().__init__(*layers)

    def forward(self, values: Tensor) -> Tensor:
        return ops.mlp(values, *self.layers())[-1]

    def layers(self) -> list[ops.Layer]:
        """Each layer and its LeakyReLU in one."""
        return [linear.layer(NEGATIVE_SLOPE) for linear in list(self)[::2]]


class PointMLP(SharedMLP):
    """A shared MLP of coordinates (..., 3) in metres. Under autocast its first layer keeps their full precision.

    16 bits of bfloat16 would know a point at 32 m to 0.25 m.
    """

    def forward(self, xyz: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(xyz.device.type):
            return super().forward(xyz)
        first, *rest = self.layers()
        with torch.autocast(xyz.device.type, enabled=False):
            values = ops.linear(xyz, *first)
        return ops.mlp(values, *rest)[-1] if rest else values


class WeightNet(nn.Sequential):
    """Offsets to neighbours (..., 3) in metres -> weights (..., 16), >= 0 (PointConv, Wu et al. 2019)."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, WEIGHTS), nn.ReLU())

    def layers(self) -> list[Tensor]:
        """Weight and bias of each linear layer in turn."""
        return [value for layer in list(self)[::2] for value in (layer.weight, layer.bias)]

    def forward(self, offset: Tensor) -> Tensor:
        """The three layers in one pass over the offsets."""
        return ops.weight_net(offset, *self.layers())


class PointConvAggregation(nn.Module):
    """PointConv of the queries' neighbours, without normalisation or activation.

    offset (B, N, K, 3) = neighbour - query in metres, features (B, M, C), index (B, N, K) into M -> (B, N, out).
    Outside of autograd, on a CPU, the classes below run as one operation, which calls none of their modules.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weightnet = WeightNet()
        self.linear = nn.Linear(WEIGHTS * (3 + inputs), outputs)

    def forward(self, offset: Tensor, features: Tensor, index: Tensor) -> Tensor:
        layers = self.weightnet.layers()
        return ops.pointconv_net(offset, features, index, layers, self.linear.weight, self.linear.bias)

    def whole_layer(
        self,
        offset: Tensor,
        features: Tensor,
        index: Tensor,
        *norm: Tensor,
        eps: float = 0.0,
        then: Sequence[ops.Layer] = (),
    ) -> list[Tensor]:
        """LeakyReLU(0.1) of the normalised linear layer in one; see ``ops.pointconv_layer``."""
        layers, linear = self.weightnet.layers(), self.linear
        return ops.pointconv_layer(
            offset, features, index, layers, linear.weight, linear.bias, NEGATIVE_SLOPE, norm, eps, then
        )


class PointConvDown(PointConvAggregation):
    """PointConv from a level to the next coarser one, then LeakyReLU(0.1); no normalisation."""

    def forward(self, offset: Tensor, features: Tensor, index: Tensor) -> Tensor:
        if ops.runs_inference(offset, features, self.linear.weight):
            return self.whole_layer(offset, features, index)[0]
        return F.leaky_relu(super().forward(offset, features, index), NEGATIVE_SLOPE)


class PointConv(PointConvAggregation):
    """PointConv among the points of one level, then batch normalisation and LeakyReLU(0.1)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.norm = BatchNorm(outputs)

    def forward(self, offset: Tensor, features: Tensor, index: Tensor) -> Tensor:
        return self.followed_by([], offset, features, index)[0]

    def followed_by(self, layers: Sequence[ops.Layer], offset: Tensor, features: Tensor, index: Tensor) -> list[Tensor]:
        """Its output and those of the layers of an ``ops.mlp`` behind it: (B, N, out), (B, N, D_i)."""
        if not self.training and ops.runs_inference(offset, features, self.linear.weight):
            norm = self.norm
            kept = norm.weight, norm.bias, norm.running_mean, norm.running_var
            return self.whole_layer(offset, features, index, *kept, eps=norm.eps, then=layers)
        out = F.leaky_relu(self.norm(super().forward(offset, features, index)), NEGATIVE_SLOPE)
        return [out, *ops.mlp(out, *layers)]
