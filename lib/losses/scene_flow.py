"""The multi-scale flow loss of PointPWC-Net (Wu et al., ECCV 2020) and Bi-PointFlowNet (Cheng & Ko, ECCV 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops import gather

ALPHAS = (0.02, 0.04, 0.08, 0.16)  # levels 0 (finest) to 3


def gather_levels(values: Tensor, indices: Sequence[Tensor | None]) -> list[Tensor]:
    """Values of the points that each level kept, level by level.

    values (B, N, C) belong to the finest points. indices[l] (B, N_l) int64 points into the level above; None keeps the
    level above as it is (level 0). Returns a list of (B, N_l, C), one for each entry of indices.
    """
    levels = []
    for index in indices:
        if index is not None:
            values = gather(values, index)  # (B, N_l, C)
        levels.append(values)
    return levels


def multiscale_loss(flows: Sequence[Tensor], targets: Sequence[Tensor], alphas: Sequence[float] = ALPHAS) -> Tensor:
    """sum_l alpha_l * mean over the batch of the sum over points of ||flow_l - target_l||_2, a scalar in metres.

    flows[l], targets[l]: (B, N_l, 3), metres. Where a flow equals its target the gradient is 0.
    Raises InputError when the two lists do not have the same shapes, or not one alpha a level.
    """
    shapes = [[tuple(level.shape) for level in levels] for levels in (flows, targets)]
    if shapes[0] != shapes[1] or len(flows) != len(alphas):
        raise InputError(
            f"multiscale_loss: flows {shapes[0]}, targets {shapes[1]} and {len(alphas)} alphas do not go together"
        )
    terms = [
        # (B, N_l, 3) -> (B, N_l) -> (B,) -> scalar; torch's norm has the subgradient 0 at 0
        alpha * torch.linalg.vector_norm(flow - target, dim=2).sum(1).mean()
        for alpha, flow, target in zip(alphas, flows, targets, strict=True)
    ]
    return torch.stack(terms).sum()
