"""Threads that stay awake for a moment between tasks."""

import gc
import random
import subprocess
import sys
import time
import weakref

import pytest

from lib.ops.helper import Helper


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


def test_a_process_may_end_right_behind_a_task():
    code = (
        "import lib, torch; from lib.ops.threads import run_side_by_side; torch.set_num_threads(2);"
        "print(run_side_by_side([lambda: 1, lambda: 2]))"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[1, 2]\n", "")
