"""A run that is killed, stopped or refused, and then goes on, ends exactly like one that never was."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train_student
from lib.errors import InputError
from tests.runs import (
    TINY,
    assert_same_run,
    environment,
    identical,
    launch,
    load,
    log_lines,
    run,
    save_teacher,
    write_kitti,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*the full set has")

STEPS = 12
RESUME = ["--resume", "--out"]


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    """Flags of the run that all tests here repeat: 3 scenes in batches of 2, evaluated at steps 2, 3, 5, 6 ... 12."""
    folder = tmp_path_factory.mktemp("resume")
    teacher = save_teacher(folder / "teacher.pt")
    return [
        *TINY,
        "--data-root",
        str(write_kitti(folder)),
        "--teacher",
        str(teacher),
        "--gamma",
        "0.3",
        "--batch-size",
        "2",
        "--steps",
        str(STEPS),
        "--save-every",
        "1",
    ]


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory) -> Path:
    """The run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    result = run("train_student.py", *flags, "--out", out)
    assert result.returncode == 0, result.stderr
    return out


def saved(path: Path, process: subprocess.Popen) -> bool:
    """Waits until the file is new or replaced; False when the process ended before."""

    def version() -> int | None:
        return path.stat().st_ino if path.exists() else None

    before = version()
    while process.poll() is None:
        if version() != before:
            return True
        time.sleep(0.002)
    return False


def test_killed_at_random_moments_and_resumed_is_bit_identical(flags, whole, tmp_path):
    out = tmp_path / "run"
    rng = random.Random(2)
    kills = 0
    for workers in ("0", "2", "0", "2", "0"):
        process = launch("train_student.py", *flags, "--workers", workers, *RESUME, out)
        # Somewhere within the step, the evaluation or the writing that follows its first save.
        if saved(out / "last.pt", process):
            time.sleep(rng.uniform(0, 0.2))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
    assert kills == 5
    result = run("train_student.py", *flags, *RESUME, out)
    assert result.returncode == 0, result.stderr
    assert_same_run(out, whole)
    assert not list(out.glob("*.tmp"))


@pytest.mark.parametrize("best_written", [False, True])
def test_killed_between_the_files_of_an_evaluation_is_bit_identical(flags, whole, tmp_path, best_written):
    """The 5th file to be replaced, after config.json, log.jsonl and last.pt of steps 1 and 2, is best.pt of the first
    evaluation: the kill comes after its log line and before last.pt, with best.pt old or new."""
    out = tmp_path / "run"
    code = (
        "import itertools, os, signal, sys, train_student\n"
        "count, plain = itertools.count(1), os.replace\n"
        "def replace(*names):\n"
        "    fifth = next(count) == 5\n"
        f"    fifth and not {best_written} and os.kill(os.getpid(), signal.SIGKILL)\n"
        "    plain(*names)\n"
        "    fifth and os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = replace\n"
        "train_student.main(sys.argv[1:])"
    )
    arguments = [sys.executable, "-c", code, *flags, "--out", str(out)]
    assert subprocess.run(arguments, env=environment(), capture_output=True, timeout=300).returncode == -signal.SIGKILL
    assert (out / "best.pt").exists() == best_written and len(log_lines(out)) == 1
    assert train_student.main([*flags, *RESUME, str(out)]) == 0
    assert_same_run(out, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_stops_and_says_how_to_go_on(flags, whole, tmp_path, number):
    out = tmp_path / "run"
    process = launch("train_student.py", *flags, "--save-every", "0", "--workers", "1", "--out", out)
    assert saved(out / "last.pt", process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + number and "Traceback" not in stderr
    line = stdout.splitlines()[-1]
    assert line.startswith(f"stopped by {number.name} after step ") and f"of {STEPS}, saved {out / 'last.pt'}" in line
    assert line.endswith(f"go on with: python train_student.py --resume --out {out}")
    # The printed command alone is enough: every flag comes back from config.json.
    assert train_student.main(["--resume", "--out", str(out), "--save-every", "0"]) == 0
    assert_same_run(out, whole)


def test_a_full_disk_stops_with_one_line_and_damages_nothing(flags, whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    before = {name: (out / name).read_bytes() for name in ("last.pt", "best.pt", "log.jsonl")}

    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    longer = [*flags[: flags.index("--steps")], "--save-every", "1", "--steps", str(STEPS + 2)]
    result = run("train_student.py", *longer, *RESUME, out, preexec_fn=limit_file_size)
    errors = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert result.returncode == 2
    assert errors == [f"error: cannot write {out / 'last.pt'}: File too large"]
    assert before == {name: (out / name).read_bytes() for name in before}
    assert not list(out.glob("*.tmp"))


def test_a_run_goes_on_with_more_steps_and_knows_when_it_is_finished(flags, whole, tmp_path, capsys):
    out = tmp_path / "run"
    assert train_student.main([*flags, "--steps", "5", "--out", str(out)]) == 0
    assert train_student.main([*RESUME, str(out)]) == 0
    assert "is finished: 5 steps, nothing left to do" in capsys.readouterr().out
    assert train_student.main(["--steps", str(STEPS), *RESUME, str(out)]) == 0
    for part in ("model", "resume"):
        first, second = (load(folder / "last.pt")[part] for folder in (out, whole))
        assert identical(first, second)
    assert log_lines(out) == log_lines(whole)  # steps 2, 3, 5: an evaluation was due at step 5 anyway


@pytest.mark.parametrize(
    "changed, text",
    [
        (["--gamma", "0.5"], "--gamma was 0.3 when the run in {out} began and is now 0.5"),
        (["--lr", "0.01"], "--lr was 0.001 when"),
        (["--batch-size", "4"], "--batch-size was 2 when"),
        (["--seed", "1"], "--seed was 0 when"),
        (["--eval-every", "2"], "--eval-every was 1 when"),
        (["--final-only"], "--final-only was False when"),
    ],
)
def test_resume_refuses_a_flag_that_differs(flags, whole, changed, text):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    with pytest.raises(InputError) as caught:
        train_student.main([*changed, *RESUME, str(whole)])
    assert str(caught.value).startswith(text.format(out=whole)) and "leave it out" in str(caught.value)
    assert before == {path.name: path.read_bytes() for path in whole.iterdir()}


def test_resume_refuses_other_data_and_another_teacher(flags, whole, tmp_path):
    other = write_kitti(tmp_path, train=6)
    with pytest.raises(InputError, match="training samples are no longer those of the run in .*: 3 then, 5 now"):
        train_student.main(["--data-root", str(other), *RESUME, str(whole)])
    teacher = Path(flags[flags.index("--teacher") + 1])
    kept = teacher.read_bytes()
    try:
        save_teacher(teacher, seed=9)
        with pytest.raises(InputError, match="has changed since the run"):
            train_student.main([*RESUME, str(whole)])
    finally:
        teacher.write_bytes(kept)


def test_a_folder_with_a_run_needs_resume_or_another_folder(flags, whole, tmp_path):
    with pytest.raises(InputError, match="already holds a run .*add --resume to go on with it, or choose another"):
        train_student.main([*flags, "--out", str(whole)])
    (tmp_path / "best.pt").touch()
    with pytest.raises(InputError, match=r"holds a run \(best.pt\): it has no config.json"):
        train_student.main([*flags, *RESUME, str(tmp_path)])
    assert os.listdir(tmp_path) == ["best.pt"]
