"""Two processes that torchrun starts equal one process with the same global batch."""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lib.training import distributed
from tests.runs import TINY, TORCHRUN, load, log_lines, save_teacher, start, write_ft3d


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_ft3d(tmp_path_factory.mktemp("data"))


def test_two_processes_equal_one_after_five_steps(data, tmp_path):
    """In float64, so that a mistake cannot hide behind rounding: Adam turns noise in a gradient that is truly zero (a
    bias before a batch normalisation) into steps of the size of the learning rate."""
    for launcher, out in (([sys.executable], tmp_path / "one"), (TORCHRUN, tmp_path / "two")):
        result = start(launcher, "tests/training/train_in_float64.py", data, 5, out)
        assert result.returncode == 0, result.stderr
    files = [load(tmp_path / name / "last.pt") for name in ("one", "two")]
    one, two = (file["model"]["state_dict"] | file["resume"]["adapters"] for file in files)
    ours = [name for name in files[0]["resume"]["adapters"] if not name.startswith("methods.2.")]
    assert len(ours) == 2 * (1 + 2), "one layer of multiscale and two of self"
    assert any("running_var" in name for name in one), "batch statistics of student and peer are those of all scenes"
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5)
    assert max((two[name] - one[name]).abs().max().item() for name in one) < 1e-9
    for line, other in zip(log_lines(tmp_path / "one"), log_lines(tmp_path / "two"), strict=True):
        assert other["train"] == pytest.approx(line["train"], abs=1e-9)


def test_the_scripts_train_and_score_on_two_processes(data, tmp_path):
    teacher, out = save_teacher(tmp_path / "teacher.pt"), tmp_path / "two"
    flags = [*TINY, "--dataset", "ft3d", "--subset", "full", "--data-root", data]
    training = [*flags, "--teacher", teacher, "--gamma", "0.3", "--batch-size", "4", "--steps", "2"]
    result = start(TORCHRUN, "train_student.py", *training, "--out", out)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("2 processes") == 1 and result.stdout.count("done: best validation EPE3D") == 1
    one = tmp_path / "one"
    assert start([sys.executable], "train_student.py", *training, "--out", one).returncode == 0
    for line, other in zip(log_lines(one), log_lines(out), strict=True):
        assert other["train"] == pytest.approx(line["train"], rel=1e-5)
        assert other["validation"]["EPE3D"] == pytest.approx(line["validation"]["EPE3D"], rel=1e-3)

    scoring = [*flags, "--checkpoint", out / "best.pt", "--split", "train"]
    scores = []
    for launcher in ([sys.executable], TORCHRUN):
        result = start(launcher, "evaluate.py", *scoring)
        assert result.returncode == 0, result.stderr
        scores.append([line for line in result.stdout.splitlines() if line.startswith(("EPE", "ACC", "Outliers"))])
    assert scores[0] == scores[1] and len(scores[0]) == 6


def test_a_batch_that_two_processes_cannot_share_is_refused(data, tmp_path):
    flags = [*TINY, "--dataset", "ft3d", "--subset", "full", "--data-root", data, "--gamma", "0", "--batch-size", "3"]
    result = start(TORCHRUN, "train_student.py", *flags, "--steps", "2", "--out", tmp_path / "run")
    assert result.returncode != 0 and not (tmp_path / "run").exists()
    assert "process 0: error: batch size 3 cannot be split evenly over 2 processes" in result.stderr


def test_the_group_of_processes_outlives_what_reduces_gradients_through_it(tmp_path):
    """Else its threads and the last one to leave it may wait for each other for ever."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    wrapper = distributed.parallel(torch.nn.Linear(2, 2))
    wrapper(torch.ones(3, 2)).sum().backward()
    distributed.finish()
    assert not dist.is_initialized() and not {"reducer", "logger"} & set(vars(wrapper))


@pytest.mark.parametrize(("kind", "norm"), [("ours", "1"), ("pillars", "norm")])
def test_statistics_are_those_of_all_processes(tmp_path, kind, norm):
    """Two processes with half of the images or clouds each end where one with all of them does."""
    for launcher in ([sys.executable], TORCHRUN):
        result = start(launcher, "tests/training/norms_of_two.py", tmp_path, kind)
        assert result.returncode == 0, result.stderr
    one, *two = (load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert not torch.equal(one[f"{norm}.running_mean"], torch.zeros(4))
    for state in two:
        for name, value in one.items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)


def test_buffers_of_foreign_layers_are_those_of_the_first_process(tmp_path):
    """torch's own normalisation sees its process's images alone: what it keeps comes from the first process."""
    result = start(TORCHRUN, "tests/training/norms_of_two.py", tmp_path, "foreign")
    assert result.returncode == 0, result.stderr
    first, second = (load(tmp_path / f"2-{rank}.pt") for rank in (0, 1))
    assert torch.equal(first["0.weight"], second["0.weight"])
    assert torch.equal(first["before"], second["before"]) and first["before"].abs().max() > 0
    assert not torch.equal(first["1.running_mean"], second["1.running_mean"]), "each has then seen its own images"
