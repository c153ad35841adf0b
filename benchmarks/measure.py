"""Measuring: time, peak memory and the machine's own best rate."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lib.errors import InputError
from lib.ops.cpu.product import multiply, pack_matrix
from lib.ops.cpu.threads import run_in_ranges
from lib.provenance import PROJECT_ROOT
from lib.training.device import synchronise

WARM_UP = {"cpu": 3, "cuda": 5}  # calls: loops and kernels to compile, memory to come by, clocks to raise
CALLS = 20  # in a CUDA graph: its own launch is shared by so many
PRODUCTS = ((2048, 2048, 2048), (8192, 2048, 128))  # rows, inner, columns: a large square and a layer of the network


def timed(call: Callable[[], Any], device: torch.device, repeats: int, warm_up: bool = True) -> dict[str, Any]:
    """Seconds of ``call`` with the device synchronised: median, quartiles and every single one, after a warm-up."""
    for _ in range(WARM_UP[device.type] if warm_up else 0):
        call()
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return spread(seconds)


def alternately(calls: dict[str, Callable[[], Any]], device: torch.device, repeats: int) -> dict[str, dict[str, Any]]:
    """``timed`` for several calls in turns, so that a slow moment of the machine meets them all."""
    for call in calls.values():
        for _ in range(WARM_UP[device.type]):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name] += timed(call, device, 1, warm_up=False)["all"]
    return {name: spread(values) for name, values in seconds.items()}


def timed_on_gpu(call: Callable[[], Any], device: torch.device, repeats: int) -> dict[str, Any]:
    """Seconds that the kernels of ``call`` take on a GPU, as ``timed``, without Python, checks and launches.

    A CUDA graph holds ``CALLS`` calls and runs between two events; the time is a call's share. What ``call`` reads
    stays where it is, and nothing in it may wait for the GPU (the checks of ``lib.ops`` leave that out in a capture).
    """
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP["cuda"]):
            call()
    stream.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(CALLS):
            call()
    seconds = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        graph.replay()  # while it runs, the rest is queued: the GPU does not wait between the events
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3 / CALLS)  # from milliseconds
    return spread(seconds)


def spread(seconds: list[float]) -> dict[str, Any]:
    """Median, quartiles and all values."""
    low, median, high = np.percentile(seconds, [25, 50, 75]).tolist()
    return {"median_seconds": median, "quartiles": [low, high], "all": seconds}


def best_product_rate(device: torch.device) -> float:
    """FLOP/s of the quickest float32 matrix product: the largest of two shapes and the roads of ``_product_roads``."""
    rates = []
    for rows, inner, columns in PRODUCTS:
        left, right = torch.randn(rows, inner, device=device), torch.randn(columns, inner, device=device)
        for road in alternately(_product_roads(left, right), device, 9).values():
            rates.append(2 * rows * inner * columns / road["median_seconds"])
    return max(rates)


def _product_roads(left: torch.Tensor, right: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Ways to left (R, C) times right (D, C) transposed: BLAS, a convolution, on a CPU also a product a thread."""
    image, kernel = left.T.reshape(1, left.shape[1], 1, -1), right[:, :, None, None]  # (1, C, 1, R), (D, C, 1, 1)
    image = image.contiguous(memory_format=torch.channels_last)
    roads = {"blas": lambda: left @ right.T, "convolution": lambda: F.conv2d(image, kernel)}
    if left.device.type == "cpu":
        args = left.numpy(), pack_matrix(right), np.empty((len(left), len(right)), np.float32)
        roads["ours, a product a thread"] = lambda: run_in_ranges(lambda *rows: _product(*args, *rows), len(left))
    return roads


def _product(left: np.ndarray, packed: np.ndarray, out: np.ndarray, start: int, stop: int) -> None:
    multiply(left, start, packed, out, start, stop - start)


def in_fresh_process(**task: Any) -> dict[str, Any]:
    """Runs one task of ``benchmarks/probe.py`` in its own process, so that its peak memory is its own.

    Raises InputError when that process fails, with its last line.
    """
    command = [sys.executable, "-m", "benchmarks.probe", json.dumps(task)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or f"ended with status {done.returncode} (out of memory?)").splitlines()[-1]
        raise InputError(f"measuring {task['work']} of {task['network']} at {task['points']} points failed: {last}")
    return json.loads(done.stdout)
