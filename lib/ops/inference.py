"""What the CPU path does differently where nothing is to be differentiated."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from lib.ops.backend import runs_compiled
from lib.ops.threads import run_side_by_side

T = TypeVar("T")


def runs_inference(*tensors: Tensor) -> bool:
    """True when the compiled CPU path is to take these tensors, outside of autograd, autocast and torch.compile."""
    special = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return not special and runs_compiled(*tensors)


def side_by_side(tensor: Tensor, *tasks: Callable[[], T]) -> list[T]:
    """Runs parts of a network that do not need each other; their results in order.

    Where ``runs_inference`` (tensor) each has a thread of its own, or its share of several, which saves a hand-over
    between threads at every operation; else they run in turn.
    """
    if not runs_inference(tensor):
        return [task() for task in tasks]
    inference = torch.is_inference_mode_enabled()

    def quietly(task: Callable[[], T]) -> T:
        with torch.inference_mode(inference), torch.no_grad():  # both modes are kept per thread
            return task()

    return run_side_by_side([partial(quietly, task) for task in tasks])
