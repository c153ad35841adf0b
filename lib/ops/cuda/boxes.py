"""Overlaps of boxes and non-maximum suppression on a GPU."""

import struct

import torch
from torch import Tensor

from lib.ops.cuda.launch import ROWS, Launch, blocks, run
from lib.ops.reference_boxes import upright

BITS = 64  # boxes a word of the table of pairs that overlap too much
KEEPERS = 256  # threads that walk through this table


def bev_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """As ``lib.ops.bev_iou``: boxes (N, 7) and (M, 7) on a GPU -> (N, M) float64."""
    return _box_iou(upright(boxes1), upright(boxes2), False)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """As ``lib.ops.box_iou``: boxes (N, 7) and (M, 7) on a GPU -> (N, M) float64."""
    return _box_iou(upright(boxes1), upright(boxes2), True)


def rotated_nms(boxes: Tensor, scores: Tensor, threshold: float, limit: int | None = None) -> Tensor:
    """As ``lib.ops.rotated_nms``: boxes (N, 7), scores (N,) on a GPU -> (K,) int64. Waits for the GPU, to learn K."""
    order = scores.argsort(descending=True, stable=True)
    kept, number = _nms(upright(boxes[order]), float(threshold), len(order) if limit is None else limit)
    return order[kept[: number.item()]]


@torch.library.custom_op("point_ops::box_iou", mutates_args=())
def _box_iou(first: Tensor, second: Tensor, volumes: bool) -> Tensor:
    out = first.new_empty(len(first), len(second))
    args = (first.contiguous(), second.contiguous(), out, out.numel(), len(second), int(volumes))
    run(Launch("boxes", "box_iou", (blocks(out.numel()), 1), ROWS, args))
    return out


@_box_iou.register_fake
def _(first, second, volumes):
    return first.new_empty(len(first), len(second))


@torch.library.custom_op("point_ops::nms", mutates_args=())
def _nms(table: Tensor, threshold: float, limit: int) -> tuple[Tensor, Tensor]:
    """table (N, 8) by falling score -> the places that stay, in the first of (N,), and their number (1,)."""
    count, words = len(table), blocks(len(table), BITS)
    bits = torch.empty(count, words, dtype=torch.int64, device=table.device)
    gone, kept, number = (torch.zeros(size, dtype=torch.int64, device=table.device) for size in (words, count, 1))
    (as_integer,) = struct.unpack("q", struct.pack("d", threshold))  # a kernel takes addresses and integers
    args = (table.contiguous(), bits, count, words, as_integer)
    run(Launch("boxes", "nms_bits", (words, words), BITS, args))
    run(Launch("boxes", "nms_keep", (min(1, words), 1), KEEPERS, (bits, gone, kept, number, count, words, limit)))
    return kept, number


@_nms.register_fake
def _(table, threshold, limit):
    kept = table.new_empty(len(table), dtype=torch.int64)
    return kept, table.new_empty(1, dtype=torch.int64)
