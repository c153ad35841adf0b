"""Compiling the loops of the CPU path."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from lib.errors import InputError

try:
    import numba
except ModuleNotFoundError:  # a machine that runs the CUDA kernels, or the readable twins, does without
    numba = None


def compiled(fastmath: bool | set[str] = False) -> Callable[[Callable], Callable]:
    """A decorator: numba compiles the function at its first call, and it runs without Python's lock.

    The machine code is kept on disk for later processes. Where there is no folder to write it to (a read-only image),
    each process compiles anew. fastmath names the rules of rounding that a loop may bend, as LLVM calls them.
    """

    def decorate(function: Callable) -> Callable:
        if numba is None:
            return _refusing(function)
        try:
            return numba.njit(nogil=True, cache=True, fastmath=fastmath)(function)
        except RuntimeError:  # numba: "cannot cache function: no locator available"
            return numba.njit(nogil=True, fastmath=fastmath)(function)

    return decorate


def cpu_features() -> list[str]:
    """What the loops may use, as LLVM names it ("+avx512f"): all this processor has, unless numba is told otherwise."""
    from numba.core import codegen, config

    chosen = config.CPU_FEATURES  # of the environment
    return (codegen.get_host_cpu_features() if chosen is None else chosen).split(",")


def untraced(function: Callable) -> Callable:
    """A decorator: torch.compile goes round the function, as it cannot look into compiled loops and threads.

    Outside of it that costs less than ``torch.compiler.disable`` at every call.
    """
    hidden = torch.compiler.disable(function)

    @wraps(function)
    def run(*args: Any) -> Any:
        return hidden(*args) if torch.compiler.is_compiling() else function(*args)

    return run


def _refusing(function: Callable) -> Callable:
    @wraps(function)
    def refuse(*_args: Any) -> None:
        raise InputError("ops: the compiled CPU path needs numba: pip install numba, or choose --ops reference")

    return refuse
