"""Threads for the compiled CPU path.

Compiled loops release Python's lock, so plain Python threads run them side by side. The calling thread does a part
itself: that is one thread less to wake. In all these threads torch's own operators use one thread only, as two layers
of threads would compete for the same cores.
"""

import atexit
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch

from lib.ops.cpu.compiled import untraced
from lib.ops.cpu.helper import Helper

T = TypeVar("T")
WORTH_A_THREAD = 512  # rows of an operation that does little for each: about 10 us
_idle: list[Helper] = []  # helpers without a task
os.register_at_fork(after_in_child=_idle.clear)  # a forked process has none of the threads


def _call_helper() -> Helper:
    try:
        return _idle.pop()
    except IndexError:
        return Helper()


@atexit.register
def _send_home() -> None:
    while _idle:
        _idle.pop().end()


@untraced
def run_side_by_side(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Runs the tasks on as many threads as torch uses and returns their results in order; errors are raised here."""
    workers = torch.get_num_threads()
    if workers == 1 or len(tasks) < 2:
        return [task() for task in tasks]
    waiting, results = deque(enumerate(tasks)), {}

    def work() -> None:
        torch.set_num_threads(1)  # of this thread, and until the caller's is set again of threads started meanwhile
        while waiting:
            try:
                number, task = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            results[number] = task()

    helpers = [_call_helper() for _ in range(min(workers, len(tasks)) - 1)]
    for helper in helpers:
        helper.give(work)
    with ExitStack() as last:
        last.callback(torch.set_num_threads, workers)
        for helper in helpers:  # waited for also after an error: they write into tensors of the caller
            last.callback(_idle.append, helper)
            last.callback(helper.finish)
        work()
    return [results[number] for number in range(len(tasks))]


def split_range(total: int, least: int = 1) -> list[tuple[int, int]]:
    """Cuts 0..total into one contiguous (start, stop) a thread, or fewer, so that each holds ``least`` at least."""
    parts = min(torch.get_num_threads(), max(1, total // least))
    cuts = [total * i // parts for i in range(parts + 1)]
    return [(a, b) for a, b in pairwise(cuts) if a < b]


def run_in_ranges(task: Callable[[int, int], T], total: int, least: int = 1) -> list[T]:
    """``task(start, stop)`` over 0..total, one contiguous range a thread; the results in order of the ranges.

    least: how many are worth another thread, which may take 0.1 ms to wake.
    """
    return run_side_by_side([partial(task, start, stop) for start, stop in split_range(total, least)])
