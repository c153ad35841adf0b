"""Matrix products of the compiled CPU path, for other compiled loops to call.

A library's product would be called from Python once for every piece that fits a core's cache. Each call takes Python's
lock, for which all other threads wait. And libraries are slow on matrices as narrow as those of these networks.
"""

import weakref
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import numpy as np
from torch import Tensor, nn

from lib.ops.cpu.compiled import compiled
from lib.ops.cpu.instructions import ROWS, VECTOR_BYTES, product_tile

T = TypeVar("T")
PANELS = 2 if ROWS == 8 else 1  # at once; the last one of an odd number goes alone
_tile, _narrow_tile = product_tile(ROWS, PANELS), product_tile(ROWS, 1)
_row, _narrow_row = product_tile(1, PANELS), product_tile(1, 1)


def kept(arrange: Callable[..., T]) -> Callable[..., T]:
    """A decorator of functions that arrange a layer's tensors, in CPU memory, for the compiled loops.

    The tensors of a frozen network are arranged once, and again after torch has changed one in place. A network is
    frozen when the first tensor is a parameter and none requires a gradient. Writing to them through ``.data`` or
    ``.numpy()`` would go unseen: do not.
    """
    known: dict[int, tuple] = {}  # by the first tensor: (each tensor, its version, its address), the result, options

    @wraps(arrange)
    def keep(*tensors: Tensor, **options: float) -> T:
        first = tensors[0]
        for tensor in tensors:  # inference tensors do not number their changes
            if tensor.requires_grad or tensor.is_inference():
                return arrange(*tensors, **options)
        if not isinstance(first, nn.Parameter):
            return arrange(*tensors, **options)
        key = id(first)
        entry = known.get(key)
        if entry is not None and len(entry[0]) == len(tensors) and entry[2] == options:
            for tensor, (same, version, address) in zip(tensors, entry[0], strict=True):
                if same() is not tensor or tensor._version != version or tensor.data_ptr() != address:
                    break
            else:
                return entry[1]
        states = [(weakref.ref(tensor), tensor._version, tensor.data_ptr()) for tensor in tensors]
        states[0] = (weakref.ref(first, lambda _: known.pop(key, None)), *states[0][1:])
        result = arrange(*tensors, **options)
        known[key] = states, result, options
        return result

    return keep


@kept
def pack_matrix(matrix: Tensor) -> np.ndarray:
    """Cuts a layer's matrix (D, C), in CPU memory, into panels (D' / n, C', n). n numbers fill a vector.

    D' and C' are D and C rounded up to a multiple of n; the rest is zeros.
    """
    return _panels(matrix.detach().contiguous().numpy())


@kept
def pack_layer(matrix: Tensor, bias: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(matrix (D, C) as ``pack_matrix`` cuts it, bias (D) with zeros up to length D')."""
    packed = pack_matrix(matrix)
    shift = np.zeros(len(packed) * packed.shape[2], packed.dtype)
    shift[: len(bias)] = bias.detach().numpy()
    return packed, shift


@compiled()
def _panels(matrix):
    columns, inner = matrix.shape
    lanes = VECTOR_BYTES // matrix.itemsize
    packed = np.zeros(((columns + lanes - 1) // lanes, (inner + lanes - 1) // lanes * lanes, lanes), matrix.dtype)
    for c in range(columns):
        for i in range(inner):
            packed[c // lanes, i, c % lanes] = matrix[c, i]
    return packed


@compiled()
def multiply(values: np.ndarray, first: int, packed: np.ndarray, out: np.ndarray, start: int, number: int) -> None:
    """out[start : start + number] = values[first : first + number] matrix^T.

    values (R, C) and out (N, D), both contiguous; packed: the matrix (D, C) by ``pack_matrix``.
    """
    panels, _, lanes = packed.shape
    corner = np.empty((ROWS, PANELS * lanes), values.dtype)  # for columns that fill no whole panel
    for panel in range(0, panels, PANELS):
        wide = panel + PANELS <= panels
        column, width = panel * lanes, PANELS * lanes if wide else lanes
        fits = column + width <= out.shape[1]
        r = 0
        while r < number:
            rows = ROWS if r + ROWS <= number else 1
            target, place, begin = (out, start + r, column) if fits else (corner, 0, 0)
            if rows == ROWS and wide:
                _tile(values, first + r, packed, panel, target, place, begin)
            elif rows == ROWS:
                _narrow_tile(values, first + r, packed, panel, target, place, begin)
            elif wide:
                _row(values, first + r, packed, panel, target, place, begin)
            else:
                _narrow_row(values, first + r, packed, panel, target, place, begin)
            if not fits:
                for j in range(rows):
                    for c in range(column, out.shape[1]):
                        out[start + r + j, c] = corner[j, c - column]
            r += rows
