"""The evaluation of scene flow: one function, used while training and for every table."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lib.datasets.scene_flow.pairs import FlowBatch, FlowPairs, collate
from lib.errors import InputError
from lib.metrics.scene_flow import average, scene_flow_metrics
from lib.ops import gather, knn
from lib.training import distributed
from lib.training.loading import load_batches
from lib.training.run_folder import progress_bar
from models import FlowOutput

UNITS = {"EPE3D": "m", "ACC3DS": "", "ACC3DR": "", "Outliers3D": "", "EPE2D": "px", "ACC2D": ""}


class Score(NamedTuple):
    """The result of an evaluation."""

    metrics: dict[str, float]  # averaged over the scenes
    scenes: list[dict[str, Any]]  # one entry a scene, in the data set's order: its name and its metrics
    seconds_per_pair: float  # of the network alone


class Interrupted(Exception):
    """The evaluation was asked to stop before its end."""


def zero_flow(xyz1: Tensor, xyz2: Tensor) -> FlowOutput:
    """The baseline that nothing moves. xyz1 (B, N, 3), xyz2 (B, M, 3), metres."""
    return FlowOutput([torch.zeros_like(xyz1)], [None], [None])


def nearest_flow(xyz1: Tensor, xyz2: Tensor) -> FlowOutput:
    """The baseline that each source point moves to its nearest target point. xyz1 (B, N, 3), xyz2 (B, M, 3), metres."""
    index = knn(xyz1, xyz2, 1).squeeze(2)  # (B, N, 1) -> (B, N)
    return FlowOutput([gather(xyz2, index) - xyz1], [None], [None])


BASELINES = {"zero": zero_flow, "nearest": nearest_flow}


@torch.no_grad()
def evaluate(
    model: Callable[[Tensor, Tensor], FlowOutput],
    pairs: FlowPairs,
    device: torch.device,
    amp: str = "off",
    description: str = "evaluating",
    workers: int = 0,
    interrupted: Callable[[], bool] = lambda: False,
    observe: Callable[[FlowBatch, Tensor, dict[str, float]], None] = lambda batch, flow, metrics: None,
) -> Score:
    """Scores the model's finest flow on every scene, one at a time, with the evaluation draw of each.

    So the score depends on the model and the data alone: not on a batch size, on a random state, or on the number of
    processes (which share the scenes; all of them get the whole score). A network is left in evaluation mode.
    amp "bf16" runs the network under autocast. The time is measured around the network with the device synchronised,
    after one call that is not counted. ``observe`` sees every scene of this process: a batch of one, the predicted flow
    (1, N, 3) in metres on the CPU, and the scene's metrics. Raises InputError naming the scene where a prediction is
    not finite, and Interrupted once ``interrupted()`` is true in any process.
    """
    if len(pairs) == 0:
        raise InputError("there is no scene to evaluate on")
    if isinstance(model, nn.Module):
        model.eval()
    mine = range(distributed.rank(), len(pairs), distributed.world_size())
    scenes, seconds, stop = [], [], False
    batches = load_batches(pairs, [[i] for i in mine], collate, workers, pin=device.type == "cuda")
    with contextlib.closing(batches), progress_bar(len(mine), description, "scene") as bar:
        for batch in batches:
            if stop := interrupted():
                break
            xyz1, xyz2 = (cloud.to(device, non_blocking=True) for cloud in (batch.xyz1, batch.xyz2))
            if not seconds:
                _predict(model, xyz1, xyz2, device, amp)  # warm-up: first calls compile and allocate
            flow, duration = _predict(model, xyz1, xyz2, device, amp)
            if not flow.isfinite().all():
                raise InputError(f"the predicted flow of scene {batch.names[0]} is not finite: unusable weights")
            metrics = scene_flow_metrics(flow[0], batch.flow[0], batch.xyz1[0], batch.cameras[0])
            scenes.append({"name": batch.names[0], **metrics})
            observe(batch, flow.cpu(), metrics)
            seconds.append(duration)
            bar.update()
            bar.set_postfix(EPE=f"{average(scenes)['EPE3D']:.4f}")

    parts = distributed.gather_objects((scenes, seconds, stop))
    if any(stop for _, _, stop in parts):
        raise Interrupted
    # Process r had scenes r, r + W, r + 2 W ...
    scenes = [parts[i % len(parts)][0][i // len(parts)] for i in range(len(pairs))]
    seconds = [value for _, values, _ in parts for value in values]
    return Score(average(scenes), scenes, sum(seconds) / len(seconds))


def _predict(
    model: Callable[[Tensor, Tensor], FlowOutput], xyz1: Tensor, xyz2: Tensor, device: torch.device, amp: str
) -> tuple[Tensor, float]:
    """(finest flow (1, N, 3) in metres, seconds)."""
    synchronise(device)
    start = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16"):
        flow = model(xyz1, xyz2).flows[0]
    synchronise(device)
    return flow, time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given, so that a clock may be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
