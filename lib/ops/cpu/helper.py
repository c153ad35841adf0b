"""Threads that take a task within microseconds of the one before.

A network's operations come one behind the other, and a thread that has gone to sleep in between wakes in about 0.1 ms.
So a helper, and the thread that waits for one, stay awake for a moment: they look at a counter in memory, in a compiled
loop that leaves Python's lock to other threads, and the core to other processes that want it. Only then do they sleep.
"""

import os
import threading
from collections import deque
from collections.abc import Callable

import numpy as np

from lib.ops.cpu.compiled import compiled, numba

ROUNDS = 1000  # looks at a counter: about 0.3 ms

if numba is None:
    _look = None  # the loop that calls it refuses to run
else:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic
    def _look(_typing, array, index):
        """Lets others have the core, if there are any; array[index] as another thread may just have left it."""

        def generate(context, builder, signature, arguments):
            if hasattr(os, "sched_yield"):
                give_way = ir.FunctionType(ir.IntType(32), [])
                builder.call(cgutils.get_or_insert_function(builder.module, give_way, "sched_yield"), [])
            values = context.make_array(signature.args[0])(context, builder, arguments[0])
            place = cgutils.get_item_pointer(context, builder, signature.args[0], values, [arguments[1]])
            return builder.load_atomic(place, "acquire", 8)

        return types.int64(array, types.intp), generate


@compiled()
def _await(counter: np.ndarray, value: int) -> bool:
    """Looks for a moment whether counter (1,) has reached the value."""
    for _ in range(ROUNDS):
        if _look(counter, 0) >= value:
            return True
    return False


class _Counter:
    """A number that one thread raises and another one awaits."""

    def __init__(self) -> None:
        self.value = np.zeros(1, np.int64)
        self._asleep = False
        self._bell = threading.Semaphore(0)

    def raise_to(self, value: int) -> None:
        self.value[0] = value
        if self._asleep:
            self._bell.release()

    def wait_for(self, value: int) -> None:
        if _await(self.value, value):
            return
        self._asleep = True  # from here on the bell is rung; it may have been for an earlier value
        while self.value[0] < value:
            self._bell.acquire()
        self._asleep = False


class Helper:
    """A thread of its own, for one task at a time."""

    def __init__(self) -> None:
        self._tasks: deque[Callable[[], None]] = deque()
        self._given, self._done = _Counter(), _Counter()
        self._number = 0  # of tasks given
        self._error: BaseException | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="point-ops", daemon=True)
        self._thread.start()

    def give(self, task: Callable[[], None]) -> None:
        """Runs the task; the one before must have been finished by ``finish``."""
        self._tasks.append(task)
        self._number += 1
        self._given.raise_to(self._number)

    def finish(self) -> None:
        """Waits for the task and raises its error. A task that has not begun is withdrawn and never runs."""
        try:
            self._tasks.pop()
        except IndexError:  # the helper has it
            self._done.wait_for(self._number)
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback refers to this frame, and the two would keep the task's tensors alive

    def end(self) -> None:
        """Ends the thread, which must have no task. Compiled code must not be running when Python takes it down."""
        self._ending = True
        self._given.raise_to(self._number + 1)
        self._thread.join()

    def _run(self) -> None:
        number = 1
        self._given.wait_for(number)
        while not self._ending:
            self._run_one()
            self._done.raise_to(number)
            number += 1
            self._given.wait_for(number)

    def _run_one(self) -> None:
        try:
            task = self._tasks.pop()
        except IndexError:  # taken back before it began
            return
        try:
            task()
        except BaseException as error:  # the caller's to handle
            self._error = error
