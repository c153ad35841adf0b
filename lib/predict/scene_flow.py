"""The flow of two clouds of any size, without ground truth: of one pair, and of a folder of frames."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lib.clouds.axes import AXES, check_pair, from_project, to_project, warnings_of
from lib.clouds.files import encode_flow, read_cloud
from lib.errors import InputError
from lib.files import write_atomically
from lib.predict.rigid_motion import RigidMotion, fit_rigid_motion
from lib.predict.sequence import Job, check_results, is_finished, note_settings
from lib.training.checkpoint import file_digest
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


class FlowSettings(NamedTuple):
    """How flows are predicted. axes: of the clouds (lib/clouds/axes.py). rigid: also fit a rigid motion."""

    axes: str
    num_points: int | None
    amp: str
    rigid: bool


class Result(NamedTuple):
    """flow (N, 3), metres, in the axes of the input; seconds it took; the rigid motion, where asked for."""

    flow: np.ndarray
    seconds: float
    rigid: RigidMotion | None


def predict_one(net: nn.Module, job: Job, settings: FlowSettings, device: torch.device) -> None:
    """One pair, told at length."""
    source, target = read_cloud(job.source), read_cloud(job.target)
    made = _predict(net, job, source, target, settings, device)
    _write(job.out, source, made)
    drawn = f", {settings.num_points} drawn of each that has more" if settings.num_points else ""
    timing = f"{made.seconds:.3f} s for this pair (network and interpolation, first pair of the process, {device})"
    rows = [
        ("axes", f"{settings.axes} ({AXES[settings.axes][0]})"),
        ("points", f"{len(source)} source, {len(target)} target{drawn}"),
        ("flow", _described(made.flow)),
        *(made.rigid.lines() if made.rigid else []),
        ("time", timing),
        ("written", f"{job.out}"),
    ]
    print("\n".join(f"{name:<9}{value}" for name, value in rows))


def predict_sequence(
    net: nn.Module, jobs: list[Job], out: Path, checkpoint: Path, settings: FlowSettings, device: torch.device
) -> None:
    """Every pair of a folder, a line each. Pairs that an earlier start finished are left as they are.

    out: the folder for flows. checkpoint: the file of the network, noted there with the settings.
    """
    noted = {"checkpoint": file_digest(checkpoint), **settings._asdict()}
    check_results(out, noted)
    seconds = []
    source = read_cloud(jobs[0].source)
    for job in jobs:
        target = read_cloud(job.target)
        if is_finished(job, source):
            print(f"{job}: finished before")
        else:
            made = _predict(net, job, source, target, settings, device, f"{job}: ")
            if not seconds:
                note_settings(out, noted)
            _write(job.out, source, made)
            seconds.append(made.seconds)
            rigid = "".join(f"; {value}" for _, value in made.rigid.lines()) if made.rigid else ""
            print(f"{job}: {_described(made.flow)}{rigid}; {made.seconds:.3f} s", flush=True)
        source = target
    rows = [("pairs", f"{len(seconds)} predicted, {len(jobs) - len(seconds)} finished before")]
    if seconds:
        timing = f"{np.median(seconds):.3f} s a pair, the median (network and interpolation, {device})"
        rows.append(("time", timing))
    rows.append(("written", f"{out}"))
    print("\n".join(f"{name:<9}{value}" for name, value in rows))


def _predict(
    net: nn.Module,
    job: Job,
    source: np.ndarray,
    target: np.ndarray,
    settings: FlowSettings,
    device: torch.device,
    where: str = "",
) -> Result:
    """The flow of every point of source (N, 3) to target (M, 3), both in the axes of the input.

    Warns about what looks wrong; raises InputError for clouds that cannot be a pair. where: begins each such line.
    """
    try:
        check_pair(source, target)
        _check_sizes(net, job, settings.num_points, source, target)
        for line in warnings_of(source, target, settings.axes):
            print(f"warning: {where}{line}", file=sys.stderr)
        xyz1, xyz2 = (to_project(cloud, settings.axes) for cloud in (source, target))
        flow, seconds = predict_flow(net, xyz1, xyz2, device, settings.num_points, settings.amp)
        flow = from_project(flow, settings.axes)
        return Result(flow, seconds, fit_rigid_motion(source, flow) if settings.rigid else None)
    except InputError as error:
        raise InputError(f"{where}{error}") from None


def _write(out: Path, source: np.ndarray, made: Result) -> None:
    """The flow file, whole or not at all."""
    more = (
        {}
        if made.rigid is None
        else {"rotation": made.rigid.rotation, "translation": made.rigid.translation, "follows": made.rigid.follows}
    )
    write_atomically(out, encode_flow(out.suffix.lower(), source, made.flow, **more))


def _described(flow: np.ndarray) -> str:
    length = np.linalg.norm(flow, axis=1)
    return f"median {np.median(length):.4f} m, largest {length.max():.4f} m"


def _check_sizes(net: nn.Module, job: Job, num_points: int | None, source: np.ndarray, target: np.ndarray) -> None:
    """Raises InputError naming the cloud, or the flag, that gives the network too few points."""
    for path, cloud in ((job.source, source), (job.target, target)):
        try:
            net.sizes_for(len(cloud))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    if num_points:
        try:
            net.sizes_for(num_points)
        except InputError as error:
            raise InputError(f"--num-points {num_points}: {error}") from None
