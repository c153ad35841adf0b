"""Matrix products of the compiled CPU path."""

from collections.abc import Callable

import torch
from torch import Tensor


def times(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """x (R, C) -> x matrix^T (R, D), for matrix (D, C) in CPU memory; no gradients.

    float32 goes through oneDNN where this build of torch has it: on AMD processors it is quicker than the BLAS that
    torch comes with, most of all from several threads with a product each. The matrix is brought into its order once.
    """
    if matrix.dtype == torch.float32 and torch.backends.mkldnn.is_available() and hasattr(torch.ops, "mkldnn"):
        packed = torch.ops.mkldnn._reorder_linear_weight(matrix)
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return lambda x: x @ matrix.T
