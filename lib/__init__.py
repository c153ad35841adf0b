"""Everything the scripts share: data, losses, metrics, the training engine, and below them all the point operations."""

import ctypes
import os

# Read by the OpenMP runtime when torch is first imported, so it stands before every other import of a script. Idle
# threads that spin would take the cores from the compiled loops that run between torch's operators.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# glibc hands the memory of a large freed tensor back to the system at once, and the next one costs a page fault every
# 4 KiB, 3000 of them an inference. So much is kept instead. Other C libraries have no such switch, and whoever sets a
# MALLOC_ variable has made another choice.
_KEPT = {-3: 32 << 20, -1: 256 << 20, -2: 64 << 20}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD: bytes
_mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
if _mallopt and not any(name.startswith("MALLOC_") for name in os.environ):
    for _switch, _bytes in _KEPT.items():
        _mallopt(_switch, _bytes)
