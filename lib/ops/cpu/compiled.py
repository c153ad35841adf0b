"""Compiling the loops of the CPU path."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops.cpu.cache import loops_folder, processor

try:
    import numba
except ModuleNotFoundError:  # a machine that runs the CUDA kernels, or the readable twins, does without
    numba = None


def compiled(fastmath: bool | set[str] = False) -> Callable[[Callable], Callable]:
    """A decorator: numba compiles the function at its first call, and it runs without Python's lock.

    The machine code is kept on disk for later processes (``cache.py``). Where no folder can be written, each process
    compiles anew. fastmath names the rules of rounding that a loop may bend, as LLVM calls them.
    """

    def decorate(function: Callable) -> Callable:
        if numba is None:
            return _refusing(function)
        folder = None if numba.config.DISABLE_JIT else loops_folder()
        loop = _kept_loop(function, fastmath, folder) if folder else None
        return numba.njit(nogil=True, fastmath=fastmath)(function) if loop is None else loop

    return decorate


def _kept_loop(function: Callable, fastmath: bool | set[str], folder: Path) -> Callable | None:
    """The loop with its machine code kept in the folder; None where numba chose another place, which may be stale."""
    chosen = numba.config.CACHE_DIR  # set back below: other functions than ours belong there
    numba.config.CACHE_DIR = str(folder)
    try:
        loop = numba.njit(nogil=True, cache=True, fastmath=fastmath)(function)
    except RuntimeError:  # numba: "cannot cache function: no locator available"
        return None
    finally:
        numba.config.CACHE_DIR = chosen
    return loop if Path(loop.stats.cache_path).is_relative_to(folder) else None


def cpu_features() -> list[str]:
    """What the loops may use, as LLVM names it ("+avx512f"): all this processor has, unless numba is told otherwise."""
    return processor()[1].split(",")


def untraced(function: Callable) -> Callable:
    """A decorator: torch.compile goes round the function, as it cannot look into compiled loops and threads.

    Outside of it that costs less than ``torch.compiler.disable`` at every call.
    """
    hidden = torch.compiler.disable(function)

    @wraps(function)
    def run(*args: Any) -> Any:
        return hidden(*args) if torch.compiler.is_compiling() else function(*args)

    return run


class CompiledFunction(torch.autograd.Function):
    """An operation with compiled loops in its forward and backward, and so with its own gradient."""

    @classmethod
    def run(cls, *args: Any) -> Tensor:
        """``apply``, which torch.compile goes round."""
        return _apply(cls, *args)


@untraced
def _apply(function: type[CompiledFunction], *args: Any) -> Tensor:
    return function.apply(*args)


def _refusing(function: Callable) -> Callable:
    @wraps(function)
    def refuse(*_args: Any) -> None:
        raise InputError("ops: the compiled CPU path needs numba: pip install numba, or choose --ops reference")

    return refuse
