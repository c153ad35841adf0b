"""Matrix products of the compiled CPU path, for other compiled loops to call.

A library's product would be called from Python, which takes Python's lock between the pieces that fit a core's cache;
it leaves such pieces for every other thread to wait for, and the narrow matrices of these networks far from the
processor's limit.
"""

from collections.abc import Callable
from functools import wraps

import numpy as np
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from lib.ops.compiled import compiled
from lib.ops.tile import ROWS, VECTOR, product_tile

_tile, _narrow_tile = product_tile(ROWS, 2), product_tile(ROWS, 1)
_row, _narrow_row = product_tile(1, 2), product_tile(1, 1)


def kept(arrange: Callable[[Tensor], np.ndarray]) -> Callable[[Tensor], np.ndarray]:
    """A decorator of what brings a layer's matrix (D, C) in CPU memory into another order.

    That of a frozen network (a parameter that requires no gradient) is arranged once, and again when torch has changed
    it in place. Such a parameter must not be written to behind torch's back, through ``.data`` or ``.numpy()``.
    """
    known: WeakIdKeyDictionary = WeakIdKeyDictionary()  # matrix -> its (version, address) and the arranged one

    @wraps(arrange)
    def keep(matrix: Tensor) -> np.ndarray:
        if not isinstance(matrix, nn.Parameter) or matrix.requires_grad or matrix.is_inference():
            return arrange(matrix)  # among them, inference tensors do not count their changes
        state = matrix._version, matrix.data_ptr()
        before, arranged = known.get(matrix, (None, None))
        if before != state:
            arranged = arrange(matrix)
            known[matrix] = state, arranged
        return arranged

    return keep


@kept
def pack(matrix: Tensor) -> np.ndarray:
    """A layer's matrix (D, C) in CPU memory, float32 or float64, in the order in which ``multiply`` reads it."""
    return _panels(matrix.detach().contiguous().numpy())


@compiled()
def _width(left, lanes):
    """Columns of the next panel where so many are left: two vectors, or one where that will do."""
    return lanes if left <= lanes else 2 * lanes


@compiled()
def _panels(matrix):
    """Panels of columns, one after the other: (C, width) each, zero behind the last column."""
    columns, inner = matrix.shape
    lanes = VECTOR // matrix.itemsize
    packed = np.zeros((columns + lanes - 1) // lanes * lanes * inner, matrix.dtype)
    start = 0
    for first in range(0, columns, 2 * lanes):
        width = _width(columns - first, lanes)
        for c in range(first, min(first + width, columns)):
            for i in range(inner):
                packed[start + i * width + c - first] = matrix[c, i]
        start += inner * width
    return packed


@compiled()
def multiply(values: np.ndarray, first: int, packed: np.ndarray, out: np.ndarray, start: int, count: int) -> None:
    """out[start : start + count] = values[first : first + count] matrix^T, with the matrix (D, C) from ``pack``.

    values (R, C) and out (N, D), both contiguous.
    """
    inner, columns = values.shape[1], out.shape[1]
    lanes = VECTOR // values.itemsize
    left, flat = values.reshape(-1), out.reshape(-1)
    corner = np.empty(ROWS * 2 * lanes, values.dtype)
    panel = 0
    for column in range(0, columns, 2 * lanes):
        width = _width(columns - column, lanes)
        fits = column + width <= columns
        r = 0
        while r < count:
            rows = ROWS if r + ROWS <= count else 1
            source, target, place, pitch = (first + r) * inner, flat, (start + r) * columns + column, columns
            if not fits:
                target, place, pitch = corner, 0, width
            if rows == ROWS and width > lanes:
                _tile(left, source, inner, packed, panel, inner, target, place, pitch)
            elif rows == ROWS:
                _narrow_tile(left, source, inner, packed, panel, inner, target, place, pitch)
            elif width > lanes:
                _row(left, source, inner, packed, panel, inner, target, place, pitch)
            else:
                _narrow_row(left, source, inner, packed, panel, inner, target, place, pitch)
            if not fits:
                for j in range(rows):
                    for c in range(column, columns):
                        out[start + r + j, c] = corner[j * width + c - column]
            r += rows
        panel += inner * width
