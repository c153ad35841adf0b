"""Which implementation of the point operations runs: one process-wide choice, made by ``--ops``.

``reference``
    The readable twins of ``reference.py``: plain torch, any device, slow. The oracle of every test.
``fast``
    On a CPU: KD-trees (scipy) and compiled loops (numba). CUDA tensors take the torch twins until
    there are kernels under ``csrc/``.
``auto``
    The quickest there is for the tensors at hand; today the same as ``fast``.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lib.ops.errors import InputError

BACKENDS = ("auto", "fast", "reference")
_chosen = "auto"


def set_backend(name: str) -> None:
    """Chooses the implementation for the whole process; ``name`` is one of ``BACKENDS``.

    Raises InputError for another name.
    """
    global _chosen
    if name not in BACKENDS:
        raise InputError(f"ops: unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    _chosen = name


def get_backend() -> str:
    """The name last given to ``set_backend``; ``auto`` at start."""
    return _chosen


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the ``with`` block the named backend is the chosen one."""
    before = _chosen
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def runs_compiled(*tensors: Tensor) -> bool:
    """True when the compiled CPU path is to take these tensors: floats of 32 or 64 bits in CPU memory."""
    if _chosen == "reference":
        return False
    return all(t.device.type == "cpu" and t.dtype in (torch.float32, torch.float64) for t in tensors)


def full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Inside ``torch.autocast`` the layers around hand over 16-bit features: sums over neighbours take 32 bits."""
    if not torch.is_autocast_enabled(tensors[0].device.type):
        return tensors
    return tuple(t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in tensors)
