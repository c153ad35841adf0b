"""The anchor head: boxes of typical sizes stand at every cell of a map, and for each the network says what is there.

SECOND (Yan et al., Sensors 2018), PointPillars (Lang et al., CVPR 2019). Boxes are LiDAR boxes, see lib/boxes.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.boxes import Detections, nearest_bev
from lib.errors import InputError
from lib.ops import Cells, rotated_nms
from models.lidar.box_code import decode, turn_to_bin

# Of each class: length, width, height, z of the bottom (m); an anchor that overlaps an object by the fifth number or
# more (IoU) is positive, by less than the sixth negative.
ANCHORS = {
    "Pedestrian": (0.8, 0.6, 1.73, -0.6, 0.5, 0.35),
    "Cyclist": (1.76, 0.6, 1.73, -0.6, 0.5, 0.35),
    "Car": (3.9, 1.6, 1.56, -1.78, 0.6, 0.45),
}
PRIOR = 0.01  # probability of an object at an anchor before training


@dataclass(frozen=True)
class AnchorSettings:
    """The options of a detector with anchors. The defaults are those of mmdetection3d 1.0 for PointPillars."""

    classes: Sequence[str] = ("Pedestrian", "Cyclist", "Car")
    range: Sequence[float] = (0.0, -39.68, -3.0, 69.12, 39.68, 1.0)  # m: x, y, z from (included) and to
    anchors: Mapping[str, Sequence[float]] = field(default_factory=lambda: ANCHORS)
    yaws: Sequence[float] = (0.0, 1.57)  # rad, of the anchors at a cell
    to_the_border: bool = False  # anchors stand from border to border of the range; else at the centres of the cells
    force_all: bool = False  # the best anchors of every object are positive; else where they reach the lower threshold
    direction_offset: float = -math.pi / 2  # rad: where the half turn of direction 0 begins
    candidates: int = 100  # anchors with the highest scores that may become detections
    per_class: bool = True  # suppression within each class, on every score; else of all, on the best score of an anchor
    min_score: float = 0.1  # a detection's score is higher
    overlap: float = 0.01  # suppression: of two detections that overlap more (IoU, bird's-eye view), the better stays
    most: int = 50  # detections in a cloud

    def __post_init__(self) -> None:
        for name in ("classes", "range", "yaws"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        anchors = {name: tuple(numbers) for name, numbers in self.anchors.items()}
        object.__setattr__(self, "anchors", anchors)
        missing = [name for name in self.classes if len(anchors.get(name, ())) != 6]
        if not self.classes or missing:
            raise InputError(f"network option classes is {self.classes}: give names of option anchors, 6 numbers each")
        low, high = self.range[:3], self.range[3:]
        if len(self.range) != 6 or not all(a < b for a, b in zip(low, high, strict=True)):
            raise InputError(f"network option range must be x, y, z from and x, y, z to in m, got {self.range}")
        if not self.yaws or self.candidates < 1 or self.most < 1:
            raise InputError("network options yaws, candidates and most must hold one or more")


class ClassAnchors(NamedTuple):
    """The anchors of one class, on a grid (Y, H, W): yaw, row, column.

    Anchors of one yaw are of one size. So the nearest BEV boxes of a row of the grid share their interval along y, and
    those of a column theirs along x. Intervals are float64, in m.
    """

    rows: Tensor  # (Y, H, W) int64, among all anchors
    along_x: Tensor  # (2, Y, W), from and to
    along_y: Tensor  # (2, Y, H)
    positive: float  # IoU from which an anchor is positive
    negative: float  # IoU below which it is negative


class Assignment(NamedTuple):
    """All that decides which anchor is to find which object."""

    anchors: Tensor  # (A, 7) float64
    classes: tuple[ClassAnchors, ...]  # in the order of the labels
    force_all: bool
    direction_offset: float


@dataclass
class LidarOutput:
    """What a detector says of B clouds at A anchors, of K classes."""

    class_logits: Tensor  # (B, A, K)
    box_codes: Tensor  # (B, A, 7)
    direction_logits: Tensor  # (B, A, 2)
    anchors: Tensor  # (A, 7) float64
    cells: Cells
    features: dict[str, Tensor] = field(default_factory=dict)  # those that were asked for


class AnchorHead(nn.Module):
    """Three 1 x 1 convolutions over a map (B, inputs, H, W), and what they mean.

    shape: (H, W). Anchors are in the order row y, column x, class, yaw.
    """

    def __init__(self, inputs: int, shape: tuple[int, int], settings: AnchorSettings) -> None:
        super().__init__()
        self.settings, self.shape = settings, shape
        self.each = len(settings.classes) * len(settings.yaws)  # anchors at a cell
        self.scores = nn.Conv2d(inputs, self.each * len(settings.classes), 1)
        self.boxes = nn.Conv2d(inputs, self.each * 7, 1)
        self.directions = nn.Conv2d(inputs, self.each * 2, 1)
        for conv in (self.scores, self.boxes, self.directions):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.scores.bias, -math.log((1 - PRIOR) / PRIOR))
        self._assignments: dict[torch.device, Assignment] = {}

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> class logits (B, A, K), box codes (B, A, 7), direction logits (B, A, 2)."""
        convs, numbers = (self.scores, self.boxes, self.directions), (len(self.settings.classes), 7, 2)
        # One product for the three: a third off the time of a training step of the head.
        weight = torch.cat([conv.weight for conv in convs]).flatten(1)  # (D, C, 1, 1) -> (D, C)
        bias = torch.cat([conv.bias for conv in convs])
        last = F.linear(maps.permute(0, 2, 3, 1), weight, bias)  # (B, C, H, W) -> (B, H, W, C) -> (B, H, W, D)
        parts = last.split([conv.out_channels for conv in convs], 3)
        # (B, H, W, each * number) -> (B, H W each, number)
        return tuple(part.reshape(len(maps), -1, number) for part, number in zip(parts, numbers, strict=True))

    @property
    def assignment(self) -> Assignment:
        """The anchors and their thresholds, on the device of the weights."""
        device = self.scores.weight.device
        if device not in self._assignments:
            self._assignments[device] = _assignment(self.settings, self.shape, device)
        return self._assignments[device]

    @torch.no_grad()
    def decode(self, output: LidarOutput) -> list[Detections]:
        """The detections in each of the B clouds. A cloud without a cell has none: nothing was seen there.

        Raises InputError for an output that is not finite: else a score of nan would look like nothing found.
        """
        if not all(values.isfinite().all() for values in (output.class_logits, output.box_codes)):
            raise InputError("the network's output is not finite: unusable weights")
        seen = output.cells.places[:, 0].bincount(minlength=output.cells.clouds).tolist()
        tensors = (output.class_logits, output.box_codes, output.direction_logits)
        found = []
        for number, one in enumerate(zip(*tensors, strict=True)):
            logits, codes, directions = one if seen[number] else (values[:0] for values in one)
            found.append(self._detections(logits, codes, directions, output.anchors))
        return found

    def _detections(self, logits: Tensor, codes: Tensor, directions: Tensor, anchors: Tensor) -> Detections:
        """Of one cloud: class logits (A, K), box codes (A, 7), direction logits (A, 2)."""
        settings = self.settings
        best = logits.amax(1).topk(min(settings.candidates, len(logits)))[1]  # (N,) by falling score
        scores = logits[best].sigmoid()  # (N, K)
        boxes = decode(codes[best], anchors[best].to(codes.dtype))
        yaw = turn_to_bin(boxes[:, 6], directions[best].argmax(1), settings.direction_offset)
        boxes = torch.cat((boxes[:, :6], yaw[:, None]), 1)  # (N, 7)
        if settings.per_class:
            groups = [(scores[:, label], torch.full_like(best, label)) for label in range(scores.shape[1])]
        else:
            groups = [scores.max(1)]  # the best score of each anchor and its class
        kept = []  # boxes, scores and labels of each group
        for score, label in groups:
            high = (score > settings.min_score).nonzero()[:, 0]
            high = high[rotated_nms(boxes[high], score[high], settings.overlap, settings.most)]
            kept.append((boxes[high], score[high], label[high]))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*kept, strict=True))
        order = scores.argsort(descending=True, stable=True)[: settings.most]
        return Detections(boxes[order], scores[order], labels[order], settings.classes)


def grid_anchors(settings: AnchorSettings, shape: tuple[int, int]) -> Tensor:
    """The anchors (H W classes yaws, 7), float64, of a map with shape (H, W) over the settings' range."""
    low, high = settings.range[:2], settings.range[3:5]
    centres = []
    for start, stop, count in zip(low, high, reversed(shape), strict=True):  # along x, then along y
        half = 0.0 if settings.to_the_border else (stop - start) / count / 2
        centres.append(torch.linspace(start + half, stop - half, count, dtype=torch.float64))
    sizes = torch.tensor([settings.anchors[name] for name in settings.classes], dtype=torch.float64)  # (K, 6)
    sizes[:, 3] += sizes[:, 2] / 2  # z: from the bottom to the centre
    anchors = torch.empty(*shape, len(sizes), len(settings.yaws), 7, dtype=torch.float64)  # (H, W, K, yaws, 7)
    anchors[..., 0] = centres[0].view(1, -1, 1, 1)
    anchors[..., 1] = centres[1].view(-1, 1, 1, 1)
    anchors[..., 2:6] = sizes[:, None, [3, 0, 1, 2]]  # (K, 1, 4)
    anchors[..., 6] = torch.tensor(settings.yaws, dtype=torch.float64)
    return anchors.flatten(0, 3)  # (A, 7)


def _assignment(settings: AnchorSettings, shape: tuple[int, int], device: torch.device) -> Assignment:
    anchors = grid_anchors(settings, shape)
    grid = (*shape, len(settings.classes), len(settings.yaws))  # H, W, K, Y
    rows = torch.arange(len(anchors)).view(grid)
    x0, y0, x1, y1 = nearest_bev(anchors).view(*grid, 4).unbind(-1)  # each (H, W, K, Y)
    classes = []
    for label, name in enumerate(settings.classes):
        along_x = torch.stack((x0[0, :, label].T, x1[0, :, label].T))  # (W, Y) -> (2, Y, W)
        along_y = torch.stack((y0[:, 0, label].T, y1[:, 0, label].T))  # (H, Y) -> (2, Y, H)
        own = rows[:, :, label].permute(2, 0, 1)  # (H, W, Y) -> (Y, H, W)
        classes.append(
            ClassAnchors(own.to(device), along_x.to(device), along_y.to(device), *settings.anchors[name][4:])
        )
    return Assignment(anchors.to(device), tuple(classes), settings.force_all, settings.direction_offset)
