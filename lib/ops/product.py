"""Matrix products of the compiled CPU path: through oneDNN where this build of torch has it.

On AMD processors it is quicker than the BLAS that torch comes with, most of all from several threads with a product
each. It wants the matrix in an order of its own, which takes about as long as a product with a few hundred rows.
"""

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()  # matrix -> its (version, address) and itself in oneDNN's order


def has_onednn(matrix: Tensor) -> bool:
    """True when products with this matrix in CPU memory go through oneDNN: float32 only."""
    if matrix.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))


def pack(matrix: Tensor) -> Tensor:
    """A layer's matrix (D, C) in CPU memory, for ``times`` on any thread; no gradients.

    That of a frozen network (a parameter that requires no gradient) is brought into oneDNN's order once, and again when
    torch has changed it in place. Such a parameter must not be written to behind torch's back, through ``.data`` or
    ``.numpy()``.
    """
    keep = isinstance(matrix, nn.Parameter) and not matrix.requires_grad and has_onednn(matrix)
    keep = keep and not matrix.is_inference()  # inference tensors do not count their changes
    state = (matrix._version, matrix.data_ptr()) if keep else None
    known = _kept.get(matrix) if keep else None
    if known is not None and known[0] == state:
        return known[1]
    plain = matrix.detach().contiguous().numpy()
    with torch.inference_mode(False), torch.no_grad():  # other threads must not touch inference tensors
        packed = torch.from_numpy(plain)
        if has_onednn(matrix):
            packed = torch.ops.mkldnn._reorder_linear_weight(packed)
    if keep:
        _kept[matrix] = state, packed
    return packed


def times(x: Tensor, packed: Tensor, bias: Tensor | None = None, slope: float = 1.0) -> Tensor:
    """x (..., C) -> LeakyReLU(x matrix^T + bias) (..., D) with a matrix from ``pack``; slope 1: no LeakyReLU."""
    if not packed.is_mkldnn:
        out = torch.nn.functional.linear(x, packed, bias)
        return out if slope == 1 else torch.nn.functional.leaky_relu_(out, slope)
    name, scalars = ("none", []) if slope == 1 else ("leaky_relu", [slope])
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, name, scalars, "")
