"""Gathering rows of a cloud."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops import cuda, reference
from lib.ops.backend import runs_compiled, runs_kernels
from lib.ops.checks import check_index
from lib.ops.errors import InputError


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows of each cloud: values (B, M, C), index (B, ...) int64 into M -> (B, ..., C).

    Raises InputError for wrong shapes or dtypes, and IndexError (from torch) for an index outside M.
    """
    if values.dim() != 3:
        raise InputError(f"gather: values must be (B, M, C), got {tuple(values.shape)}")
    check_index("gather", index, values)
    if runs_kernels(values):
        return cuda.gather(values, index)
    if not runs_compiled(values):
        return reference.gather(values, index)
    # An embedding look-up: the same rows, but its backward adds in a fixed order on a CPU.
    return F.embedding(flat_index(index, values.shape[1]), values.reshape(-1, values.shape[2]))


def flat_index(index: Tensor, points: int) -> Tensor:
    """index (B, ...) into each cloud's ``points`` rows -> (B, ...) into the rows of all clouds, one after the other."""
    start = torch.arange(index.shape[0], device=index.device) * points
    return index + start.view(-1, *[1] * (index.dim() - 1))
