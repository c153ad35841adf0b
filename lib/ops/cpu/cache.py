"""Where the machine code of the compiled loops is kept on disk.

numba keeps the code of a loop until the loop's own file changes. But our loops use functions of other files: after a
change there, numba would run the old code. So each state of the sources has a folder of its own:

    <root>/point-ops-<this checkout>/<sources>-<environment>/

<sources> is a hash of every file that a loop may be made of. <environment> is a hash of the versions of numba and
llvmlite and of the processor's name and features. The root is ``NUMBA_CACHE_DIR``. Where that is not set, or cannot be
written, it is ``lib/ops/__pycache__``, and in a read-only checkout the folder of the compiled CUDA kernels.

Folders of other sources are removed. A process holds a lock on the folder it uses, so that none is removed under it.
"""

import hashlib
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from lib.ops.cuda.program import cache_folder

try:
    import fcntl
except ModuleNotFoundError:  # not a POSIX system
    fcntl = None

OPS = Path(__file__).resolve().parents[1]


@cache
def loops_folder() -> Path | None:
    """The folder of this process, made and locked; None where no root can be written. Needs numba."""
    from numba import config

    chosen = [Path(config.CACHE_DIR)] if config.CACHE_DIR else []
    for root in (*chosen, OPS / "__pycache__", cache_folder()):
        folder = root / f"point-ops-{_digest(str(OPS))}" / f"{sources_digest()}-{environment_digest()}"
        try:
            _hold(folder)
        except OSError:  # cannot be written
            continue
        _remove_other_sources(folder)
        return folder
    return None


def sources_digest() -> str:
    """A hash of the files that loops are made of: names and contents. Also of constants that they take from others."""
    files = sorted([*OPS.glob("*.py"), *OPS.glob("cpu/*.py")])
    return _digest(*(text for file in files for text in (file.name, file.read_text(encoding="utf-8"))))


def environment_digest() -> str:
    """A hash of what turns sources into machine code: numba, llvmlite (and its LLVM) and the processor."""
    import llvmlite
    import numba

    return _digest(numba.__version__, llvmlite.__version__, *processor())


def processor() -> tuple[str, str]:
    """The processor's name and its features as LLVM names them ("+avx512f,..."), unless numba is told otherwise."""
    from numba.core import codegen, config

    name, features = config.CPU_NAME, config.CPU_FEATURES  # of the environment
    return name or codegen.ll.get_host_cpu_name(), codegen.get_host_cpu_features() if features is None else features


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _hold(folder: Path) -> None:
    """Makes the folder and holds a shared lock on it until the process ends. Raises OSError where it cannot."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # it may exist and yet not be for writing
        if fcntl is None:
            return
        lock = os.open(folder, os.O_RDONLY)  # never closed: the lock ends with it
        if not _locked(lock, fcntl.LOCK_SH):
            return  # a file system without locks: nobody removes a folder there either
        if _is_still(folder, lock):
            return
        os.close(lock)  # removed by another process before it was locked


def _remove_other_sources(folder: Path) -> None:
    """Removes the folders beside this one that belong to other sources, unless a process holds them."""
    if fcntl is None:
        return
    sources = folder.name.split("-")[0]
    for other in folder.parent.iterdir():
        if other.name.split("-")[0] == sources:
            continue
        try:
            lock = os.open(other, os.O_RDONLY)
        except OSError:  # another process has just removed it
            continue
        try:
            if _locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(other, ignore_errors=True)
        finally:
            os.close(lock)


def _locked(file: int, kind: int) -> bool:
    """Whether the lock was to be had."""
    try:
        fcntl.flock(file, kind)
    except OSError:
        return False
    return True


def _is_still(folder: Path, opened: int) -> bool:
    """Whether the path leads to the folder that was opened, and not to none or a new one."""
    try:
        return os.path.samestat(os.stat(folder), os.fstat(opened))
    except FileNotFoundError:
        return False
