"""What every point operation checks before it runs."""

import math

import torch
from torch import Tensor

from lib.errors import InputError


def check_clouds(op: str, **clouds: Tensor) -> None:
    """Raises InputError unless every tensor is (B, N, 3), floating, of one batch size, device and dtype."""
    first = next(iter(clouds.values()))
    for name, cloud in clouds.items():
        if cloud.dim() != 3 or cloud.shape[-1] != 3:
            raise InputError(f"{op}: {name} must be (B, N, 3), got {tuple(cloud.shape)}")
        if not cloud.is_floating_point():
            raise InputError(f"{op}: {name} must hold floating-point coordinates, got {cloud.dtype}")
    check_alike(op, **clouds)
    if any(cloud.shape[0] != first.shape[0] for cloud in clouds.values()):
        shapes = ", ".join(f"{name} {tuple(cloud.shape)}" for name, cloud in clouds.items())
        raise InputError(f"{op}: the batch sizes differ: {shapes}")


def check_devices(op: str, **tensors: Tensor) -> None:
    """Raises InputError unless all tensors are on one device."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.device != first.device:
            found = f"{first_name} {tuple(first.shape)} is on {first.device} but {name} {tuple(tensor.shape)}"
            raise InputError(f"{op}: {found} on {tensor.device}: move one")


def check_alike(op: str, **tensors: Tensor) -> None:
    """Raises InputError unless all tensors are on one device and of one dtype."""
    check_devices(op, **tensors)
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.dtype != first.dtype:
            found = f"{first_name} {tuple(first.shape)} is {first.dtype} but {name} {tuple(tensor.shape)}"
            raise InputError(f"{op}: {found} {tensor.dtype}: convert one")


def check_index(op: str, index: Tensor, values: Tensor, dims: int | None = None) -> None:
    """Raises InputError unless index is int64, of ``dims`` dimensions, and of the batch and device of values.

    dims None: of 2 or more. Nor may it point into clouds without a point.
    """
    if index.dtype != torch.int64 or index.dim() < 2 or (dims is not None and index.dim() != dims):
        wanted = f"int64 of {dims or '2 or more'} dimensions"
        raise InputError(f"{op}: index must be {wanted}, got {index.dtype} of shape {tuple(index.shape)}")
    if index.device != values.device or index.shape[0] != values.shape[0]:
        raise InputError(
            f"{op}: index {tuple(index.shape)} on {index.device} does not go with {tuple(values.shape)} on "
            f"{values.device}"
        )
    if values.shape[1] == 0 and index.numel() > 0:
        raise InputError(f"{op}: index {tuple(index.shape)} points into empty clouds: {tuple(values.shape)}")


def check_finite(op: str, name: str, cloud: Tensor) -> None:
    """Raises InputError when a coordinate is NaN or infinite.

    Looking at values waits for a GPU. A CUDA graph under capture and a traced program cannot: they look at their inputs
    beforehand (``models.scene_flow.cuda_graph``).
    """
    if is_recording(cloud):
        return
    # A sum with NaN or infinity in it is not finite: one quick pass. A second one only where large numbers overflow.
    if not (math.isfinite(cloud.sum().item()) or cloud.isfinite().all()):
        raise InputError(f"{op}: {name} {tuple(cloud.shape)} holds NaN or infinite coordinates")


def is_recording(tensor: Tensor) -> bool:
    """True while operations on this tensor are recorded to run later, so that its values cannot be looked at."""
    return torch.compiler.is_compiling() or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
