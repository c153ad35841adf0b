"""Weights and settings of PointPillars as published with OpenPCDet, under this project's names.

Such a file holds the state under "model_state", beside other entries that are not needed. Its network was trained with
settings of its own, which ``OPENPCDET`` lists.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lib.errors import InputError
from models.lidar.pointpillars import PointPillars

OPENPCDET = {  # what differs from the defaults
    "classes": ("Car", "Pedestrian", "Cyclist"),
    "to_the_border": True,
    "direction_offset": 0.78539,
    "candidates": 4096,
    "per_class": False,
    "most": 500,
}
UNUSED = "global_step"


def published_names() -> dict[str, str]:
    """Our tensor name -> published tensor name, for every tensor of the network."""
    modules = {
        "pillars.linear": "vfe.pfn_layers.0.linear",
        "pillars.norm": "vfe.pfn_layers.0.norm",
        "head.scores": "dense_head.conv_cls",
        "head.boxes": "dense_head.conv_box",
        "head.directions": "dense_head.conv_dir_cls",
    }
    net = PointPillars()
    for i, stage in enumerate(net.backbone.stages):
        for j in range(len(stage)):
            for place, leaf in enumerate(("conv", "norm"), 1):  # theirs count padding and ReLU as modules as well
                modules[f"backbone.stages.{i}.{j}.{leaf}"] = f"backbone_2d.blocks.{i}.{3 * j + place}"
        for place, leaf in enumerate(("conv", "norm")):
            modules[f"neck.branches.{i}.{leaf}"] = f"backbone_2d.deblocks.{i}.{place}"
    tensors = (name.rpartition(".") for name in net.state_dict())
    return {f"{module}.{leaf}": f"{modules[module]}.{leaf}" for module, _, leaf in tensors}


def is_published(content: Mapping[str, Any]) -> bool:
    """True when a loaded file looks like a published state (which may still not fit)."""
    state = content.get("model_state")
    return isinstance(state, Mapping) and "vfe.pfn_layers.0.linear.weight" in state


def from_published(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """A published file -> a state for the network of the settings ``OPENPCDET``.

    Raises InputError when a tensor is missing, left over or of another shape.
    """
    names, state = published_names(), content["model_state"]
    missing, extra = sorted(set(names.values()) - set(state)), sorted(set(state) - set(names.values()) - {UNUSED})
    if missing or extra:
        raise InputError(
            f"not the published PointPillars of three classes: {len(missing)} tensors missing {missing[:1]}, "
            f"{len(extra)} left over {extra[:1]}"
        )
    for ours, expected in PointPillars(**OPENPCDET).state_dict().items():
        value = state[names[ours]]
        if not isinstance(value, Tensor) or value.shape != expected.shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{names[ours]} is {found}, expected {tuple(expected.shape)}")
    return {ours: state[theirs] for ours, theirs in names.items()}
