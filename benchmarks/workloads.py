"""What the benchmark runs: networks, synthetic pairs, and the steps on them."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.plain import PlainBiPointFlowNet
from lib.datasets.scene_flow import open_scenes
from lib.datasets.scene_flow.pairs import FlowBatch
from lib.losses import gather_levels, multiscale_loss
from lib.losses.distill import METHODS, Setting, parse_distill
from lib.tasks import TASKS
from lib.tasks.distil import Distiller
from models import MODELS, build_model, frozen

SCENE_SPACING = 12.0  # m between the scenes of a large cloud
SERVED = [name for name in METHODS if name != "logits"]  # scene flow has no logits
STEP = 0.01  # m by which clouds move from call to call


def large_pair(count: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Source and moved source (count, 3) float32, metres: as many scenes of synthetic-things as it takes, in a row."""
    parts, scenes = [], open_scenes("synthetic-things", "test")
    while sum(len(pair[0]) for pair in parts) < count:
        scene = scenes[(first + len(parts)) % len(scenes)]
        shift = np.float32([SCENE_SPACING * len(parts), 0, 0])
        parts.append((scene.pc1 + shift, scene.pc2 + shift))
    rows = np.random.default_rng(first).permutation(sum(len(pair[0]) for pair in parts))[:count]
    source, moved = (np.concatenate(clouds)[rows] for clouds in zip(*parts, strict=True))
    return source, moved


class Workload:
    """A network with random weights (seed 0) and a batch of synthetic pairs on one device.

    network: a name of ``MODELS``, or "plain teacher" and the like for the same weights in the plain network.
    """

    def __init__(self, network: str, points: int, batch: int, device: torch.device):
        torch.manual_seed(0)
        name = network.removeprefix("plain ")
        kind, options = MODELS[name]
        self.net = (kind if name == network else PlainBiPointFlowNet)(name, **options).to(device)
        pairs = [large_pair(points, first) for first in range(batch)]
        clouds = [np.stack(clouds) for clouds in zip(*pairs, strict=True)]  # source, moved source (B, N, 3)
        self.xyz1, moved = (torch.from_numpy(cloud).to(device) for cloud in clouds)
        order = torch.randperm(points, generator=torch.Generator().manual_seed(1)).to(device)
        self.xyz2, self.flow = moved[:, order], moved - self.xyz1
        self.device = device
        self._moved = torch.zeros(3, device=device)

    def next_pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The pair, a centimetre further on at every call: a call finds nothing that one before it has remembered."""
        self._moved += STEP
        return self.xyz1 + self._moved, self.xyz2 + self._moved

    def frozen_twin(self, network: str) -> nn.Module:
        """Another network of ``MODELS`` on the device, in evaluation mode and without gradients."""
        torch.manual_seed(0)
        return frozen(build_model(network).to(self.device))


def inference(load: Workload, net: Callable[..., Any] | None = None) -> Callable[[], Any]:
    """The flow of the batch by the workload's network, frozen as by ``load_model``, or by ``net``, which wraps it."""
    frozen(load.net)
    net = net or load.net

    def run() -> Any:
        with torch.inference_mode():
            return net(*load.next_pair())

    return run


def training(load: Workload) -> Callable[[], Any]:
    """One training step: sampling, searches, forward, multi-scale loss, backward, Adam."""
    load.net.train()
    optimizer = torch.optim.Adam(load.net.parameters(), lr=1e-5, weight_decay=1e-4)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        output = load.net(*load.next_pair())
        multiscale_loss(output.flows, gather_levels(load.flow, output.indices1)).backward()
        optimizer.step()

    return run


WORKS = {"inference": inference, "training": training}


def distillation(load: Workload, teacher: nn.Module, methods: str, gamma: float | None = None) -> Callable[[], Any]:
    """One step of the student under the methods that --distill and --gamma of train_student.py would choose."""
    load.net.train()
    task = TASKS["scene-flow"]
    shapes = task.shapes(load.net), task.shapes(teacher)
    setting = Setting(*shapes, len(load.xyz1), build_model, levels=task.levels)
    method = parse_distill(methods, gamma).build(setting).to(load.device)
    distiller = Distiller(task, Namespace(), method, teacher)
    optimizer = torch.optim.Adam([*load.net.parameters(), *method.parameters()], lr=1e-5, weight_decay=1e-4)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        batch = FlowBatch(*load.next_pair(), load.flow, [], [])
        distiller.step(load.net, batch)["loss"].backward()
        optimizer.step()

    return run
