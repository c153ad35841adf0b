"""Where tensors are: batches moved to a device, and a device waited for."""

from typing import Any

import torch
from torch import Tensor


def to_device(value: Any, device: torch.device) -> Any:
    """The value with its tensors on the device. Copies from page-locked memory are started and not waited for.

    Tensors may lie in named tuples, tuples, lists and dicts. Everything else stays as it is.
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*(to_device(part, device) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(to_device(part, device) for part in value)
    if isinstance(value, dict):
        return {name: to_device(part, device) for name, part in value.items()}
    return value


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given, so that a clock may be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
