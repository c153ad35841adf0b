"""Matrix products of the compiled CPU path, for other compiled loops to call.

A library's product would be called from Python, which takes Python's lock between the pieces that fit a core's cache;
it leaves such pieces for every other thread to wait for, and the narrow matrices of these networks far from the
processor's limit.
"""

import weakref
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import numpy as np
from torch import Tensor, nn

from lib.ops.compiled import compiled
from lib.ops.tile import ROWS, VECTOR, product_tile

T = TypeVar("T")
_tile, _narrow_tile = product_tile(ROWS, 2), product_tile(ROWS, 1)
_row, _narrow_row = product_tile(1, 2), product_tile(1, 1)


def kept(arrange: Callable[..., T]) -> Callable[..., T]:
    """A decorator of what brings tensors of a layer in CPU memory into the form that compiled loops read.

    Those of a frozen network (the first is a parameter, and none requires a gradient) are arranged once, and again when
    torch has changed one in place. They must not be written to behind torch's back, through ``.data`` or ``.numpy()``.
    """
    known: dict[int, tuple] = {}  # by the first tensor: (each tensor, its version, its address), the result, options

    @wraps(arrange)
    def keep(*tensors: Tensor, **options: float) -> T:
        first = tensors[0]
        for tensor in tensors:  # inference tensors do not count their changes
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
def pack(matrix: Tensor) -> np.ndarray:
    """A layer's matrix (D, C) in CPU memory, float32 or float64, in the order in which ``multiply`` reads it."""
    return _panels(matrix.detach().contiguous().numpy())


@kept
def pack_layer(matrix: Tensor, bias: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (D, C) and bias (D) of a linear layer: the first as by ``pack``."""
    return pack(matrix), bias.detach().contiguous().numpy()


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
