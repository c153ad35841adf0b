"""A kernel launch as plain data: one description for the CUDA driver and for the tests that run kernels on a CPU."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from lib.errors import InputError
from lib.ops.cuda import program

SCALARS = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat16"}
MAX_GRID = (2**31 - 1, 65535)
ROWS = 256  # threads of a block where a thread takes one value


@dataclass(frozen=True)
class Launch:
    """One kernel launch. Every argument is 8 bytes wide: a tensor's address, a 64-bit integer, None for no tensor."""

    source: str  # csrc/<source>.cu
    kernel: str  # a template instance of that file, listed in ``program.KERNELS``
    grid: tuple[int, int]  # blocks
    block: int  # threads
    args: tuple[Tensor | int | None, ...]
    cluster: int = 1  # neighbouring blocks that share their memory; above 1 from compute capability 9.0 on

    def error(self, what: str) -> InputError:
        """What stops this launch, under the kernel's name and with the shapes of its tensors."""
        shapes = ", ".join(str(tuple(a.shape)) for a in self.args if isinstance(a, Tensor))
        return InputError(f"{self.kernel.partition('<')[0]}: {what}; tensors of shapes {shapes}")


@dataclass(frozen=True)
class Hardware:
    """What the shape of a launch depends on."""

    capability: int  # 10 major + minor
    processors: int


@cache
def hardware(device: torch.device) -> Hardware:
    """Compute capability and number of multiprocessors of a GPU."""
    properties = torch.cuda.get_device_properties(device)
    return Hardware(10 * properties.major + properties.minor, properties.multi_processor_count)


def run(launch: Launch) -> None:
    """Queues the launch on the current stream of its tensors' device; an empty grid is nothing to do.

    Raises InputError for tensors that are not on a GPU and for sizes beyond what a grid can hold.
    """
    if 0 in launch.grid:
        return
    if any(size > limit for size, limit in zip(launch.grid, MAX_GRID, strict=True)):
        raise launch.error(f"too large for one launch: {launch.grid} blocks")
    tensors = [a for a in launch.args if isinstance(a, Tensor)]
    device = tensors[0].device
    if any(t.device != device or not t.is_contiguous() for t in tensors):
        raise launch.error("tensors must be contiguous and on one device")
    execute(launch, device)


def execute(launch: Launch, device: torch.device) -> None:
    """Compiles the kernel where needed and launches it."""
    if device.type != "cuda":
        raise launch.error(f"CUDA kernels need tensors on a GPU, got {device}")
    arguments = [a.data_ptr() if isinstance(a, Tensor) else a or 0 for a in launch.args]
    with torch.cuda.device(device):
        program.bind(device.index)
        kernel = program.load(launch.source, launch.kernel, hardware(device).capability)
        stream = torch.cuda.current_stream(device).cuda_stream
        program.start(kernel, stream, launch.grid, launch.block, launch.cluster, arguments)


def blocks(total: int, per_block: int = ROWS) -> int:
    """Blocks that cover ``total``."""
    return -(-total // per_block)


def instance(template: str, dtype: torch.dtype, *constants: int) -> str:
    """The C++ name of a template instance: ("knn", torch.float32, 2) -> "knn<float, 2>"."""
    return f"{template}<{', '.join([SCALARS[dtype], *map(str, constants)])}>"
