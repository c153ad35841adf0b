"""Boxes: how much they overlap, which to keep of those that overlap, and which points lie in them.

Boxes are rows (x, y, z, l, w, h, yaw) in metres and radians, the LiDAR boxes of ``lib.boxes``. All is computed in
float64, whatever the type of the boxes, and no gradient flows through it.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops import reference_boxes as reference
from lib.ops.backend import runs_compiled
from lib.ops.checks import check_devices, check_finite, is_recording
from lib.ops.cpu import boxes as loops
from lib.ops.cpu.compiled import untraced
from lib.ops.cpu.threads import run_in_ranges

WORTH_A_THREAD = 1 << 14  # pairs of boxes, or of a box and a point: about 0.1 ms


def bev_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of boxes seen from above (BEV, the bird's-eye view), turned as they are.

    boxes1 (N, 7), boxes2 (M, 7) -> (N, M) float64, 0 to 1. Exact but for rounding; boxes that only touch give 0.

    Raises InputError for wrong shapes, numbers that are not finite and sizes below 0.
    """
    _check_boxes("bev_iou", boxes1=boxes1, boxes2=boxes2)
    if runs_compiled(boxes1, boxes2):
        return _compiled_overlaps(boxes1, boxes2, False)
    return reference.bev_iou(boxes1.detach(), boxes2.detach())


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of the volumes of boxes: boxes1 (N, 7), boxes2 (M, 7) -> (N, M) float64, 0 to 1.

    Raises InputError as `bev_iou`.
    """
    _check_boxes("box_iou", boxes1=boxes1, boxes2=boxes2)
    if runs_compiled(boxes1, boxes2):
        return _compiled_overlaps(boxes1, boxes2, True)
    return reference.box_iou(boxes1.detach(), boxes2.detach())


def rotated_nms(boxes: Tensor, scores: Tensor, threshold: float, limit: int | None = None) -> Tensor:
    """Non-maximum suppression: of boxes that overlap, the one with the highest score stays.

    boxes (N, 7), scores (N,) -> (K,) int64: the rows that stay, by falling score, equal scores by rising row. A box
    goes when its `bev_iou` with a box that stays before it exceeds the threshold. limit: at most so many stay.

    Raises InputError as `bev_iou`, for scores of another length or not finite, a threshold or a limit below 0.
    """
    _check_boxes("rotated_nms", boxes=boxes)
    if scores.shape != boxes.shape[:1]:
        raise InputError(f"rotated_nms: scores {tuple(scores.shape)} must be (N,) for boxes {tuple(boxes.shape)}")
    check_devices("rotated_nms", boxes=boxes, scores=scores)
    check_finite("rotated_nms", "scores", scores)
    if not threshold >= 0:
        raise InputError(f"rotated_nms: the threshold is {threshold}: give an overlap from 0 to 1")
    if limit is not None and limit < 0:
        raise InputError(f"rotated_nms: the limit is {limit}: give None for no limit, or 0 or more")
    if runs_compiled(boxes):
        return _compiled_nms(boxes, scores, threshold, limit)
    return reference.rotated_nms(boxes.detach(), scores.detach(), threshold, limit)


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points lie in which boxes: points (N, 3 or more), boxes (M, 7) -> (M, N) bool. The faces are inside.

    Columns of the points behind x, y, z are not looked at. Raises InputError as `bev_iou`.
    """
    if points.dim() != 2 or points.shape[1] < 3 or not points.is_floating_point():
        raise InputError(f"points_in_boxes: points {tuple(points.shape)} must be floating (N, 3 or more)")
    _check_boxes("points_in_boxes", boxes=boxes)
    check_devices("points_in_boxes", points=points, boxes=boxes)
    check_finite("points_in_boxes", "points", points[:, :3])
    if runs_compiled(points, boxes):
        return _compiled_points_in_boxes(points, boxes)
    return reference.points_in_boxes(points.detach(), boxes.detach())


@untraced
def _compiled_overlaps(boxes1: Tensor, boxes2: Tensor, volumes: bool) -> Tensor:
    first, second = _table(boxes1), _table(boxes2)
    out = np.empty((len(first), len(second)))
    least = max(1, WORTH_A_THREAD // max(1, len(second)))
    run_in_ranges(partial(loops.overlaps, first, second, volumes, out), len(first), least)
    return torch.from_numpy(out)


@untraced
def _compiled_nms(boxes: Tensor, scores: Tensor, threshold: float, limit: int | None) -> Tensor:
    order = scores.detach().argsort(descending=True, stable=True)
    kept = loops.suppress(_table(boxes[order]), float(threshold), len(order) if limit is None else limit)
    return order[torch.from_numpy(kept)]


@untraced
def _compiled_points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    out = np.empty((len(boxes), len(points)), np.bool_)
    least = max(1, WORTH_A_THREAD // max(1, len(points)))
    args = loops.columns(points.detach().contiguous().numpy()), _table(boxes), out
    run_in_ranges(partial(loops.mark_inside, *args), len(boxes), least)
    return torch.from_numpy(out)


def _table(boxes: Tensor) -> np.ndarray:
    return reference.upright(boxes.detach()).numpy()


def _check_boxes(op: str, **several: Tensor) -> None:
    for name, boxes in several.items():
        if boxes.dim() != 2 or boxes.shape[1] != 7 or not boxes.is_floating_point():
            raise InputError(f"{op}: {name} must be floating (N, 7), got {boxes.dtype} of shape {tuple(boxes.shape)}")
        check_finite(op, name, boxes)
        if not is_recording(boxes) and torch.any(boxes[:, 3:6] < 0):
            raise InputError(f"{op}: {name} {tuple(boxes.shape)} hold a length, width or height below 0")
    check_devices(op, **several)
