"""Gathering rows of a cloud."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import InputError
from lib.ops import cuda, reference
from lib.ops.backend import runs_compiled, runs_inference, runs_kernels
from lib.ops.checks import check_clouds, check_index
from lib.ops.cpu.compiled import untraced
from lib.ops.cpu.gather import flatten, offsets
from lib.ops.cpu.threads import WORTH_A_THREAD, run_in_ranges


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows of each cloud: values (B, M, C), index (B, N, ...) int64 into M -> (B, N, ..., C).

    Raises InputError for wrong shapes or dtypes and, on a CPU, for an index outside M.
    """
    if values.dim() != 3:
        raise InputError(f"gather: values must be (B, M, C), got {tuple(values.shape)}")
    check_index("gather", index, values)
    if runs_kernels(values):
        return cuda.gather(values, index)
    if not runs_compiled(values):
        return reference.gather(values, index)
    # An embedding look-up: the same rows, but its backward adds in a fixed order on a CPU.
    rows = flat_rows("gather", index.flatten(1)[:, :, None], values.shape[1]).view(index.shape)
    return F.embedding(rows, values.reshape(-1, values.shape[2]))


def neighbour_offsets(query: Tensor, support: Tensor, index: Tensor) -> Tensor:
    """Where the neighbours of a query lie: support[index] - query, metres.

    query (B, N, 3), support (B, M, 3), index (B, N, K) into M -> (B, N, K, 3). Differentiable in both clouds.

    Raises InputError for shapes, dtypes or devices that do not go together.
    """
    check_clouds("neighbour_offsets", query=query, support=support)
    check_index("neighbour_offsets", index, support, dims=3)
    if index.shape[1] != query.shape[1]:
        raise InputError(
            f"neighbour_offsets: index {tuple(index.shape)} must be (B, N, K) for query {tuple(query.shape)}"
        )
    if not runs_inference(query, support):
        return gather(support, index) - query[:, :, None]
    rows = flat_rows("neighbour_offsets", index, support.shape[1])  # (B N, K) into (B M) rows
    points, table = (cloud.detach().contiguous().numpy().reshape(-1, 3) for cloud in (query, support))
    out = np.empty((*index.shape, 3), points.dtype)
    args = points, table, rows.numpy(), out.reshape(*rows.shape, 3)
    run_in_ranges(partial(offsets, *args), len(rows), WORTH_A_THREAD)
    return torch.from_numpy(out)


@untraced
def flat_rows(op: str, index: Tensor, points: int) -> Tensor:
    """index (B, N, K) into each cloud's ``points`` rows, in CPU memory -> (B N, K) into the rows of all clouds.

    For the compiled loops, which look at no index again. Raises InputError for one outside of the cloud.
    """
    given = index.contiguous().numpy()
    rows = np.empty(given.shape, np.int64)
    flat = len(given), given.shape[1] * given.shape[2]
    if flatten(given.reshape(flat), points, rows.reshape(flat)):
        raise InputError(
            f"{op}: index {tuple(index.shape)} holds {index.min().item()} to {index.max().item()}, and the points of a "
            f"cloud are 0 to {points - 1}"
        )
    return torch.from_numpy(rows.reshape(-1, rows.shape[2]))
