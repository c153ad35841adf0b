"""Threads for the compiled CPU path.

Compiled loops and scipy's KD-trees release Python's lock, so plain Python threads run them side by side. Inside those
threads torch's own operators are single-threaded: two layers of threads would fight for the same cores.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import TypeVar

import torch

T = TypeVar("T")


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="point-ops", initializer=torch.set_num_threads, initargs=(1,))
    list(pool.map(lambda _: None, range(workers)))
    torch.set_num_threads(workers)  # the count is kept per thread, but new threads inherit the last one set anywhere
    return pool


def run_side_by_side(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Runs the tasks on as many threads as torch uses and returns their results in order; errors are raised here."""
    workers = torch.get_num_threads()
    if workers == 1 or len(tasks) < 2:
        return [task() for task in tasks]
    return list(_pool(workers).map(lambda task: task(), tasks))


def split_range(total: int) -> list[tuple[int, int]]:
    """Cuts 0..total into one contiguous (start, stop) a thread; empty pieces are left out."""
    parts = torch.get_num_threads()
    cuts = [total * i // parts for i in range(parts + 1)]
    return [(a, b) for a, b in pairwise(cuts) if a < b]


def run_in_ranges(task: Callable[[int, int], T], total: int) -> list[T]:
    """``task(start, stop)`` over 0..total, one contiguous range a thread; the results in order of the ranges."""
    return run_side_by_side([lambda a=a, b=b: task(a, b) for a, b in split_range(total)])
