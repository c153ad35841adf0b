"""Compiling the loops of the CPU path."""

from collections.abc import Callable

import numba


def compiled(fastmath: bool | set[str] = False) -> Callable[[Callable], Callable]:
    """A decorator: numba compiles the function at its first call, and it runs without Python's lock.

    The machine code is kept on disk for later processes. Where there is no folder to write it to (a read-only image),
    each process compiles anew. fastmath names the rules of rounding that a loop may bend, as LLVM calls them.
    """

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(nogil=True, cache=True, fastmath=fastmath)(function)
        except RuntimeError:  # numba: "cannot cache function: no locator available"
            return numba.njit(nogil=True, fastmath=fastmath)(function)

    return decorate
