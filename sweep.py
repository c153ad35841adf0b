#!/usr/bin/env python
"""Runs command lines side by side on this machine, or writes them as Slurm job arrays.

Commands are read one a line; a line that starts with # is left out. An empty line is a barrier: what stands before it
must have ended well before anything after it starts.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lib.cli import run_script
from lib.errors import InputError
from lib.flags import Parser, number
from lib.provenance import PROJECT_ROOT
from lib.training.run_folder import display_path

EPILOG = """examples:
  LIST=1 bash experiments/scene_flow/synthetic.sh | python sweep.py --jobs 2
      the runs of an experiment, two at a time; threads are shared out evenly unless OMP_NUM_THREADS is set
  LIST=1 bash experiments/scene_flow/ft3d_teacher.sh | python sweep.py --jobs 8 --slurm runs/slurm
      job arrays of at most 8 tasks at a time; send them off with: bash runs/slurm/submit.sh --gres=gpu:1

Ctrl-C is passed on to the commands: training runs save, and the same line again goes on with them.
"""

UNDER_WAY = os.EX_TEMPFAIL  # the status of a line of experiments/*/*.sh whose run another process holds

ARRAY = """#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --array=1-{count}%{jobs}
#SBATCH --chdir={root}
#SBATCH --output={folder}/{name}-%a.log
#SBATCH --signal=TERM@120
set -euo pipefail
command=$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" <<'COMMANDS'
{commands}
COMMANDS
)
srun bash -c "$command"
"""


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    stages = read_stages(args.commands)
    folder = args.slurm or args.logs
    if folder.is_file():
        raise InputError(f"{folder} is a file: give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    if args.slurm:
        return write_slurm(stages, args.jobs, args.slurm)
    return Sweep(args.jobs, args.logs).run(stages)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="sweep.py", description=__doc__.strip(), epilog=EPILOG)
    parser.add_argument("commands", nargs="?", metavar="FILE", help="command lines (default: standard input)")
    parser.add_argument("--jobs", type=number(int, 1), metavar="N", default=1, help="commands at a time")
    parser.add_argument(
        "--logs", type=Path, metavar="DIR", default=Path("runs/sweep"), help="a file for the output of each command"
    )
    parser.add_argument("--slurm", type=Path, metavar="DIR", help="run nothing, write job arrays and submit.sh there")
    return parser.parse_args(argv)


def read_stages(source: str | None) -> list[list[str]]:
    """The commands between barriers. Raises InputError where there are none."""
    if source is None:
        text = sys.stdin.read()
    else:
        try:
            text = Path(source).read_text()
        except UnicodeDecodeError as error:
            raise InputError(f"{source} is no text file: give command lines, one a line") from error
    stages: list[list[str]] = [[]]
    for line in map(str.strip, text.splitlines()):
        if not line:
            stages.append([])
        elif not line.startswith("#"):
            stages[-1].append(line)
    stages = [stage for stage in stages if stage]
    if not stages:
        where = source or "standard input"
        raise InputError(f"no commands in {where}: LIST=1 bash experiments/scene_flow/synthetic.sh prints some")
    return stages


class Sweep:
    """Runs stages of commands, ``jobs`` at a time, each with its output in a file of the folder ``logs``."""

    def __init__(self, jobs: int, logs: Path):
        self.jobs, self.logs = jobs, logs
        threads = max((os.cpu_count() or 1) // jobs, 1)
        self.environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self.running: set[subprocess.Popen] = set()
        self.failed: list[str] = []
        self.stopped: int | None = None  # the signal
        self.lock = threading.RLock()  # the signal handler may find the main thread holding it

    def run(self, stages: list[list[str]]) -> int:
        """Returns 0 when every command ended well, 1 when one failed, 128 + signal when stopped."""
        self.total, done = sum(map(len, stages)), 0
        with self._signals_passed_on(), ThreadPoolExecutor(self.jobs) as pool:
            for stage in stages:
                if self.failed or self.stopped:
                    break
                list(pool.map(self._run_one, range(done + 1, done + len(stage) + 1), stage))
                done += len(stage)
        if self.stopped:
            say(f"stopped by {signal.Signals(self.stopped).name}; the same again goes on")
            return 128 + self.stopped
        for line in self.failed:
            print(f"error: {line}", file=sys.stderr)
        if self.failed and done < self.total:
            print(f"error: {self.total - done} commands not started: they need those that failed", file=sys.stderr)
        return 1 if self.failed else 0

    def _run_one(self, index: int, command: str) -> None:
        log = self.logs / f"{index:03d}.log"
        with open(log, "w") as file:
            file.write(f"$ {command}\n")
            file.flush()
            with self.lock:
                if self.stopped:
                    return
                process = subprocess.Popen(
                    ["bash", "-c", command],
                    cwd=PROJECT_ROOT,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a group of its own, for the signals
                )
                self.running.add(process)
            start = time.monotonic()
            say(f"[{index}/{self.total}] started, output in {display_path(log)}")
            status = process.wait()
        with self.lock:
            self.running.discard(process)
        end = {0: "done", UNDER_WAY: "under way in another process: left to it"}.get(status, f"status {status}")
        say(f"[{index}/{self.total}] {end}, {time.monotonic() - start:.0f} s")
        if status not in (0, UNDER_WAY) and not self.stopped:
            self.failed.append(f"command {index} ended with status {status}, its output is in {display_path(log)}")

    @contextlib.contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the sweep; the running commands get it as Ctrl-C, and are waited for."""

        def stop(received: int, _frame: object) -> None:
            with self.lock:
                self.stopped = received
                for process in self.running:
                    with contextlib.suppress(ProcessLookupError):  # it has just ended
                        os.killpg(process.pid, signal.SIGINT)

        before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def write_slurm(stages: list[list[str]], jobs: int, folder: Path) -> int:
    """Writes a job array a stage, and submit.sh, which sends them off one depending on the other."""
    here = shlex.quote(str(folder.resolve()))
    submit = ["#!/usr/bin/env bash", "# bash submit.sh [flags of sbatch, such as --gres=gpu:1 --time=24:00:00]"]
    submit += ["set -euo pipefail", "after=()"]
    for index, stage in enumerate(stages, start=1):
        name = f"stage{index}"
        script = ARRAY.format(
            name=name,
            count=len(stage),
            jobs=jobs,
            root=PROJECT_ROOT,
            folder=folder.resolve(),
            commands="\n".join(stage),
        )
        (folder / f"{name}.sbatch").write_text(script)
        submit.append(f'job=$(sbatch --parsable "${{after[@]}}" "$@" {here}/{name}.sbatch)')
        submit.append('echo "submitted job $job"; after=(--dependency="afterok:${job%%;*}")')
    (folder / "submit.sh").write_text("\n".join(submit) + "\n")
    print(f"{sum(map(len, stages))} commands in {len(stages)} job arrays; send them off with: bash {folder}/submit.sh")
    return 0


def say(message: str) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    run_script(main)
