"""Threads that stay awake for a moment between tasks, and work that is shared by several of them."""

import gc
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lib.ops.cpu.helper import Helper
from lib.ops.cpu.threads import run_in_ranges, run_side_by_side


@pytest.fixture
def helper():
    helper = Helper()
    yield helper
    helper.end()
    assert not helper._thread.is_alive()


@pytest.mark.parametrize("rest", [0, 0.05], ids=["awake", "asleep"])
def test_it_takes_one_task_after_another(helper, rest):
    done = []
    for number in range(20):
        time.sleep(rest)
        helper.give(lambda number=number: done.append(number))
        while len(done) == number:
            time.sleep(0)
        helper.finish()
    assert done == list(range(20))


@pytest.mark.parametrize("seconds", [0, 0.0005, 0.02])
def test_its_caller_may_have_to_wait(helper, seconds):
    begun, done = [], []
    helper.give(lambda: (begun.append(0), time.sleep(seconds), done.append(0)))
    while not begun:
        time.sleep(0)
    helper.finish()
    assert done == [0]


def test_a_task_that_is_not_done_by_the_end_never_will_be(helper):
    chance, done = random.Random(0), []
    for number in range(3000):
        helper.give(lambda number=number: done.append(number))
        if chance.random() < 0.5:
            time.sleep(chance.choice((0, 1e-5, 2e-3 if chance.random() < 0.05 else 0)))
        helper.finish()
        known = list(done)
        if chance.random() < 0.05:
            time.sleep(1e-4)
        assert done == known and done == sorted(set(done))
    assert 0 < len(done) <= 3000


@pytest.mark.parametrize("error", [IndexError, ValueError, KeyboardInterrupt])
def test_errors_are_the_callers_and_keep_nothing(helper, error):
    class Large:
        pass

    def give() -> weakref.ref:
        large, begun = Large(), []

        def fail() -> None:
            begun.append(large)
            raise error("from a task")

        helper.give(fail)
        while not begun:
            time.sleep(0)
        return weakref.ref(large)

    gc.disable()
    try:
        large = give()
        with pytest.raises(error, match="from a task") as raised:
            helper.finish()
        del raised
        assert large() is None
    finally:
        gc.enable()
    helper.give(lambda: None)
    helper.finish()


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_tasks_run_side_by_side_and_their_errors_come_out(torch_threads, threads):
    torch_threads(threads)

    def nested() -> list[int]:
        assert torch.get_num_threads() == 1
        return run_side_by_side([lambda: 1, lambda: 2, lambda: 3])

    def fail() -> None:
        raise ValueError("from a task")

    assert run_side_by_side([]) == []
    assert run_side_by_side([lambda n=n: time.sleep(0.002 * (n % 3)) or n for n in range(10)]) == list(range(10))
    if threads > 1:
        assert run_side_by_side([nested, nested]) == [[1, 2, 3]] * 2
    for tasks in ([fail, int], [int, fail], [int, int, int, fail]):
        with pytest.raises(ValueError, match="from a task"):
            run_side_by_side(tasks)
    assert torch.get_num_threads() == threads
    assert sorted(run_in_ranges(lambda a, b: (a, b), 7)) == run_in_ranges(lambda a, b: (a, b), 7)
    assert sum(b - a for a, b in run_in_ranges(lambda a, b: (a, b), 7, least=3)) == 7


def test_many_callers_at_a_time_all_come_to_an_end(torch_threads):
    callers = 64

    def caller(_: int) -> list[int]:
        torch_threads(4)
        return [sum(run_side_by_side([lambda n=n: time.sleep(0.001) or n for n in range(6)])) for _ in range(10)]

    with ThreadPoolExecutor(callers) as crowd:
        assert list(crowd.map(caller, range(callers), timeout=100)) == [[15] * 10] * callers


def test_a_forked_process_has_helpers_of_its_own(torch_threads):
    torch_threads(2)
    assert run_side_by_side([lambda: 1, lambda: 2]) == [1, 2]
    child = os.fork()
    if child == 0:
        os._exit(0 if run_side_by_side([lambda: 1, lambda: 2]) == [1, 2] else 1)
    deadline = time.monotonic() + 30
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(child, signal.SIGKILL)
    assert done == (child, 0)


def test_a_process_may_end_right_behind_a_task():
    code = (
        "import lib, torch; from lib.ops.cpu.threads import run_side_by_side; torch.set_num_threads(2);"
        "print(run_side_by_side([lambda: 1, lambda: 2]))"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[1, 2]\n", "")
