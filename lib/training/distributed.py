"""Data-parallel processes, as torchrun starts them. With one process every function is a no-op."""

import os
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models import buffers_stay_equal, synchronise_batch_norm

_wrappers: WeakSet[DistributedDataParallel] = WeakSet()  # of ``parallel``, until ``finish``


def rank() -> int:
    """This process's number, from torchrun; 0 without it."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of processes; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number on its machine; it takes the GPU of that number."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """True in the one process that writes files and prints."""
    return rank() == 0


def start(device: torch.device) -> None:
    """Joins the other processes: gloo for tensors on a CPU, nccl for those on GPUs."""
    if world_size() > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def finish() -> None:
    """Leaves the other processes, after all of them came here."""
    if dist.is_initialized():
        dist.barrier()
        # The last owner of the group waits for the group's threads, and these may need Python's lock. A reducer keeps
        # that lock while it is deleted. So it must not be the last owner.
        for wrapper in _wrappers:
            del wrapper.reducer, wrapper.logger
        _wrappers.clear()
        dist.destroy_process_group()


def barrier() -> None:
    """Waits for all processes."""
    if dist.is_initialized():
        dist.barrier()


def sum_over_processes(values: Tensor) -> Tensor:
    """Element-wise sum of a CPU tensor over all processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gather_objects(value: Any) -> list[Any]:
    """One entry a process, in the order of their ranks; every process gets the whole list."""
    if not dist.is_initialized():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def parallel(net: nn.Module) -> nn.Module:
    """Wraps a network: backward averages the gradients over all processes, batch norms see the batch of all of them."""
    if not dist.is_initialized():
        return net
    synchronise_batch_norm(net)
    # Buffers that may come to differ are copied from the first process before each step.
    wrapper = DistributedDataParallel(net, forward_sync_buffers=not buffers_stay_equal(net))
    _wrappers.add(wrapper)
    return wrapper


def average_gradients(module: nn.Module) -> None:
    """Replaces the gradients of a module outside ``parallel`` by their means over the processes."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if not dist.is_initialized() or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])  # one exchange for all
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def unwrapped(net: nn.Module) -> nn.Module:
    """The network inside ``parallel``'s wrapper, or the network itself."""
    return net.module if isinstance(net, DistributedDataParallel) else net
