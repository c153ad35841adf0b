"""Features of the same points from several sources in one table."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops.backend import runs_inference
from lib.ops.checks import check_devices
from lib.ops.cpu.gather import copy_columns
from lib.ops.cpu.threads import WORTH_A_THREAD, run_in_ranges


def join(*features: Tensor) -> Tensor:
    """Several (B, N, C_i) side by side: (B, N, sum of C_i). Differentiable.

    Outside of autograd, on a CPU, with the threads of the other operations: torch's own would be in their way.

    Raises InputError for shapes or devices that do not go together.
    """
    if not features or any(f.dim() != 3 or f.shape[:2] != features[0].shape[:2] for f in features):
        raise InputError(f"join: {' '.join(str(tuple(f.shape)) for f in features) or 'nothing'} must be (B, N, C_i)")
    check_devices("join", **{f"features {number}": f for number, f in enumerate(features)})
    if not runs_inference(*features) or len({f.dtype for f in features}) > 1:
        return torch.cat(features, dim=-1)
    tables = [f.detach().contiguous().numpy().reshape(-1, f.shape[2]) for f in features]  # (B N, C_i)
    out = np.empty((len(tables[0]), sum(table.shape[1] for table in tables)), tables[0].dtype)
    ends = np.cumsum([table.shape[1] for table in tables])
    copies = [partial(copy_columns, table, out, end - table.shape[1]) for table, end in zip(tables, ends, strict=True)]

    def run(start: int, stop: int) -> None:
        for copy in copies:
            copy(start, stop)

    run_in_ranges(run, len(out), WORTH_A_THREAD)
    return torch.from_numpy(out.reshape(*features[0].shape[:2], out.shape[1]))
