"""The slow twins of the operations on boxes, in plain torch and float64.

A box is a LiDAR box of ``lib.boxes``: (x, y, z, l, w, h, yaw), the geometric centre, metres and radians. Seen from
above it is a rectangle whose length lies along (cos yaw, sin yaw). BEV means bird's-eye view, the view from above.

Every product and sum below is rounded by itself, and the faster implementations repeat them in this order. So all give
the same bits for the same rows of `upright`.
"""

import torch
from torch import Tensor

CHUNK = 1 << 20  # pairs of a point and a box whose numbers are held at once
BOX_CHUNK = CHUNK // 16  # pairs of boxes: each needs more numbers


def bev_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """(N, 7), (M, 7) -> (N, M) float64: intersection over union of the rectangles seen from above."""
    return _each_pair(_bev_iou, boxes1, boxes2)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """(N, 7), (M, 7) -> (N, M) float64: intersection over union of the volumes."""
    return _each_pair(_box_iou, boxes1, boxes2)


def rotated_nms(boxes: Tensor, scores: Tensor, threshold: float, limit: int | None = None) -> Tensor:
    """(N, 7), (N,) -> (K,) int64: the rows that stay, by falling score, equal scores by rising row."""
    left = scores.argsort(descending=True, stable=True)
    table = upright(boxes)
    kept = []
    while len(left) > 0 and (limit is None or len(kept) < limit):
        best, rest = left[0], left[1:]
        kept.append(best)
        left = rest[_bev_iou(table[best], table[rest]) <= threshold]
    return torch.stack(kept) if kept else left[:0]


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """points (N, 3 or more), boxes (M, 7) -> (M, N) bool, True on the faces too."""
    x, y, z = points[:, :3].double().unbind(1)
    found = []
    for part in upright(boxes).split(max(1, CHUNK // max(1, len(points)))):
        box_x, box_y, length, width, cos, sin, box_z, height = part[:, :, None].unbind(1)  # each (chunk, 1)
        dx, dy, dz = x - box_x, y - box_y, z - box_z  # (chunk, N)
        ahead, left = cos * dx + sin * dy, cos * dy - sin * dx
        found.append((ahead.abs() <= length) & (left.abs() <= width) & (dz.abs() <= height))
    return torch.cat(found) if found else torch.zeros(0, len(points), dtype=torch.bool, device=points.device)


def upright(boxes: Tensor) -> Tensor:
    """What the operations read of boxes (N, 7): (N, 8) float64, x, y, l/2, w/2, cos yaw, sin yaw, z, h/2."""
    x, y, z, length, width, height, yaw = boxes.double().unbind(-1)
    return torch.stack([x, y, length / 2, width / 2, yaw.cos(), yaw.sin(), z, height / 2], -1)


def bev_intersection(first: Tensor, second: Tensor) -> Tensor:
    """Shared area (...) in m^2 of rectangles, rows (..., 8) of `upright`; exactly 0 where they only touch.

    In the frame of the second rectangle, that one is |x| <= l/2, |y| <= w/2. Each edge of the first is broken where it
    crosses one of the four lines that bound the second. Then every point of this outline moves to the nearest place in
    the second rectangle. What lies outside moves onto the border, where the outline encloses nothing. So the moved
    outline encloses the intersection.
    """
    x1, y1, length1, width1, cos1, sin1 = first.unbind(-1)[:6]
    x2, y2, length2, width2, cos2, sin2 = second.unbind(-1)[:6]
    dx, dy = x1 - x2, y1 - y2
    cos, sin = cos1 * cos2 + sin1 * sin2, sin1 * cos2 - cos1 * sin2  # of the angle from the second to the first
    x, y = cos2 * dx + sin2 * dy, cos2 * dy - sin2 * dx  # the first's centre, in the second's frame
    ahead_x, ahead_y, left_x, left_y = length1 * cos, length1 * sin, -width1 * sin, width1 * cos

    # Two rectangles are apart where a line along an edge of one of them has them on different sides.
    own_x, own_y = cos1 * dx + sin1 * dy, cos1 * dy - sin1 * dx  # minus the second's centre, in the first's frame
    apart = (
        (x.abs() >= length2 + (ahead_x.abs() + left_x.abs()))
        | (y.abs() >= width2 + (ahead_y.abs() + left_y.abs()))
        | (own_x.abs() >= length1 + ((length2 * cos).abs() + (width2 * sin).abs()))
        | (own_y.abs() >= width1 + ((length2 * sin).abs() + (width2 * cos).abs()))
    )

    corners = [  # counter-clockwise
        (x + ahead_x + left_x, y + ahead_y + left_y),
        (x - ahead_x + left_x, y - ahead_y + left_y),
        (x - ahead_x - left_x, y - ahead_y - left_y),
        (x + ahead_x - left_x, y + ahead_y - left_y),
    ]
    origin_x, origin_y = _into(corners[0][0], length2), _into(corners[0][1], width2)
    last_x, last_y = torch.zeros_like(x), torch.zeros_like(x)  # the point before, measured from the origin
    twice = torch.zeros_like(x)  # the area: the shoelace formula
    for (start_x, start_y), (stop_x, stop_y) in zip(corners, corners[1:] + corners[:1], strict=True):
        step_x, step_y = stop_x - start_x, stop_y - start_y
        crossings = [
            _crossing(-length2 - start_x, step_x),
            _crossing(length2 - start_x, step_x),
            _crossing(-width2 - start_y, step_y),
            _crossing(width2 - start_y, step_y),
        ]
        ways = torch.stack(crossings, -1).sort(-1).values.unbind(-1)  # 0 to 1, from start to stop
        for way_x, way_y in [*((start_x + way * step_x, start_y + way * step_y) for way in ways), (stop_x, stop_y)]:
            point_x, point_y = _into(way_x, length2) - origin_x, _into(way_y, width2) - origin_y
            twice = twice + (last_x + point_x) * (point_y - last_y)
            last_x, last_y = point_x, point_y
    smaller = torch.minimum(_area(first), _area(second))
    area = torch.minimum(twice / 2, smaller).clamp_min(0)  # rounding may leave it just outside
    return torch.where(apart, torch.zeros_like(area), area)


def _into(values: Tensor, half: Tensor) -> Tensor:
    """The nearest values from -half to half."""
    return torch.maximum(torch.minimum(values, half), -half)


def _crossing(distance: Tensor, step: Tensor) -> Tensor:
    """Which part of a step (0 to 1) goes as far as a line at this distance; 0 where it does not cross the line."""
    crosses = (distance.abs() < step.abs()) & ((distance > 0) == (step > 0))
    return torch.where(crosses, distance / torch.where(crosses, step, torch.ones_like(step)), torch.zeros_like(step))


def _area(table: Tensor) -> Tensor:
    return 4 * table[..., 2] * table[..., 3]


def _bev_iou(first: Tensor, second: Tensor) -> Tensor:
    both = bev_intersection(first, second)
    return _ratio(both, _area(first) + _area(second) - both)


def _box_iou(first: Tensor, second: Tensor) -> Tensor:
    low1, high1 = first[..., 6] - first[..., 7], first[..., 6] + first[..., 7]
    low2, high2 = second[..., 6] - second[..., 7], second[..., 6] + second[..., 7]
    tall = (torch.minimum(high1, high2) - torch.maximum(low1, low2)).clamp_min(0)
    both = bev_intersection(first, second) * tall
    return _ratio(both, _area(first) * (high1 - low1) + _area(second) * (high2 - low2) - both)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where the whole is 0."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, torch.ones_like(whole)), torch.zeros_like(part))


def _each_pair(function, boxes1: Tensor, boxes2: Tensor) -> Tensor:
    first, second = upright(boxes1), upright(boxes2)
    rows = [function(part[:, None], second[None]) for part in first.split(max(1, BOX_CHUNK // max(1, len(second))))]
    return torch.cat(rows) if rows else first.new_zeros(0, len(second))
