"""Compiled loops that are kept on disk: never those of other sources, and nothing is left behind."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from lib.ops.cpu import cache
from tests.runs import ROOT

WEIGHTS = """
import sys, torch
from lib import ops
from lib.ops.cpu.cache import loops_folder
far, index = torch.tensor([[[0.1, 0, 0], [0.3, 0, 0]]]), torch.tensor([[[0, 1]]])
with torch.inference_mode():
    weights = ops.inverse_distance_weights(torch.zeros(1, 1, 3), far, index)
loop = sys.modules["lib.ops.cpu.interpolate"].weights_forward
print([round(weight, 4) for weight in weights[0, 0].tolist()], sum(loop.stats.cache_hits.values()), loops_folder())
"""
EMBEDDING = """
import torch
from lib import ops
index, one = torch.zeros(1, 1, 2, dtype=torch.int64), torch.ones(1, 1)
with torch.inference_mode():  # LeakyReLU(LeakyReLU(4 + 1))
    print(ops.flow_embedding(4 * one[None], one[None], index, one, one[0] - 1).item())
"""


def run(checkout: Path, code: str, **environment: str) -> str:
    """What the code prints in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    command, environment = [sys.executable, "-c", code], {**kept, **environment}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run_weights(checkout: Path, **environment: str) -> tuple[str, int, Path]:
    """The weights, how often their loop came from disk, and the folder of the loops."""
    found = re.fullmatch(r"(\[.*\]) (\d) (.*)", run(checkout, WEIGHTS, **environment))
    return found[1], int(found[2]), Path(found[3])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of lib/ without machine code."""
    shutil.copytree(ROOT / "lib", tmp_path / "checkout/lib", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "checkout"


def test_a_changed_constant_of_another_file_reaches_the_loop(checkout):
    weights, hits, folder = run_weights(checkout)
    assert (weights, hits) == ("[0.75, 0.25]", 0)
    assert folder.is_relative_to(checkout / "lib/ops/__pycache__")
    assert run_weights(checkout) == (weights, 1, folder)
    edit(checkout / "lib/ops/reference.py", "MIN_DISTANCE = 1e-10", "MIN_DISTANCE = 1.0")
    *found, other = run_weights(checkout)
    assert found == ["[0.5, 0.5]", 0]
    assert list(folder.parent.iterdir()) == [other]


def test_a_changed_instruction_of_another_file_reaches_the_loop(checkout):
    assert run(checkout, EMBEDDING) == "5.0"
    edit(checkout / "lib/ops/cpu/instructions.py", "value = builder.fadd(", "value = builder.fsub(")
    assert run(checkout, EMBEDDING) == "3.0"


def test_a_folder_that_another_process_uses_is_left_until_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    make = cache.loops_folder.__wrapped__
    mine = make()
    used, unused = mine.with_name("0ld-1"), mine.with_name("0lder-1")
    elsewhere = mine.with_name(mine.name.split("-")[0] + "-other")  # the same sources on another processor
    for folder in (used, unused, elsewhere):
        folder.mkdir()
        (folder / "loop.nbi").touch()
    holder = os.open(used, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_SH)
    assert make() == mine
    assert set(mine.parent.iterdir()) == {mine, used, elsewhere}
    os.close(holder)
    assert make() == mine
    assert set(mine.parent.iterdir()) == {mine, elsewhere}


def test_a_folder_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    asked = []

    def remove_first(folder: int, kind: int) -> bool:
        asked.append(kind)
        if len(asked) == 1:
            (tmp_path / "loops").rmdir()
        return True

    monkeypatch.setattr(cache, "_locked", remove_first)
    cache._hold(tmp_path / "loops")
    assert (tmp_path / "loops").is_dir() and len(asked) == 2


@pytest.mark.parametrize("writable", [True, False])
def test_a_checkout_that_is_only_for_reading(checkout, tmp_path, writable):
    (checkout / "lib/ops/__pycache__").touch()  # a file: no folder can be made there, by no user
    home = tmp_path / "cache"
    if not writable:
        home.touch()
    weights, _, folder = run_weights(checkout, XDG_CACHE_HOME=str(home))
    assert weights == "[0.75, 0.25]"
    assert folder.is_relative_to(home / "point-ops") if writable else folder == Path("None")


def test_the_folder_that_the_user_chose(checkout, tmp_path):
    assert run_weights(checkout, NUMBA_CACHE_DIR=str(tmp_path / "chosen"))[2].is_relative_to(tmp_path / "chosen")


def test_functions_of_others_are_kept_where_they_were():
    assert "point-ops" not in numba.config.CACHE_DIR
