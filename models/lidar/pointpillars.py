"""PointPillars (Lang et al., CVPR 2019): objects in a LiDAR's point cloud, by convolutions over a map seen from above.

The ground is divided into square cells; a pillar is such a cell with the points above it. A small network turns each
pillar into a feature vector, the vectors are laid on a map, and the map passes a 2-D convolutional network. Teacher and
students are width settings of the one class here.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from lib.boxes import Detections
from lib.errors import InputError
from lib.features import Shape
from lib.ops import Cells, VoxelGrid, scatter_to_map, voxelise
from models.lidar.anchor_head import AnchorHead, AnchorSettings, Assignment, LidarOutput
from models.lidar.bev_backbone import EPS, BevBackbone, BevNeck
from models.norm import BatchNorm

STRIDE = 2  # of every stage
COLUMNS = 4  # of a point: x, y, z in metres, reflectance


@dataclass(frozen=True)
class PillarSettings(AnchorSettings):
    """The options of a network. The defaults are the teacher's."""

    cell: float = 0.16  # m, side of a pillar
    max_points: int = 32  # in a pillar
    max_cells: Sequence[int] = (16000, 40000)  # pillars of a cloud, in training and in evaluation
    pillar: int = 64  # features of a pillar
    stages: Sequence[int] = (64, 128, 256)  # channels
    layers: Sequence[int] = (3, 5, 5)  # convolutions of each stage after its first
    neck: int = 128  # channels of each stage on the joint map
    momentum: float = 0.01  # of the running statistics of batch normalisation

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_cells", "stages", "layers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        positive = (self.max_points, *self.max_cells, self.pillar, *self.stages, self.neck)
        if not all(isinstance(number, int) and number > 0 for number in positive) or len(self.max_cells) != 2:
            raise InputError("network options max_points, max_cells (two), pillar, stages, neck: whole numbers above 0")
        if not self.stages or len(self.stages) != len(self.layers):
            raise InputError(f"network options stages {self.stages} and layers {self.layers} must be equally long")
        if self.cell <= 0 or any(side % STRIDE ** len(self.stages) for side in self.grid.shape[:2]):
            side = self.cell * STRIDE ** len(self.stages)
            raise InputError(f"network options range and cell: x and y must extend over multiples of {side:g} m")

    @property
    def grid(self) -> VoxelGrid:
        """The pillars."""
        low, high = self.range[:3], self.range[3:]
        along_x, along_y = (round((high[i] - low[i]) / self.cell) for i in range(2))
        return VoxelGrid(low, (self.cell, self.cell, high[2] - low[2]), (along_x, along_y, 1))


class PillarNetwork(nn.Module):
    """Points of pillars -> one feature vector a pillar: a linear layer, batch normalisation, ReLU, the maximum."""

    def __init__(self, width: int, grid: VoxelGrid, momentum: float) -> None:
        super().__init__()
        self.linear = nn.Linear(COLUMNS + 6, width, bias=False)
        self.norm = BatchNorm(width, eps=EPS, momentum=momentum)
        self.grid = grid

    def forward(self, cells: Cells) -> Tensor:
        """-> (P, width).

        Empty slots of a pillar count as points of zeros, in the statistics and in the maximum. They stay zeros behind
        the linear layer, so only the points that are there pass it.
        """
        slots = cells.points.shape[1]
        with torch.autocast(cells.points.device.type, enabled=False):  # 16 bits know a point at 60 m to 0.25 m
            points = decorate(cells, self.grid)  # (R, 10)
            matrix, bias = self.norm.after_linear(self.linear.weight, points, len(cells.points) * slots)
            values = points @ matrix.T  # (R, width), without the bias: it is the same for all points of a pillar
            if not len(values):
                return values
            highest = torch.segment_reduce(values, "max", lengths=cells.counts)  # (P, width)
            full = (cells.counts == slots).unsqueeze(1)
            return (torch.where(full, highest, highest.clamp_min(0)) + bias).relu()


def decorate(cells: Cells, grid: VoxelGrid) -> Tensor:
    """What the pillar network sees of each point, (R, 10), pillar by pillar.

    x, y, z, reflectance; x, y, z minus the mean of the pillar's points; x, y, z minus the pillar's centre. In metres.
    """
    slot = torch.arange(cells.points.shape[1], device=cells.points.device)
    points = cells.points[slot < cells.counts.unsqueeze(1)]  # (P, S, 4) -> (R, 4)
    mean = cells.points[..., :3].sum(1) / cells.counts.unsqueeze(1)  # (P, 3): empty slots are zeros
    low, size = (mean.new_tensor(three) for three in (grid.low, grid.size))
    centre = (cells.places[:, [3, 2, 1]] + 0.5) * size + low  # (P, 3): x, y, z
    around = torch.cat((mean, centre), 1).repeat_interleave(cells.counts, 0)  # (P, 6) -> (R, 6)
    xyz = points[:, :3]
    return torch.cat((points, xyz - around[:, :3], xyz - around[:, 3:]), 1)


class PointPillars(nn.Module):
    """The network; ``name`` and ``options`` rebuild it. See ``forward`` for the contract."""

    def __init__(self, name: str = "pointpillars", **options) -> None:
        super().__init__()
        settings = PillarSettings(**options)
        self.name = name
        self.options = asdict(settings)
        self.settings = settings
        self.grid = settings.grid
        width, height = (side // STRIDE for side in self.grid.shape[:2])
        stages, count = settings.stages, len(settings.stages)
        self.pillars = PillarNetwork(settings.pillar, self.grid, settings.momentum)
        self.backbone = BevBackbone(settings.pillar, stages, [STRIDE] * count, settings.layers, settings.momentum)
        self.neck = BevNeck(stages, [STRIDE**i for i in range(count)], settings.neck, settings.momentum)
        self.head = AnchorHead(settings.neck * count, (height, width), settings)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the labels stand for."""
        return self.settings.classes

    @property
    def range(self) -> tuple[float, ...]:
        """The part of space that the network sees, in m: x, y, z from (included) and to (excluded)."""
        return self.settings.range

    @property
    def assignment(self) -> Assignment:
        """Which anchors are to find which objects, for ``lib.losses.lidar.assign_targets``."""
        return self.head.assignment

    @property
    def anchors(self) -> Tensor:
        """(A, 7) float64, the LiDAR boxes that the output's codes are relative to."""
        return self.head.assignment.anchors

    def feature_shapes(self) -> dict[str, Shape]:
        """Width and layout of every feature of ``forward``."""
        stages = {f"bev/{i}": Shape(width, "map") for i, width in enumerate(self.settings.stages)}
        return {"pillars": Shape(self.settings.pillar, "rows"), **stages}

    def cells(self, clouds: Sequence[Tensor]) -> Cells:
        """The pillars of clouds (N_i, 4), to be shared with any network that has the same ``grid``.

        A cloud keeps its first pillars, ``max_cells`` of them: the option has a number for training and one for
        evaluation. Raises InputError for a cloud of another shape, and for numbers that are not finite.
        """
        for number, cloud in enumerate(clouds):
            if cloud.dim() != 2 or cloud.shape[1] != COLUMNS:
                found = tuple(cloud.shape)
                raise InputError(f"clouds[{number}] is {found}: give rows of x, y, z in m and reflectance, (N, 4)")
        most = self.settings.max_cells[0 if self.training else 1]
        return voxelise(clouds, self.grid, self.settings.max_points, most)

    def forward(
        self, clouds: Sequence[Tensor], cells: Cells | None = None, features: Sequence[str] = ()
    ) -> LidarOutput:
        """What is at each anchor.

        Args:
            clouds: B tensors (N_i, 4) of the LiDAR frame: x, y, z in metres, reflectance 0 to 1. Points outside of
                ``range`` are left out. A cloud may be empty in evaluation: nothing is detected in it.
            cells: of these very clouds, from ``cells``; computed here when not given.
            features: which to return: "pillars" (P, C), a row a pillar; "bev/0", "bev/1", ... (B, C, H, W), outputs
                of the stages from fine to coarse.

        Returns:
            LidarOutput; its anchors are float64, all else has the type of the weights.

        Raises:
            InputError: as ``cells``; an unknown feature; a training batch without a point in range.
        """
        unknown = [name for name in features if name not in self.feature_shapes()]
        if unknown:
            raise InputError(f"{self.name} has no feature {unknown[0]!r}: choose of {', '.join(self.feature_shapes())}")
        cells = self.cells(clouds) if cells is None else cells
        dtype = self.pillars.linear.weight.dtype
        pillars = self.pillars(cells._replace(points=cells.points.to(dtype)))
        along_x, along_y, _ = self.grid.shape
        stages = self.backbone(scatter_to_map(pillars, cells.places, cells.clouds, (along_y, along_x)))
        logits, codes, directions = (values.to(dtype) for values in self.head(self.neck(stages)))
        known = {"pillars": pillars, **{f"bev/{i}": stage for i, stage in enumerate(stages)}}
        return LidarOutput(
            logits, codes, directions, self.anchors, cells, {name: known[name].to(dtype) for name in features}
        )

    def decode(self, output: LidarOutput) -> list[Detections]:
        """The detections in each cloud of an output of ``forward``."""
        return self.head.decode(output)

    def detect(self, clouds: Sequence[Tensor]) -> list[Detections]:
        """The objects in each of the clouds (N_i, 4); see ``forward``. Without gradient."""
        with torch.no_grad():
            return self.decode(self(clouds))
