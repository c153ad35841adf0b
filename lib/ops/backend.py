"""Which implementation of the point operations runs: one process-wide choice, made by ``--ops``.

``reference``
    The readable twins of ``reference.py``: plain torch, any device, slow. The oracle of every test.
``fast``
    On a CPU: compiled loops (numba), matrix products among them. CUDA tensors take the torch twins.
``cuda``
    The kernels of ``csrc/``. Tensors that are not on a GPU are refused.
``auto``
    The quickest there is for the tensors at hand: ``cuda`` for CUDA tensors, else ``fast``.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops.cuda.program import cache_folder, nvrtc_version

BACKENDS = ("auto", "fast", "cuda", "reference")
COMPILED_TYPES = (torch.float32, torch.float64)
KERNEL_TYPES = (torch.float32, torch.float64, torch.bfloat16)
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
    for tensor in tensors:
        if not tensor.is_cpu or tensor.dtype not in COMPILED_TYPES:
            return False
    return True


def runs_inference(*tensors: Tensor) -> bool:
    """True when the compiled CPU path is to take these tensors, outside of autograd, autocast and torch.compile."""
    special = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return not special and runs_compiled(*tensors)


def runs_kernels(*tensors: Tensor) -> bool:
    """True when the CUDA kernels are to take these tensors: floats of 32 or 64 bits, or bfloat16, on a GPU.

    Raises InputError when ``cuda`` is chosen and the tensors are nothing for the kernels.
    """
    if _chosen not in ("auto", "cuda"):
        return False
    fit = all(t.is_cuda and t.dtype in KERNEL_TYPES for t in tensors)
    if _chosen == "cuda" and not fit:
        found = ", ".join(f"{t.dtype} on {t.device}" for t in tensors)
        raise InputError(f"--ops cuda takes float32, float64 or bfloat16 on a GPU, got {found}: use --ops auto")
    return fit


def describe_kernels(name: str, device: torch.device) -> str | None:
    """A line about the CUDA kernels that backend ``name`` runs on this device; None where it runs none.

    Raises InputError when they cannot run: another device, or a package that is missing.
    """
    if name == "cuda" and device.type != "cuda":
        raise InputError(f"--ops cuda needs a GPU and the device is {device}: use --ops auto, or --device cuda")
    if name not in ("auto", "cuda") or device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"ops: CUDA kernels by NVRTC {nvrtc_version()} for sm_{major}{minor}, kept in {cache_folder()}"


def full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Inside ``torch.autocast`` the layers around hand over 16-bit features: sums over neighbours take 32 bits."""
    if not torch.is_autocast_enabled(tensors[0].device.type):
        return tensors
    return tuple(t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in tensors)
