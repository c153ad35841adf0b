"""Bi-PointFlowNet (Cheng & Ko, ECCV 2022): scene flow between two point clouds, coarse to fine.

Both clouds pass one feature pyramid. From level 3 to level 0 the target is warped by the flow found so far, both
clouds exchange features (bidirectional flow embedding) and a predictor adds a residual flow. Teacher and students are
width settings of the one class here.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from lib import ops
from lib.ops import InputError
from models.scene_flow.levels import (
    CloudGeometry,
    Interpolation,
    Neighbourhood,
    PairGeometry,
    cross_neighbours,
    level_sizes,
)
from models.scene_flow.pointconv import Linear, PointConv, PointConvDown, PointMLP, SharedMLP

FLOW_LEVELS = 4  # flows are predicted at levels 0..3
MAX_RESIDUAL = 200.0  # metres


@dataclass(frozen=True)
class Widths:
    """The options of a network. The defaults are the published teacher's."""

    pyramid: Sequence[int] = (32, 64, 128, 256, 256)  # features at levels 0..4: w_0 .. w_4
    context: Sequence[int] = (32, 32, 64, 64)  # features brought up to levels 0..3: g_0 .. g_3
    predictor: Sequence[int] = (128, 128, 128, 64)  # two PointConvs, then a shared MLP of two layers
    bottleneck: int = 1  # the pyramid's w -> w layers become w -> w/bottleneck -> w; 1: one plain layer
    sizes: Sequence[int] | None = None  # points at levels 1..4; None: N/4, N/16, N/32, N/128

    def __post_init__(self) -> None:
        for name, length in (("pyramid", 5), ("context", 4), ("predictor", 4)):
            value = getattr(self, name)
            if len(value) != length or not all(isinstance(w, int) and w > 0 for w in value):
                raise InputError(f"network option {name} must be {length} positive whole numbers, got {value}")
            object.__setattr__(self, name, tuple(value))
        ratio = self.bottleneck
        if not isinstance(ratio, int) or ratio < 1 or any(width % ratio for width in self.pyramid[:4]):
            raise InputError(f"network option bottleneck must divide the pyramid's widths, got {self.bottleneck}")
        if self.sizes is not None:
            level_sizes(max(self.sizes), tuple(self.sizes))
            object.__setattr__(self, "sizes", tuple(self.sizes))


@dataclass
class FlowOutput:
    """What the network returns. Index l of each list is level l, 0 the finest."""

    flows: list[Tensor]  # levels 0..3: (B, N_l, 3), metres, from the source points to where they are in the target
    indices1: list[Tensor | None]  # (B, N_l) int64: level l of the source in the level above; None at level 0
    indices2: list[Tensor | None]  # the same of the target cloud
    features: dict[str, Tensor] = field(default_factory=dict)  # see BiPointFlowNet.forward; empty unless asked for


class FeaturePyramid(nn.Module):
    """Coordinates -> features f_0 .. f_4 of one cloud."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        w, ratio = widths.pyramid, widths.bottleneck

        def same(width: int) -> list[int]:
            return [width] if ratio == 1 else [width // ratio, width]

        self.stem = PointMLP(3, w[0], *same(w[0]))
        self.lift = nn.ModuleList(SharedMLP(w[level], 2 * w[level]) for level in range(4))  # passed down to level + 1
        self.down = nn.ModuleList(PointConvDown(2 * w[level], w[level + 1]) for level in range(4))
        self.refine = nn.ModuleList(SharedMLP(w[level], *same(w[level])) for level in (1, 2, 3))

    def forward(self, geometry: CloudGeometry) -> list[Tensor]:
        """-> features of levels 0..4, each (B, N_l, w_l)."""
        features = [self.stem(geometry.xyz[0])]
        for level in range(1, 5):
            near = geometry.down[level]
            coarse = self.down[level - 1](near.offset, self.lift[level - 1](features[-1]), near.index)
            features.append(self.refine[level - 1](coarse) if level < 4 else coarse)
        return features


class BidirectionalFlowEmbedding(nn.Module):
    """Source and target exchange features, then the source gathers the flow embedding from the target."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.query = Linear(inputs, width)  # q1 of the paper's figure
        self.key = Linear(inputs, width)  # k1
        self.position1 = Linear(3, width)
        self.mlp1 = Linear(width, width)
        self.update1 = Linear(width, width)  # u1, u2: the augmented features
        self.update2 = Linear(width, width)
        self.position2 = Linear(3, width)
        self.mlp2 = Linear(width, width)

    def forward(
        self, xyz1: Tensor, xyz2: Tensor, context1: Tensor, context2: Tensor, near12: Tensor, near21: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """xyz1 (B, N, 3), xyz2 (B, M, 3) (warped) in metres, context1 (B, N, C), context2 (B, M, C).

        near12 (B, N, 32) into the target and near21 (B, M, 32) into the source are the clouds' ``cross_neighbours``.
        -> augmented features f1' (B, N, w) and f2' (B, M, w), flow embedding e (B, N, w).
        """
        middle = xyz1.detach().mean(1, keepdim=True)  # (B, 1, 3): only differences count, and small numbers round less
        place1, place2 = xyz1 - middle, xyz2 - middle

        augmented1 = self.update1(self._exchange(context1, context2, place1, place2, near12))
        augmented2 = self.update2(self._exchange(context2, context1, place2, place1, near21))
        query = _query(augmented1, place1, self.position2)
        key = _key(augmented2, place2, self.position2)
        embedding = ops.flow_embedding(query, key, near12, self.mlp2.weight, self.mlp2.bias)
        return augmented1, augmented2, embedding

    def _exchange(self, context: Tensor, other: Tensor, place: Tensor, other_place: Tensor, near: Tensor) -> Tensor:
        """What the points of one cloud gather from the other: (B, N, w)."""
        query = _query(self.query(context), place, self.position1)
        key = _key(self.key(other), other_place, self.position1)
        return ops.flow_embedding(query, key, near, self.mlp1.weight, self.mlp1.bias)


# A flow embedding is max over neighbours of mlp(LeakyReLU(key + query + position(x_k - x_q))). The position's linear
# map W (x_k - x_q) + bias is W x_k and -W x_q + bias: it is added per point instead of per pair.


def _query(features: Tensor, place: Tensor, position: nn.Linear) -> Tensor:
    return ops.add_linear(features, place, position.weight, position.bias, sign=-1.0)


def _key(features: Tensor, place: Tensor, position: nn.Linear) -> Tensor:
    return ops.add_linear(features, place, position.weight)


class FlowPredictor(nn.Module):
    """Features of the source -> predictor features and residual flow."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.pointconvs = nn.ModuleList([PointConv(inputs, widths[0]), PointConv(widths[0], widths[1])])
        self.mlp = SharedMLP(*widths[1:])
        self.head = Linear(widths[-1], 3)

    def forward(self, features: Tensor, near: Neighbourhood) -> tuple[Tensor, Tensor]:
        """features (B, N, C) -> predictor features (B, N, widths[-1]), residual flow (B, N, 3) in metres."""
        first, second = self.pointconvs
        features = first(near.offset, features, near.index)
        layers = [*self.mlp.layers(), self.head.layer()]
        *_, features, residual = second.followed_by(layers, near.offset, features, near.index)
        return features, residual.to(near.offset.dtype).clamp(-MAX_RESIDUAL, MAX_RESIDUAL)


class BiPointFlowNet(nn.Module):
    """The network; ``name`` and ``options`` rebuild it. See ``forward`` for the contract."""

    def __init__(self, name: str = "teacher", **options) -> None:
        super().__init__()
        widths = Widths(**options)
        self.name = name
        self.options = asdict(widths)
        w, g, features = widths.pyramid, widths.context, widths.predictor[-1]
        self.pyramid = FeaturePyramid(widths)
        above = (*w[1:4], w[4])  # what is brought up to level l: f'_{l + 1}, at level 3 f_4
        self.context = nn.ModuleList(SharedMLP(above[level], g[level]) for level in range(4))
        self.embedding = nn.ModuleList(BidirectionalFlowEmbedding(w[level] + g[level], w[level]) for level in range(4))
        self.predictor = nn.ModuleList(
            FlowPredictor(2 * w[level] + (features if level < 3 else 0), widths.predictor) for level in range(4)
        )

    def sizes_for(self, points: int) -> tuple[int, ...]:
        """Points at levels 0..4 for a cloud of ``points``. Raises InputError when the cloud is too small."""
        return level_sizes(points, self.options["sizes"])

    def feature_widths(self) -> dict[str, int]:
        """Width of every feature of ``forward`` that belongs to the source's points of a level that has a flow."""
        w, last = self.options["pyramid"], self.options["predictor"][-1]
        levels = range(FLOW_LEVELS)
        widths = {f"{family}/{level}": w[level] for family in ("pyramid1", "embedding") for level in levels}
        return widths | {f"predictor/{level}": last for level in levels}

    def geometry(self, xyz1: Tensor, xyz2: Tensor) -> PairGeometry:
        """Sampling and neighbours of a pair, to be shared with any network whose ``sizes_for`` agree.

        For a training step make it outside of ``torch.inference_mode``, whose tensors autograd refuses.

        xyz1 (B, N, 3), xyz2 (B, M, 3), metres. Raises InputError for a wrong shape, dtype or value.
        """
        for name, cloud in (("xyz1", xyz1), ("xyz2", xyz2)):
            if cloud.dim() != 3 or cloud.shape[-1] != 3 or len(cloud) != len(xyz1) or len(cloud) == 0:
                raise InputError(
                    f"clouds must be (B, N, 3) and (B, M, 3), got {tuple(xyz1.shape)} and {tuple(xyz2.shape)}"
                )
            if not cloud.is_floating_point() or cloud.dtype in (torch.float16, torch.bfloat16):
                raise InputError(f"{name} must be float32 or float64 coordinates in metres, got {cloud.dtype}")
        return PairGeometry.build(xyz1, xyz2, self.sizes_for(xyz1.shape[1]), self.sizes_for(xyz2.shape[1]))

    def forward(
        self, xyz1: Tensor, xyz2: Tensor, geometry: PairGeometry | None = None, return_features: bool = False
    ) -> FlowOutput:
        """Scene flow of the source.

        Args:
            xyz1: source (B, N, 3), metres, camera frame (z is depth).
            xyz2: target (B, M, 3), metres, same frame; rows in any order.
            geometry: of this very pair, from ``geometry``; computed here when not given.
            return_features: fill ``features`` of the output:
                "pyramid1/l", "pyramid2/l" (l = 0..4) pyramid features of source and target (B, N_l, w_l);
                "embedding/l" (l = 0..3) flow embedding (B, N_l, w_l);
                "predictor/l" (l = 0..3) predictor features (B, N_l, last width of ``predictor``: 64 in the teacher).

        Returns:
            FlowOutput; ``flows[0]`` is the flow of every source point, (B, N, 3) in metres.

        Raises:
            InputError: wrong shape or dtype, coordinates that are not finite, too few points for the levels.
        """
        geometry = geometry or self.geometry(xyz1, xyz2)
        cloud1, cloud2 = geometry.cloud1, geometry.cloud2
        pyramid1, pyramid2 = self._pyramids(geometry)
        features = {f"pyramid{i}/{level}": f for i, p in ((1, pyramid1), (2, pyramid2)) for level, f in enumerate(p)}

        flows: list[Tensor | None] = [None] * FLOW_LEVELS
        above1, above2 = pyramid1[4], pyramid2[4]
        predicted = None  # predictor features of the level before
        for level in reversed(range(FLOW_LEVELS)):
            up1, up2 = cloud1.up[level], cloud2.up[level]
            warped, flow_up, (near12, near21) = cloud2.xyz[level], None, geometry.cross
            if level < 3:
                flow_up = up1(flows[level + 1])  # (B, N_l, 3)
                warped = warp(cloud1.xyz[level], cloud2.xyz[level], flow_up)
                near12, near21 = cross_neighbours(cloud1.xyz[level], warped)
            context1 = self._context(level, pyramid1[level], up1, above1)
            context2 = self._context(level, pyramid2[level], up2, above2)
            above1, above2, embedding = self.embedding[level](
                cloud1.xyz[level], warped, context1, context2, near12, near21
            )
            known = pyramid1[level] if predicted is None else up1.append(pyramid1[level], predicted)
            predicted, residual = self.predictor[level](ops.join(known, embedding), geometry.own[level])
            flows[level] = residual if level == 3 else residual + flow_up
            features |= {f"embedding/{level}": embedding, f"predictor/{level}": predicted}
        return FlowOutput(flows, cloud1.indices[:4], cloud2.indices[:4], features if return_features else {})

    def _pyramids(self, geometry: PairGeometry) -> tuple[list[Tensor], list[Tensor]]:
        """Features f_0 .. f_4 of source and target, in one pass where their geometry is one."""
        if geometry.both is None:
            return self.pyramid(geometry.cloud1), self.pyramid(geometry.cloud2)
        halves = [f.chunk(2) for f in self.pyramid(geometry.both)]
        return [a for a, _ in halves], [b for _, b in halves]

    def _context(self, level: int, features: Tensor, up: Interpolation, above: Tensor) -> Tensor:
        """[f_l, g_l], g_l = SharedMLP(upsample(above)): a linear map commutes with a weighted mean, it runs first."""
        linear, activation = self.context[level]
        return up.append(features, linear(above), activation.negative_slope)


def warp(xyz1: Tensor, xyz2: Tensor, flow1: Tensor) -> Tensor:
    """Moves the target back by the flow of the source points that land nearest to it.

    xyz1, flow1 (B, N, 3), xyz2 (B, M, 3), metres -> warped xyz2 (B, M, 3). Gradients flow through the weights as well.
    """
    return xyz2 - Interpolation.search(xyz2, xyz1 + flow1)(flow1)
