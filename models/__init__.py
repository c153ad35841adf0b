"""Networks. ``MODELS`` names them all; ``build_model`` makes one and ``load_model`` reads one from a file."""

import math
from pathlib import Path

from torch import Tensor, nn

from lib.ops import InputError
from models.files import CHECKPOINT_FORMAT, read_checkpoint
from models.lidar import published as lidar_published
from models.lidar.anchor_head import LidarOutput
from models.lidar.pointpillars import PointPillars
from models.norm import buffers_stay_equal, synchronise_batch_norm
from models.scene_flow import published as flow_published
from models.scene_flow.bi_pointflownet import BiPointFlowNet, FlowOutput
from models.scene_flow.levels import PairGeometry

__all__ = [
    "CHECKPOINT_FORMAT",
    "MODELS",
    "FlowOutput",
    "LidarOutput",
    "PairGeometry",
    "PointPillars",
    "buffers_stay_equal",
    "build_model",
    "count_parameters",
    "frozen",
    "load_model",
    "model_record",
    "restore_model",
    "synchronise_batch_norm",
]

HALF = {"pyramid": (16, 32, 64, 128, 128), "bottleneck": 2}
HALF_PREDICTORS = {"predictor": (64, 64, 64, 32)}
QUARTER = {"pyramid": (8, 16, 32, 64, 64), "bottleneck": 2, "context": (16, 16, 32, 32), **HALF_PREDICTORS}
TINY = {"pyramid": (8, 16, 32, 32, 32), "bottleneck": 2, "context": (8, 8, 16, 16), "predictor": (32, 32, 32, 16)}

PILLARS_4X = {"pillar": 32, "stages": (32, 64, 128), "neck": 64}  # half of every width: a quarter of the arithmetic
PILLARS_16X = {"pillar": 16, "stages": (16, 32, 64), "neck": 32}
PILLARS_8 = {"pillar": 8, "stages": (8, 16, 32), "neck": 16}
# Half as far in larger cells, for training on a CPU. All anchors stand on the ground, 1.73 m below the LiDAR.
SMALL = {
    "range": (0.0, -17.92, -3.0, 35.84, 17.92, 1.0),
    "cell": 0.32,
    "max_cells": (6000, 6000),
    "layers": (1, 2, 2),
    "momentum": 0.1,
    "yaws": (0.0, math.pi / 2),
    "anchors": {
        "Pedestrian": (0.8, 0.6, 1.73, -1.73, 0.35, 0.2),
        "Cyclist": (1.76, 0.6, 1.73, -1.73, 0.35, 0.2),
        "Car": (3.9, 1.6, 1.56, -1.73, 0.5, 0.35),
    },
    "force_all": True,
}

# name -> (class, options); keyword options of build_model override these
MODELS = {
    "teacher": (BiPointFlowNet, {}),  # 7.96 M parameters
    "student": (BiPointFlowNet, HALF),  # 3.71 M, that of the reports
    "student-half-all": (BiPointFlowNet, {**HALF, **HALF_PREDICTORS}),  # 2.04 M
    "student-quarter": (BiPointFlowNet, QUARTER),  # 0.95 M
    "student-tiny": (BiPointFlowNet, TINY),  # 0.32 M
    "pointpillars": (PointPillars, {}),  # 4.83 M
    "pointpillars-4x": (PointPillars, PILLARS_4X),  # 1.22 M
    "pointpillars-16x": (PointPillars, PILLARS_16X),  # 0.31 M
    "pointpillars-small": (PointPillars, {**SMALL, **PILLARS_4X}),  # 0.64 M
    "pointpillars-small-4x": (PointPillars, {**SMALL, **PILLARS_16X}),  # 0.17 M
    "pointpillars-small-16x": (PointPillars, {**SMALL, **PILLARS_8}),  # 0.04 M
}


def build_model(name: str, **options) -> nn.Module:
    """A new network of ``MODELS``, randomly initialised.

    ``options`` override its settings: those of ``models.scene_flow.bi_pointflownet.Widths`` or
    ``models.lidar.pointpillars.PillarSettings``.
    Raises InputError for an unknown name, an unknown option or an impossible value.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}")
    constructor, defaults = MODELS[name]
    try:
        return constructor(name, **{**defaults, **options})
    except TypeError as error:
        raise InputError(f"model {name!r}: {error}") from None


def count_parameters(net: nn.Module) -> int:
    """Number of values that training sets, whether or not they are frozen now."""
    return sum(p.numel() for p in net.parameters())


def frozen(net: nn.Module) -> nn.Module:
    """The network in evaluation mode, its weights constant: out of reach of optimizers, and laid out for speed once."""
    return net.eval().requires_grad_(False)


def model_record(net: nn.Module) -> dict:
    """Everything that rebuilds ``net``: its name, options and weights (on the CPU)."""
    state = {name: value.detach().cpu() for name, value in net.state_dict().items()}
    return {"name": net.name, "options": net.options, "state_dict": state}


def restore_model(record: dict) -> nn.Module:
    """The network of a ``model_record``, in evaluation mode. Raises InputError when weights and options disagree."""
    try:
        net = build_model(record["name"], **record["options"])
        state = dict(record["state_dict"])
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError
    except (KeyError, TypeError):
        raise InputError("the checkpoint's model entry lacks its name, options or weights") from None
    wrong = sorted(
        set(net.state_dict()) ^ set(state)
        | {n for n, v in net.state_dict().items() if n in state and state[n].shape != v.shape}
    )
    if wrong:
        raise InputError(
            f"the checkpoint's weights do not fit the {net.name} it says it holds: {len(wrong)} tensors differ, "
            f"first {wrong[0]}"
        )
    net.load_state_dict(state)
    return net.eval()


def load_model(path: str | Path, device: str = "cpu") -> nn.Module:
    """Reads a network from our checkpoint or a published one (Bi-PointFlowNet, OpenPCDet's PointPillars), ``frozen``.

    Raises InputError for a file that is missing, cut short, holds code, or does not fit the network it names.
    """
    content = read_checkpoint(path)
    try:
        if content.get("format") == CHECKPOINT_FORMAT:
            net = restore_model(content.get("model", {}))
        elif flow_published.is_published(content):
            net = build_model("teacher")
            net.load_state_dict(flow_published.from_published(content))
        elif lidar_published.is_published(content):
            net = build_model("pointpillars", **lidar_published.OPENPCDET)
            net.load_state_dict(lidar_published.from_published(content))
        else:
            raise InputError(f"neither a checkpoint of this project ({CHECKPOINT_FORMAT}) nor a published state")
        broken = [name for name, value in net.state_dict().items() if not value.isfinite().all()]
        if broken:
            raise InputError(f"NaN or infinity in the weights, first in {broken[0]}")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return frozen(net.to(device))
