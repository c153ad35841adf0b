"""The multi-scale flow loss of PointPWC-Net (Wu et al., ECCV 2020) and Bi-PointFlowNet (Cheng & Ko, ECCV 2022).

The same distance serves against the ground truth and, in output distillation, against a teacher.
"""

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


def output_distillation(
    student_flows: Sequence[Tensor], teacher_flows: Sequence[Tensor], final_only: bool = False
) -> Tensor:
    """L_KD: the multi-scale distance of the student's flows to the teacher's, a scalar in metres.

    student_flows[l], teacher_flows[l]: (B, N_l, 3), metres, at the same points. No gradient reaches the teacher.
    final_only compares level 0 alone, with its alpha. Raises InputError when the levels' sizes differ.
    """
    levels = 1 if final_only else len(ALPHAS)
    student, teacher = list(student_flows[:levels]), [flow.detach() for flow in teacher_flows[:levels]]
    sizes = [[flow.shape[1] for flow in flows] for flows in (student, teacher)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"the student's levels hold {sizes[0]} points and the teacher's {sizes[1]}: their flows do not belong to "
            f"the same points; give both networks the same level sizes, or compare the finest level only (--final-only)"
        )
    return multiscale_loss(student, teacher, ALPHAS[:levels])
