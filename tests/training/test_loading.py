"""Workers that read samples must end with the program, however it ends."""

import subprocess
import sys

import pytest

from tests.runs import environment

KEPT_ALIVE = """
import gc
gc.disable()
from lib.training.loading import load_batches
batches = load_batches(list(range(100)), [[i] for i in range(100)], sum, workers=1)
first = next(batches)
{left}
print("first batch", first, flush=True)
"""


@pytest.mark.parametrize("left", ["batches.close()", "cycle = [batches]; cycle.append(cycle); del cycle, batches"])
def test_a_program_ends_though_its_batches_were_left_before_their_end(left):
    """In the second case the garbage holds the loader to the very end, as a traceback kept by a library may."""
    done = subprocess.run(
        [sys.executable, "-c", KEPT_ALIVE.format(left=left)],
        env=environment(),
        timeout=100,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "first batch 0\n"
