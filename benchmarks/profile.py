"""Where the time of an inference goes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from lib import ops

OPERATIONS = (
    "pointconv_layer",
    "flow_embedding",
    "linear",
    "mlp",
    "knn_each",
    "furthest_point_sample",
    "weighted_sum",
    "append_weighted_sum",
    "inverse_distance_weights",
    "add_linear",
    "neighbour_offsets",
    "gather",
    "join",
)


def on_one_thread(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Seconds of ``call`` on a single CPU thread: in each operation of ``lib.ops``, in all else, in all; medians.

    What several threads could make of it at best is the total divided by their number.
    """
    rows = []
    with _one_thread(), ExitStack() as stack:
        seconds: dict[str, float] = defaultdict(float)
        for name in OPERATIONS:
            stack.enter_context(patch.object(ops, name, _clocked(getattr(ops, name), name, seconds)))
        call()
        for _ in range(repeats):
            seconds.clear()
            start = time.perf_counter()
            call()
            total = time.perf_counter() - start
            rows.append({name: seconds[name] for name in OPERATIONS} | {"total": total})
    medians = {name: median(row[name] for row in rows) for name in (*OPERATIONS, "total")}
    return medians | {"all else": median(row["total"] - sum(row[name] for name in OPERATIONS) for row in rows)}


def _clocked(operation: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def run(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = operation(*args, **options)
        seconds[name] += time.perf_counter() - start
        return result

    return run


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
