"""Overlaps of turned boxes in bird's-eye view (BEV) and in 3-D: every box of one set with every box of another.

A LiDAR box is (x, y, z, l, w, h, yaw): geometric centre, length along the heading, width, height in metres, yaw in rad
counter-clockwise from +x. Its BEV box is (x, y, l, w, yaw). Everything is computed and returned in float64, on the
device of the boxes, without gradients. lib/metrics/kitti_overlap.py is the same in NumPy, for pairs of the KITTI score.
"""

import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops.checks import check_devices

BEV = [0, 1, 3, 4, 6]  # the columns of a LiDAR box that make its BEV box
CHUNK = 1 << 14  # pairs clipped at once: about 80 MB


@torch.no_grad()
def bev_overlap(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Shared area in m^2 of BEV boxes (N, 5) and (M, 5): x, y, l, w, yaw -> (N, M) float64.

    Exact but for rounding; boxes that only touch share 0.

    Raises InputError for wrong shapes, integer boxes, values that are not finite, negative sizes, or two devices.
    """
    boxes1, boxes2 = _checked("bev_overlap", 5, boxes1, boxes2)
    return _shared_area(boxes1, boxes2)


@torch.no_grad()
def iou_bev(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of BEV boxes (N, 5) and (M, 5): x, y, l, w, yaw -> (N, M) float64.

    Two boxes without area have 0. Raises InputError as bev_overlap does.
    """
    boxes1, boxes2 = _checked("iou_bev", 5, boxes1, boxes2)
    shared = _shared_area(boxes1, boxes2)
    return _ratio(shared, _area(boxes1)[:, None] + _area(boxes2) - shared)


@torch.no_grad()
def iou_3d(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of LiDAR boxes (N, 7) and (M, 7): x, y, z, l, w, h, yaw -> (N, M) float64.

    Two boxes without volume have 0. Raises InputError as bev_overlap does.
    """
    boxes1, boxes2 = _checked("iou_3d", 7, boxes1, boxes2)
    (low1, high1), (low2, high2) = ((b[:, 2] - b[:, 5] / 2, b[:, 2] + b[:, 5] / 2) for b in (boxes1, boxes2))
    tall = torch.minimum(high1[:, None], high2) - torch.maximum(low1[:, None], low2)  # (N, M)
    shared = _shared_area(boxes1[:, BEV], boxes2[:, BEV]) * tall.clamp(min=0)
    volume1, volume2 = (boxes[:, 3:6].prod(dim=1) for boxes in (boxes1, boxes2))
    return _ratio(shared, volume1[:, None] + volume2 - shared)


def _checked(op: str, width: int, *sets: Tensor) -> list[Tensor]:
    """The sets of boxes in float64; raises InputError where something is wrong with one."""
    check_devices(op, boxes1=sets[0], boxes2=sets[1])
    for name, boxes in zip(("boxes1", "boxes2"), sets, strict=True):
        if boxes.dim() != 2 or boxes.shape[1] != width:
            raise InputError(f"{op}: {name} must be (N, {width}), got {tuple(boxes.shape)}")
        if not boxes.is_floating_point():
            raise InputError(f"{op}: {name} must hold floating-point numbers, got {boxes.dtype}")
        if not boxes.isfinite().all():
            raise InputError(f"{op}: {name} has values that are not finite; leave such boxes out")
        if (boxes[:, width // 2 : width - 1] < 0).any():  # the sizes stand between the centre and the yaw
            raise InputError(f"{op}: {name} has a negative size")
    return [boxes.detach().double() for boxes in sets]


def _area(boxes: Tensor) -> Tensor:
    """Area (N,) of BEV boxes (N, 5)."""
    return boxes[:, 2] * boxes[:, 3]


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where the whole is 0."""
    return torch.where(whole > 0, part / whole, 0)


def _shared_area(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Shared area (N, M) of BEV boxes. Only pairs whose surrounding circles overlap are clipped."""
    radius1, radius2 = (torch.hypot(boxes[:, 2], boxes[:, 3]) / 2 for boxes in (boxes1, boxes2))
    apart = torch.hypot(boxes1[:, None, 0] - boxes2[:, 0], boxes1[:, None, 1] - boxes2[:, 1])  # (N, M)
    shared = torch.zeros_like(apart)
    for pairs in (apart < radius1[:, None] + radius2).nonzero().split(CHUNK):  # (P, 2)
        i, j = pairs.unbind(dim=1)
        shared[i, j] = _clipped_area(boxes1[i], boxes2[j])
    return shared


def _clipped_area(first: Tensor, second: Tensor) -> Tensor:
    """Shared area (P,) of BEV boxes (P, 5), pair by pair.

    The first box is moved into the frame of the second one. Its outline is clipped there to |x| <= l / 2, then to
    |y| <= w / 2.
    """
    shift = _turn(first[:, None, :2] - second[:, None, :2], -second[:, 4])  # (P, 1, 2)
    signs = first.new_tensor([(1, 1), (-1, 1), (-1, -1), (1, -1)])  # corners, counter-clockwise
    outline = _turn(signs * first[:, None, 2:4] / 2, first[:, 4] - second[:, 4]) + shift  # (P, 4, 2)
    for axis in (0, 1):
        outline = _clip(outline, axis, second[:, 2 + axis, None] / 2)  # 4, then 12, then 36 points

    # The shoelace formula, measured from the first point: points on one line parallel to an axis give exactly 0.
    x, y = (outline - outline[:, :1]).unbind(dim=2)  # (P, 36) each
    area = ((x + x.roll(-1, 1)) * (y.roll(-1, 1) - y)).sum(dim=1) / 2
    return torch.minimum(area.clamp(min=0), torch.minimum(_area(first), _area(second)))  # against rounding


def _turn(points: Tensor, yaw: Tensor) -> Tensor:
    """Points (P, K, 2), those of row p turned counter-clockwise by yaw[p] (rad)."""
    cos, sin = yaw.cos()[:, None], yaw.sin()[:, None]
    x, y = points.unbind(dim=2)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=2)


def _clip(outline: Tensor, axis: int, half: Tensor) -> Tensor:
    """Closed outlines (P, K, 2) cut to the strip |coordinate `axis`| <= half (P, 1): (P, 3 K, 2).

    Each edge is broken where it crosses the two lines of the strip. Then every point outside is moved straight onto the
    nearer line. A walk along a line encloses nothing, so the area is that of the part inside the strip.
    """
    step = outline.roll(-1, 1) - outline  # (P, K, 2) from each point to the next
    along = step[..., axis]  # (P, K)
    breaks = []
    for line in (-half, half):
        distance = line - outline[..., axis]  # (P, K)
        breaks.append(torch.where(distance.abs() < along.abs(), distance / along, 0).clamp(0, 1))
    # Where an edge does not cross a line its start is repeated.
    where = torch.stack([torch.zeros_like(along), torch.minimum(*breaks), torch.maximum(*breaks)], dim=2)  # (P, K, 3)
    points = outline[:, :, None] + where[..., None] * step[:, :, None]  # (P, K, 3, 2)
    points = points.reshape(len(outline), 3 * outline.shape[1], 2)  # (P, K, 3, 2) -> (P, 3 K, 2)
    points[..., axis] = points[..., axis].clamp(-half, half)
    return points
