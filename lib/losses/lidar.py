"""The losses of detectors with anchors: SECOND (Yan et al., Sensors 2018) and PointPillars (Lang et al., CVPR 2019).

First `assign_targets` decides what each anchor is to find, then `detection_loss` compares. B clouds, A anchors, K
classes. Boxes are LiDAR boxes (lib/boxes.py), codes those of models/lidar/box_code.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.boxes import nearest_bev
from lib.errors import InputError
from models.lidar.anchor_head import Assignment, ClassAnchors
from models.lidar.box_code import direction_bin, encode

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss: weight of positives, and how much less the easy ones count
BETA = 1 / 9  # where smooth L1 turns from a parabola into a line
BOX_WEIGHT, DIRECTION_WEIGHT = 2.0, 0.2
NEGATIVE, IGNORED = -1, -2
CONFIDENCE = 0.3  # of the teacher, from which a student learns its boxes


class Targets(NamedTuple):
    """What the anchors of B clouds are to find. P of the B A anchors are positive: they belong to an object."""

    labels: Tensor  # (B, A) int64: class of the object, NEGATIVE or IGNORED
    positives: Tensor  # (P,) int64, rising, in the B A anchors of all clouds below each other
    codes: Tensor  # (P, 7) float64, of the objects' boxes
    directions: Tensor  # (P,) int64, 0 or 1, see direction_bin
    count: int  # what losses are divided by: the sum over clouds of max(positives, 1)


def assign_targets(assignment: Assignment, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Targets:
    """Which anchor is to find which object.

    boxes[b] (M, 7), labels[b] (M,) int64 of cloud b, on the device of the assignment.

    Each class by itself, by the IoU of the nearest BEV boxes of anchors and objects, in float64. An anchor is positive
    from the upper threshold on, negative below the lower one, and ignored between them. In addition, all anchors that
    attain the best IoU of an object are positive where this best reaches the lower threshold; with ``force_all``, where
    it exceeds 0.
    A positive anchor is to find the object that it overlaps most. If it is the best of some objects, it is to find one
    of these (our choice): else an object between larger ones could be left without an anchor.

    Raises InputError for shapes that do not go together and a label without anchors.
    """
    rows = []
    for number, (own, kinds) in enumerate(zip(boxes, labels, strict=True)):
        if own.shape != (len(kinds), 7) or kinds.dim() != 1:
            raise InputError(f"boxes[{number}] {tuple(own.shape)} must be (M, 7), labels {tuple(kinds.shape)} (M,)")
        if len(kinds) and not 0 <= kinds.min() <= kinds.max() < len(assignment.classes):
            raise InputError(f"labels[{number}] must be 0 to {len(assignment.classes) - 1}, one for each class")
        rows.append(_assign(assignment, own.double(), kinds))
    states = torch.stack([state for state, _ in rows])  # (B, A)
    counts = (states >= 0).sum(1)
    positives = (states >= 0).flatten().nonzero()[:, 0]  # (B, A) -> (B A,)
    found = torch.cat([own.double()[objects] for own, (_, objects) in zip(boxes, rows, strict=True)])  # (P, 7)
    anchors = assignment.anchors[positives % len(assignment.anchors)]
    directions = direction_bin(found[:, 6], assignment.direction_offset)
    return Targets(states, positives, encode(found, anchors), directions, int(counts.clamp_min(1).sum()))


def _assign(assignment: Assignment, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of one cloud: label of each anchor (A,), and the object of each positive one in turn (P,)."""
    states = torch.full((len(assignment.anchors),), NEGATIVE, device=boxes.device)
    objects = torch.zeros_like(states)
    rectangles = nearest_bev(boxes)  # (M, 4)
    for label, anchors in enumerate(assignment.classes):
        own = (labels == label).nonzero()[:, 0]
        if not len(own):
            continue
        near, iou = _overlaps(anchors, rectangles[own])  # (N,), (M', N)
        best = iou.amax(1, keepdim=True)  # (M', 1), 0 where no anchor touches the object
        forced = (iou == best) & (best > 0) & ((best >= anchors.negative) | assignment.force_all)
        overlap, which = torch.where(forced.any(0) & ~forced, -1.0, iou).max(0)  # (N,) of the anchor's object
        state = torch.where(overlap < anchors.negative, NEGATIVE, IGNORED)
        state[forced.any(0) | (overlap >= anchors.positive)] = label
        states[near] = state
        objects[near] = own[which]
    return states, objects[states >= 0]


def _overlaps(anchors: ClassAnchors, rectangles: Tensor) -> tuple[Tensor, Tensor]:
    """The anchors that touch any of the rectangles (M, 4): their rows among all anchors (N,), and the IoU (M, N)."""
    low_x, low_y, high_x, high_y = rectangles[:, :, None, None].unbind(1)  # each (M, 1, 1)
    (from_x, to_x), (from_y, to_y) = anchors.along_x, anchors.along_y  # each (Y, W), (Y, H)
    width = (torch.minimum(to_x, high_x) - torch.maximum(from_x, low_x)).clamp_min(0)  # (M, Y, W)
    depth = (torch.minimum(to_y, high_y) - torch.maximum(from_y, low_y)).clamp_min(0)  # (M, Y, H)
    # (Y, H, M) @ (Y, M, W): how many of the objects each anchor touches
    touched = (depth > 0).float().permute(1, 2, 0) @ (width > 0).float().permute(1, 0, 2)
    yaw, y, x = touched.nonzero(as_tuple=True)  # each (N,)
    shared = width[:, yaw, x] * depth[:, yaw, y]  # (M, N)
    own = (to_x - from_x)[yaw, x] * (to_y - from_y)[yaw, y]  # (N,)
    areas = own + ((high_x - low_x) * (high_y - low_y)).squeeze(2)  # (M, N)
    return anchors.rows[yaw, y, x], shared / (areas - shared)


def detection_loss(
    class_logits: Tensor, box_codes: Tensor, direction_logits: Tensor, targets: Targets
) -> dict[str, Tensor]:
    """The three weighted parts of the loss, scalars; their sum is to be minimised.

    class_logits (B, A, K), box_codes (B, A, 7), direction_logits (B, A, 2). "class": focal loss of all anchors but the
    ignored; "box", times 2: smooth L1 of the codes of the positives, that of angles on sin(p - t); "direction", times
    0.2: cross-entropy. Each is a sum over anchors, divided by the sum over clouds of max(positives, 1).
    The clouds are those of this process: with several, each divides by its own count, and the gradients are averaged,
    as in the published recipe. So two processes do not train exactly as one does with the same global batch.
    """
    flat = targets.labels.flatten()  # (B A,)
    logits, codes, directions = (values.flatten(0, 1) for values in (class_logits, box_codes, direction_logits))
    truth = torch.zeros_like(logits)  # (B A, K)
    truth[targets.positives, flat[targets.positives]] = 1
    focal = (focal_loss(logits, truth).sum(1) * (flat != IGNORED)).sum()
    box = box_distance(codes[targets.positives], targets.codes.to(codes.dtype)).sum()
    direction = F.cross_entropy(directions[targets.positives], targets.directions, reduction="sum")
    return {
        "class": focal / targets.count,
        "box": BOX_WEIGHT * box / targets.count,
        "direction": DIRECTION_WEIGHT * direction / targets.count,
    }


def focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017, eq. 5) of logits (...) against 0 or 1 (...), elementwise."""
    probability = logits.sigmoid()
    missed = torch.where(truth > 0, 1 - probability, probability)  # how far from the truth
    alpha = torch.where(truth > 0, ALPHA, 1 - ALPHA)
    return alpha * missed**GAMMA * F.binary_cross_entropy_with_logits(logits, truth, reduction="none")


def box_distance(codes: Tensor, others: Tensor) -> Tensor:
    """Smooth L1 between codes (..., 7) of boxes, elementwise; angles p and t differ by sin(p - t)."""
    difference = torch.cat((codes[..., :6] - others[..., :6], (codes[..., 6:] - others[..., 6:]).sin()), -1)
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), beta=BETA, reduction="none")


def output_distance(
    class_logits: Tensor,
    box_codes: Tensor,
    teacher_logits: Tensor,
    teacher_codes: Tensor,
    confidence: float = CONFIDENCE,
) -> dict[str, Tensor]:
    """How far a student's outputs are from its teacher's, at the same anchors: two scalars, 0 when they are equal.

    class_logits (B, A, K), box_codes (B, A, 7), and the teacher's, which get no gradient. Our choice, after Hinton et
    al. (2015), soft targets, and Chen et al. ("Learning efficient object detection models", NeurIPS 2017), weights for
    the many anchors where nothing is. With p, q the probabilities of teacher and student, w_a = max_k p_ak:

        class_distance = sum_a w_a sum_k [H(p_ak, q_ak) - H(p_ak, p_ak)] / sum_a w_a
        box_distance = mean over the anchors with w_a > confidence of the sum of `box_distance`; 0 without such anchors

    H(p, q) = -p ln q - (1 - p) ln(1 - q). Raises InputError when the shapes differ.
    """
    if class_logits.shape != teacher_logits.shape or box_codes.shape != teacher_codes.shape:
        raise InputError(
            f"the student's class logits are {tuple(class_logits.shape)}, its teacher's {tuple(teacher_logits.shape)}: "
            "output distillation needs networks with the same anchors and classes"
        )
    teacher_logits, teacher_codes = teacher_logits.detach(), teacher_codes.detach()
    p = teacher_logits.sigmoid()
    weight = p.amax(-1)  # (B, A)
    yes = F.logsigmoid(teacher_logits) - F.logsigmoid(class_logits)  # ln p/q
    no = F.logsigmoid(-teacher_logits) - F.logsigmoid(-class_logits)  # ln (1 - p)/(1 - q)
    divergence = (p * yes + (1 - p) * no).sum(-1)  # (B, A, K) -> (B, A)
    sure = weight > confidence
    boxes = box_distance(box_codes[sure], teacher_codes[sure]).sum()  # over (N, 7)
    return {
        "class_distance": (weight * divergence).sum() / weight.sum(),
        "box_distance": boxes / sure.sum().clamp_min(1),
    }
