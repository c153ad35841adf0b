"""The flow of two clouds of any size, without ground truth."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.training.device import synchronise
from models import FlowOutput
from models.scene_flow.levels import Interpolation


class Prediction(NamedTuple):
    """flow (N, 3) float32, metres: one vector for each source point. seconds: the time the network took."""

    flow: np.ndarray
    seconds: float


@torch.inference_mode()
def predict_flow(
    net: Callable[[Tensor, Tensor], FlowOutput],
    source: np.ndarray,
    target: np.ndarray,
    device: torch.device,
    num_points: int | None = None,
    amp: str = "off",
) -> Prediction:
    """The flow of every source point.

    source (N, 3), target (M, 3): float32, metres, the project's frame. num_points: from a cloud with more points, so
    many are drawn, always the same ones. Every other source point gets its flow from the 3 nearest drawn points,
    weighted by inverse distance. None: the clouds as they are. amp "bf16" runs the network under autocast. Raises
    InputError when a cloud is too small for the network.
    """
    everything = torch.from_numpy(source)[None].to(device)  # (1, N, 3)
    xyz1, xyz2 = (torch.from_numpy(_draw(cloud, num_points))[None].to(device) for cloud in (source, target))
    synchronise(device)
    start = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16"):
        flow = net(xyz1, xyz2).flows[0].float()  # (1, n, 3)
    if flow.shape[1] < len(source):
        flow = Interpolation.search(everything, xyz1)(flow)  # (1, N, 3)
    synchronise(device)
    seconds = time.perf_counter() - start
    return Prediction(flow[0].cpu().numpy(), seconds)


def _draw(cloud: np.ndarray, num_points: int | None) -> np.ndarray:
    if num_points is None or num_points >= len(cloud):
        return cloud
    return cloud[np.random.default_rng(0).choice(len(cloud), num_points, replace=False)]
