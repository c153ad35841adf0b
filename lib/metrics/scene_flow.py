"""The six scene-flow metrics of the "without occlusion" protocol (Gu et al., HPLFlowNet, CVPR 2019).

They are computed per scene, in float64, and then averaged over the scenes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lib.camera import Camera
from lib.errors import InputError

METRICS = ("EPE3D", "ACC3DS", "ACC3DR", "Outliers3D", "EPE2D", "ACC2D")


def scene_flow_metrics(
    predicted: torch.Tensor | np.ndarray,
    flow: torch.Tensor | np.ndarray,
    xyz1: torch.Tensor | np.ndarray,
    camera: Camera,
) -> dict[str, float]:
    """All six metrics of one scene.

    predicted, flow, xyz1: (N, 3) in metres, x left, y up, z forward; the predicted flow, the true one, and the points
    they start from. camera: the scene's, for the two image metrics.

    With e = |predicted - flow| and r = e / (|flow| + 1e-4): EPE3D is the mean e (m); ACC3DS, ACC3DR and Outliers3D are
    the shares of points with (e < 0.05 or r < 0.05), (e < 0.1 or r < 0.1) and (e > 0.3 or r > 0.1). With p and g the
    image motions of the two flows and e2 = |p - g|: EPE2D is the mean e2 (px), ACC2D the share with (e2 < 3 px or
    e2 / (|g| + 1e-5) < 0.05). Raises InputError for wrong shapes.
    """
    predicted, flow, xyz1 = (torch.as_tensor(a).detach().to("cpu", torch.float64) for a in (predicted, flow, xyz1))
    if xyz1.ndim != 2 or xyz1.shape[1] != 3 or len(xyz1) == 0 or not predicted.shape == flow.shape == xyz1.shape:
        raise InputError(
            f"metrics need three arrays (N, 3) with N > 0; got predicted {tuple(predicted.shape)}, "
            f"flow {tuple(flow.shape)}, xyz1 {tuple(xyz1.shape)}"
        )
    error = (predicted - flow).norm(dim=1)  # (N,)
    relative = error / (flow.norm(dim=1) + 1e-4)

    start = camera.project(xyz1)  # (N, 2)
    motion = camera.project(xyz1 + flow) - start
    error_2d = (camera.project(xyz1 + predicted) - start - motion).norm(dim=1)  # (N,)
    relative_2d = error_2d / (motion.norm(dim=1) + 1e-5)

    values = (
        error,
        (error < 0.05) | (relative < 0.05),
        (error < 0.1) | (relative < 0.1),
        (error > 0.3) | (relative > 0.1),
        error_2d,
        (error_2d < 3.0) | (relative_2d < 0.05),
    )
    return {name: value.double().mean().item() for name, value in zip(METRICS, values, strict=True)}


def average(scenes: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over scenes; every scene counts alike. Raises InputError for an empty list."""
    if not scenes:
        raise InputError("no scene to average over")
    return {name: sum(scene[name] for scene in scenes) / len(scenes) for name in METRICS}
