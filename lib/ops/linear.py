"""A linear layer, with or without LeakyReLU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops.backend import runs_compiled
from lib.ops.product import has_onednn, pack, times


def linear(x: Tensor, weight: Tensor, bias: Tensor, slope: float = 1.0) -> Tensor:
    """LeakyReLU(x weight^T + bias): x (..., C), weight (D, C), bias (D) -> (..., D); slope 1: no LeakyReLU.

    Outside of autograd, on a CPU, one product through oneDNN does it all. Differentiable in everything.
    """
    autocast = torch.is_autocast_enabled(x.device.type)
    if torch.is_grad_enabled() or autocast or not (runs_compiled(x, weight) and x.dtype == weight.dtype) or (
        not has_onednn(weight)
    ):
        out = F.linear(x, weight, bias)
        return out if slope == 1 else F.leaky_relu(out, slope)
    return times(x, pack(weight), bias, slope)
