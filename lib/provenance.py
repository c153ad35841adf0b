"""Where a number comes from: code version, library versions, machine and command line."""

import os
import platform
import shlex
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

PROJECT_ROOT = Path(__file__).resolve().parents[1]
COMPILERS = ("numba", "llvmlite", "cuda-core", "nvidia-cuda-nvrtc")  # packages that make the point operations


def provenance() -> dict[str, Any]:
    """A JSON-able record of this process: git commit, versions, machine, command line and time (UTC).

    The GPU is torch's current one; the scripts make that the one of --device.
    """
    return {
        "git": git_commit(),
        "command": shlex.join(["python", *sys.argv]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "cuda": torch.version.cuda,
            **{name: package_version(name) for name in COMPILERS},
        },
        "machine": {
            "system": platform.platform(),
            "cpu": _cpu_name(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def package_version(package: str) -> str | None:
    """The version of an installed package, by its name on PyPI; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The project's commit, with "-modified" when tracked files differ from it.

    Outside a git repository what GIT_COMMIT says, which the container's build sets; None where that is not set either.
    """
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("-modified" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("GIT_COMMIT") or None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PROJECT_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
