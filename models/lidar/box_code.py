"""The code of a box: what a detector predicts of a box, relative to an anchor (SECOND, Yan et al., Sensors 2018).

An anchor is a box of typical size that stands at a fixed place; a network says how the object differs from it.
"""

import torch
from torch import Tensor


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Codes (..., 7) of LiDAR boxes (..., 7) relative to anchors (..., 7), in metres and radians.

    With d = sqrt(la^2 + wa^2): dx/d, dy/d, dz/ha, ln(l/la), ln(w/wa), ln(h/ha), yaw - yaw_a. The angle is not wrapped.
    """
    diagonal = torch.linalg.vector_norm(anchors[..., 3:5], dim=-1, keepdim=True)  # (..., 1)
    return torch.cat(
        (
            (boxes[..., :2] - anchors[..., :2]) / diagonal,
            (boxes[..., 2:3] - anchors[..., 2:3]) / anchors[..., 5:6],
            (boxes[..., 3:6] / anchors[..., 3:6]).log(),
            boxes[..., 6:] - anchors[..., 6:],
        ),
        -1,
    )


def decode(codes: Tensor, anchors: Tensor) -> Tensor:
    """LiDAR boxes (..., 7) of codes (..., 7) and their anchors (..., 7): the inverse of `encode`."""
    diagonal = torch.linalg.vector_norm(anchors[..., 3:5], dim=-1, keepdim=True)  # (..., 1)
    return torch.cat(
        (
            codes[..., :2] * diagonal + anchors[..., :2],
            codes[..., 2:3] * anchors[..., 5:6] + anchors[..., 2:3],
            codes[..., 3:6].exp() * anchors[..., 3:6],
            codes[..., 6:] + anchors[..., 6:],
        ),
        -1,
    )


def direction_bin(yaw: Tensor, offset: float) -> Tensor:
    """Which half turn angles (...) lie in, int64: 0 from ``offset`` to ``offset`` + pi, else 1. All in rad."""
    return torch.remainder(torch.floor((yaw - offset) / torch.pi), 2).long()


def turn_to_bin(yaw: Tensor, bins: Tensor, offset: float) -> Tensor:
    """Angles (...) in rad, turned by multiples of pi into the half turns ``bins`` (...) of `direction_bin`.

    A network's angle is trained on a sine that does not tell front from back. The direction bin does.
    """
    return torch.remainder(yaw - offset, torch.pi) + offset + torch.pi * bins
