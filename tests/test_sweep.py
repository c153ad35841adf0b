"""sweep.py: commands side by side, barriers, failures, Ctrl-C, and the Slurm scripts (with stand-ins for Slurm)."""

import os
import signal
import stat
import subprocess
import sys
import time

import pytest

import sweep
from lib.errors import InputError
from tests.runs import ROOT, environment


def lines(path, *commands):
    path.write_text("".join(f"{command}\n" for command in commands))
    return str(path)


def sweep_main(tmp_path, *commands, jobs=2):
    return sweep.main([lines(tmp_path / "list", *commands), "--jobs", str(jobs), "--logs", str(tmp_path / "logs")])


def test_jobs_run_at_the_same_time_and_share_the_threads(tmp_path, monkeypatch):
    """Each of two commands waits for the other one's file: neither would end if they ran one after the other."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    a, b = tmp_path / "a", tmp_path / "b"
    meet = "touch {0}; for i in $(seq 600); do [ -e {1} ] && break; sleep 0.1; done"
    wait = meet + "; [ -e {1} ] && echo threads $OMP_NUM_THREADS"
    assert sweep_main(tmp_path, "# a comment", wait.format(a, b), wait.format(b, a)) == 0
    assert (tmp_path / "logs/001.log").read_text().endswith("threads 3\n")
    assert (tmp_path / "logs/002.log").read_text().startswith(f"$ {wait.format(b, a)}\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert sweep_main(tmp_path, "echo threads $OMP_NUM_THREADS") == 0
    assert (tmp_path / "logs/001.log").read_text().endswith("threads 5\n")


def test_no_more_than_jobs_at_a_time(tmp_path):
    busy = tmp_path / "busy"
    alone = f"mkdir {busy} && sleep 0.1 && rmdir {busy}"
    assert sweep_main(tmp_path, alone, alone, alone, jobs=1) == 0


def test_an_empty_line_is_a_barrier(tmp_path):
    first = tmp_path / "first"
    assert sweep_main(tmp_path, f"sleep 0.3; touch {first}", "", "", f"[ -e {first} ]") == 0


def test_a_failure_is_named_and_stops_what_needs_it(tmp_path, capsys):
    later, beside = tmp_path / "later", tmp_path / "beside"
    assert sweep_main(tmp_path, "exit 3", f"touch {beside}", "", f"touch {later}", jobs=1) == 1
    assert beside.exists() and not later.exists()
    assert capsys.readouterr().err == (
        f"error: command 1 ended with status 3, its output is in {tmp_path}/logs/001.log\n"
        "error: 1 commands not started: they need those that failed\n"
    )


def test_a_run_under_way_elsewhere_is_no_failure(tmp_path, capsys):
    assert sweep_main(tmp_path, "exit 75") == 0
    assert "[1/1] under way in another process: left to it" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_commands_which_may_save(tmp_path, number):
    """The command saves on Ctrl-C, as training does; the sweep waits for it, starts nothing more and says so."""
    code = tmp_path / "train.py"
    code.write_text(
        "import pathlib, signal, sys, time\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "def save(*_):\n    time.sleep(0.3)\n    (here / 'saved').touch()\n    sys.exit(130)\n"
        "signal.signal(signal.SIGINT, save)\n(here / 'ready').touch()\ntime.sleep(60)\n"
    )
    commands = lines(tmp_path / "list", f"{sys.executable} {code} {tmp_path}", f"touch {tmp_path / 'second'}")
    process = subprocess.Popen(
        [sys.executable, "sweep.py", commands, "--logs", tmp_path / "logs"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert (tmp_path / "saved").exists() and not (tmp_path / "second").exists()
    assert out.endswith(f"stopped by {signal.Signals(number).name}; the same again goes on\n")


def test_slurm_arrays_run_every_command_stage_by_stage(tmp_path):
    """sbatch's stand-in notes its flags and runs the array's tasks at once; the commands keep their quotes."""
    out = tmp_path / "out"
    commands = lines(tmp_path / "list", f"echo 'a  $b' >> {out}", f'echo "c\'d" >> {out}', "", f"echo last >> {out}")
    assert sweep.main([commands, "--jobs", "4", "--slurm", str(tmp_path / "slurm")]) == 0
    assert not out.exists()
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    (stand_ins / "srun").write_text('#!/usr/bin/env bash\nexec "$@"\n')
    (stand_ins / "sbatch").write_text(
        f'#!/usr/bin/env bash\necho "$*" >> {tmp_path}/calls\nscript="${{@: -1}}"\n'
        "last=$(grep -oP '(?<=--array=1-)\\d+' \"$script\")\n"
        'for i in $(seq "$last"); do SLURM_ARRAY_TASK_ID=$i bash "$script"; done\necho "7$last;cluster"\n'
    )
    for file in stand_ins.iterdir():
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    path = {**os.environ, "PATH": f"{stand_ins}:{os.environ['PATH']}"}
    subprocess.run(["bash", tmp_path / "slurm/submit.sh", "--gres=gpu:1"], check=True, env=path)
    assert out.read_text() == "a  $b\nc'd\nlast\n"
    assert (tmp_path / "calls").read_text() == (
        f"--parsable --gres=gpu:1 {tmp_path}/slurm/stage1.sbatch\n"
        f"--parsable --dependency=afterok:72 --gres=gpu:1 {tmp_path}/slurm/stage2.sbatch\n"
    )
    first = (tmp_path / "slurm/stage1.sbatch").read_text()
    assert "#SBATCH --array=1-2%4\n" in first and f"#SBATCH --chdir={ROOT}\n" in first


def test_bad_input(tmp_path):
    empty = lines(tmp_path / "list", "", "# nothing")
    with pytest.raises(InputError) as error:
        sweep.main([empty])
    assert str(error.value) == f"no commands in {empty}: LIST=1 bash experiments/synthetic.sh prints some"
    with pytest.raises(InputError) as error:
        sweep.main([lines(tmp_path / "list", "true"), "--logs", str(tmp_path / "list")])
    assert str(error.value) == f"{tmp_path}/list is a file: give a folder"
