"""From a .cu file to a kernel that can be launched: NVRTC through NVIDIA's cuda-core, and a cache on disk.

A kernel is compiled at its first use, to machine code of the GPU at hand: no nvcc, no host compiler, no torch headers.
The cache lies in ``$POINT_OPS_CACHE``, else ``$XDG_CACHE_HOME/point-ops``, else ``~/.cache/point-ops``. Its key covers
the sources, the kernel, the architecture, the options and NVRTC's version; entries are written atomically and checked
when read, so a damaged one is compiled again. The folder may be removed at any time.
"""

import hashlib
import json
import os
import tempfile
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from lib.errors import InputError

CSRC = Path(__file__).resolve().parents[1] / "csrc"
HEADER = "common.cuh"
STANDARD = "c++17"
INSTALL = "pip install cuda-core nvidia-cuda-nvrtc, or choose --ops reference"

ALL = ("float", "double", "bfloat16")
COORDINATES = ("float", "double")


def _instances(*templates: str, scalars: tuple[str, ...]) -> list[str]:
    return [f"{template}<{scalar}>" for template in templates for scalar in scalars]


# source -> every kernel that the operations may ask of it
KERNELS = {
    "furthest_point_sample": [
        "furthest_point_sample<float, 4>",
        "furthest_point_sample<float, 16>",
        "furthest_point_sample<double, 4>",
        "furthest_point_sample<double, 8>",
        *_instances("furthest_point_sample_large", scalars=COORDINATES),
    ],
    "knn": [f"knn<{scalar}, {queries}>" for scalar in COORDINATES for queries in (1, 2, 4)],
    "gather": _instances("gather", "sum_edges", scalars=ALL),
    "interpolate": [
        *_instances("weighted_sum", "weighted_sum_backward", scalars=ALL),
        *_instances("inverse_distance_weights", "inverse_distance_backward", scalars=COORDINATES),
    ],
    "flow_embedding": [
        *(f"flow_embedding<{scalar}, 32>" for scalar in ALL),
        "flow_embedding<float, 64>",
        "flow_embedding<bfloat16, 64>",
        *_instances("flow_embedding_edges", "flow_embedding_matrix", scalars=ALL),
    ],
    "boxes": ["box_iou", "nms_bits", "nms_keep"],
    "pointconv": _instances("pointconv", "pointconv_backward", scalars=ALL),
}


class Binary(NamedTuple):
    """Machine code of one kernel and the kernel's name in it."""

    symbol: str
    code: bytes


@cache
def core() -> ModuleType:
    """NVIDIA's ``cuda.core``. Raises InputError naming the package that is missing or too old."""
    try:
        import cuda.core
    except ModuleNotFoundError:
        raise InputError(f"ops: the CUDA kernels need the package cuda-core: {INSTALL}") from None
    if not hasattr(cuda.core, "Program"):
        raise InputError(f"ops: the installed cuda-core is too old, 1.0 or later is needed: {INSTALL}")
    return cuda.core


@cache
def nvrtc_version() -> str:
    """Version of the runtime compiler, as "13.0". Raises InputError naming the package where there is none."""
    core()
    try:
        from cuda.bindings import nvrtc

        status, major, minor = nvrtc.nvrtcVersion()
    except (ModuleNotFoundError, RuntimeError):  # the second: cuda-pathfinder does not find the library
        raise InputError(f"ops: the CUDA kernels need NVRTC, package nvidia-cuda-nvrtc: {INSTALL}") from None
    if int(status):
        raise RuntimeError(f"NVRTC does not tell its version: {status}")
    return f"{major}.{minor}"


def compile_kernels(source: str, kernels: list[str], arch: str, log: Any = None, **options: Any) -> dict[str, Binary]:
    """Compiles instances of csrc/<source>.cu for ``arch`` (as "sm_90"): kernel -> one binary that holds them all.

    log: a text stream for the compiler's messages; options go to cuda-core's ProgramOptions. A source that does not
    compile raises cuda-core's own error, with NVRTC's messages in it.
    """
    nvrtc_version()
    settings = core().ProgramOptions(std=STANDARD, arch=arch, include_path=[str(CSRC)], **options)
    program = core().Program((CSRC / f"{source}.cu").read_text(), "c++", settings)
    built = program.compile("cubin", name_expressions=tuple(kernels), logs=log)
    names = {name: symbol.decode() for name, symbol in built.symbol_mapping.items()}
    return {kernel: Binary(names[kernel], bytes(built.code)) for kernel in kernels}


def cached_binary(source: str, kernel: str, arch: str) -> Binary:
    """The kernel's machine code from the cache, or compiled now and put there."""
    path = cache_folder() / f"{source}-{_key(source, kernel, arch)}.cubin"
    binary = _read(path)
    if binary is None:
        binary = compile_kernels(source, [kernel], arch)[kernel]
        _write(path, binary)
    return binary


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    chosen = os.environ.get("POINT_OPS_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "point-ops"


def _key(source: str, kernel: str, arch: str) -> str:
    parts = [(CSRC / HEADER).read_text(), (CSRC / f"{source}.cu").read_text(), kernel, arch, STANDARD, nvrtc_version()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _read(path: Path) -> Binary | None:
    """The entry, or None where it is missing or damaged. It is one line of JSON, then the machine code."""
    try:
        line, _, code = path.read_bytes().partition(b"\n")
        facts = json.loads(line)
        if facts["sha256"] == hashlib.sha256(code).hexdigest():
            return Binary(facts["symbol"], code)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(path: Path, binary: Binary) -> None:
    line = json.dumps({"symbol": binary.symbol, "sha256": hashlib.sha256(binary.code).hexdigest()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(line.encode() + b"\n" + binary.code)
        os.replace(file.name, path)
    except OSError as error:
        warnings.warn(
            f"ops: compiled CUDA kernels cannot be kept in {path.parent} ({error.strerror}): set POINT_OPS_CACHE to a "
            f"folder that can be written",
            stacklevel=2,
        )


@cache
def load(source: str, kernel: str, capability: int) -> Any:
    """The kernel, ready for a GPU of this compute capability (10 major + minor); loaded once a process."""
    binary = cached_binary(source, kernel, f"sm_{capability}")
    return core().ObjectCode.from_cubin(binary.code).get_kernel(binary.symbol)


def bind(gpu: int) -> None:
    """Makes the primary context of a GPU, torch's own, the current one of the calling thread.

    A thread that has not called CUDA yet has no context, and the driver then launches nothing. Autograd's thread at the
    first backward is one. ``torch.cuda.device`` gives it no context where the GPU is number 0.
    """
    core().Device(gpu).set_current()


def start(kernel: Any, stream: int, grid: tuple[int, int], block: int, cluster: int, arguments: list[int]) -> None:
    """Queues a loaded kernel on a stream of the current device; arguments are addresses and 64-bit integers."""
    # cuda-core counts clusters, not blocks, in the grid of a launch with clusters.
    shape = {"cluster": cluster} if cluster > 1 else {}
    config = core().LaunchConfig(grid=(grid[0] // cluster, grid[1]), block=block, **shape)
    core().launch(core().Stream.from_handle(stream), config, kernel, *arguments)
