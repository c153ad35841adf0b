"""Weights of the published Bi-PointFlowNet under this project's names.

The published state carries 188 tensors its own forward never uses: ``bias1`` and ``bias2`` of the four flow embeddings
and a batch norm per WeightNet layer. Exactly those are dropped; anything else missing or left over is an error.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lib.ops import InputError
from models.scene_flow.bi_pointflownet import BiPointFlowNet

_PARTS = {  # inside a flow embedding
    "cross_t11": "query",
    "cross_t22": "key",
    "pos1": "position1",
    "mlp1.0.composed_module.0": "mlp1",
    "cross_t1": "update1",
    "cross_t2": "update2",
    "pos2": "position2",
    "mlp2.0.composed_module.0": "mlp2",
}


def _module_names() -> dict[str, str]:
    """Our module name -> published module name, for every module that holds weights."""
    names = {
        "pyramid.stem.0": "level0.composed_module.0",
        "pyramid.stem.2": "level0_1.composed_module.0",
        "pyramid.lift.0.0": "level0_2.composed_module.0",
    }
    for level in (1, 2, 3):
        names[f"pyramid.refine.{level - 1}.0"] = f"level{level}_0.composed_module.0"
        names[f"pyramid.lift.{level}.0"] = f"level{level}_1.composed_module.0"
    pointconvs = {f"pyramid.down.{level - 1}": f"level{level}" for level in (1, 2, 3, 4)}
    for level in range(4):
        names[f"context.{level}.0"] = f"deconv{level + 1}_{level}.composed_module.0"
        names |= {f"embedding.{level}.{ours}": f"cross{level}.{theirs}" for theirs, ours in _PARTS.items()}
        for i in (0, 1):
            pointconvs[f"predictor.{level}.pointconvs.{i}"] = f"flow{level}.pointconv_list.{i}"
            names[f"predictor.{level}.pointconvs.{i}.norm"] = f"flow{level}.pointconv_list.{i}.bn_linear"
            names[f"predictor.{level}.mlp.{2 * i}"] = f"flow{level}.mlp_convs.{i}.composed_module.0"
        names[f"predictor.{level}.head"] = f"flow{level}.fc"
    for ours, theirs in pointconvs.items():
        names[f"{ours}.linear"] = f"{theirs}.linear"
        names |= {f"{ours}.weightnet.{2 * i}": f"{theirs}.weightnet.mlp_convs.{i}" for i in range(3)}
    return names


def published_names() -> dict[str, str]:
    """Our tensor name -> published tensor name, for every tensor of the teacher."""
    modules = _module_names()
    tensors = (name.rpartition(".") for name in BiPointFlowNet().state_dict())
    return {f"{module}.{leaf}": f"{modules[module]}.{leaf}" for module, _, leaf in tensors}


def is_unused(name: str) -> bool:
    """True for the published tensors that the published forward never reads."""
    return bool(re.fullmatch(r"cross\d\.bias[12]", name)) or ".weightnet.mlp_bns." in name


def is_published(content: Mapping) -> bool:
    """True when a loaded file looks like a published state (which may still not fit)."""
    return "level0.composed_module.0.weight" in content


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state -> a state for the teacher. 1x1 convolutions lose their trailing axes of length 1.

    Raises InputError when a tensor is missing, left over or of another shape.
    """
    names = published_names()
    unused = {name for name in state if is_unused(name)}
    missing = sorted(set(names.values()) - set(state))
    extra = sorted(set(state) - set(names.values()) - unused)
    if missing or extra or len(unused) != 188:
        raise InputError(
            f"not the published Bi-PointFlowNet state: {len(missing)} tensors missing {missing[:1]}, {len(extra)} "
            f"left over {extra[:1]}, {len(unused)} of the 188 unused ones"
        )
    converted = {}
    for ours, expected in BiPointFlowNet().state_dict().items():
        value = state[names[ours]]
        if value.shape[: expected.dim()] != expected.shape or value.numel() != expected.numel():
            raise InputError(f"{names[ours]} is {tuple(value.shape)}, expected {tuple(expected.shape)}")
        converted[ours] = value.reshape(expected.shape)
    return converted


def to_published(name: str, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``from_published`` for a network's name, options and state.

    The published tensors that are never used are filled: biases with zeros, batch norms with the identity.
    Raises InputError for any network but the teacher of the published widths.
    """
    published = BiPointFlowNet()
    if dict(options) != dict(published.options):
        raise InputError(f"only the teacher of the published widths has a published form, not this {name}")
    converted = {}
    for ours, theirs in published_names().items():
        value = state[ours].detach().cpu()
        if value.dim() == 2:
            value = value.reshape(*value.shape, *[1] * _kernel_axes(theirs))
        converted[theirs] = value
    for theirs, value in list(converted.items()):
        if match := re.fullmatch(r"(cross\d)\.pos1\.bias", theirs):
            for unused in ("bias1", "bias2"):
                converted[f"{match[1]}.{unused}"] = torch.zeros(1, len(value), 1, 1)
        elif match := re.fullmatch(r"(.*\.weightnet)\.mlp_convs\.(\d)\.bias", theirs):
            norm = torch.nn.BatchNorm1d(len(value)).state_dict()
            converted |= {f"{match[1]}.mlp_bns.{match[2]}.{leaf}": entry for leaf, entry in norm.items()}
    return converted


def _kernel_axes(published: str) -> int:
    """How many axes of length 1 a published weight matrix ends with: 2 for a 2-D convolution, 1 for a 1-D, else 0."""
    if re.search(r"\.weightnet\.mlp_convs\.|^cross\d\.(mlp|pos)\d\.", published):
        return 2
    return 0 if published.endswith(".linear.weight") else 1
