"""Runs launches of lib.ops.cuda on a CPU: the same .cu files, grids and arguments, compiled by the host's compiler."""

import ctypes
import hashlib
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from lib.ops.cuda.launch import Launch
from lib.ops.cuda.program import CSRC, KERNELS

HERE = Path(__file__).resolve().parent
COMPILER = shutil.which("g++")
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-w", f"-I{HERE}", f"-I{CSRC}"]
ENTRY = """extern "C" const char* run_{number}(unsigned x, unsigned y, unsigned threads, unsigned cluster, bool falling,
void** arguments) {{ return host::launch({kernel}, {{x, y, 1}}, threads, cluster, falling, arguments); }}
"""


class Emulator:
    """Compiles each source once, on demand; ``execute`` takes the place of ``lib.ops.cuda.launch.execute``.

    falling: the threads of a block take turns from the last to the first.
    """

    def __init__(self, folder: Path, arch: int = 900) -> None:
        self.folder, self.arch, self.falling = folder, arch, False
        self.launches: list[Launch] = []

    def execute(self, launch: Launch, device: torch.device) -> None:
        self.launches.append(launch)
        library = self._library(launch.source)
        run = getattr(library, f"run_{KERNELS[launch.source].index(launch.kernel)}")
        run.restype = ctypes.c_char_p
        values = [ctypes.c_longlong(a.data_ptr() if isinstance(a, Tensor) else a or 0) for a in launch.args]
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        failure = run(*launch.grid, launch.block, launch.cluster, ctypes.c_bool(self.falling), addresses)
        if failure:
            raise RuntimeError(f"{launch.kernel}: {failure.decode()}")

    def _library(self, source: str) -> ctypes.CDLL:
        entries = "".join(ENTRY.format(number=i, kernel=kernel) for i, kernel in enumerate(KERNELS[source]))
        text = f'#include "cuda_on_host.h"\n#include "{source}.cu"\n{entries}'
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        path = self.folder / f"{source}-{self.arch}-{key}.so"
        if not path.exists():
            code = path.with_suffix(".cpp")
            code.write_text(text)
            subprocess.run([COMPILER, *FLAGS, f"-D__CUDA_ARCH__={self.arch}", str(code), "-o", str(path)], check=True)
        return ctypes.CDLL(str(path))
