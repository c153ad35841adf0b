"""The shell scripts of the experiments: what they list, how runs are skipped, resumed and shared, one in full."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import make_tables
from lib.losses.distill import parse_distill
from lib.tables.published import read_published
from lib.tasks import TASKS
from tests.runs import ROOT, environment, write_ft3d, write_kitti

SCRIPTS = sorted((ROOT / "experiments").glob("*/*.sh"))
GAMMAS = ["1", "0.7", "0.5", "0.3", "0.1", "0"]
VARIABLES = {"LIST", "SEEDS", "PAIRS", "RUNS", "RESULTS", "DATA", "POINTS"}


def bash(script: str, *flags: str, **variables: object) -> subprocess.CompletedProcess:
    """Runs a script with the given variables and no others of the surroundings that it knows.

    script: FOLDER/NAME.sh in experiments; of scene flow where no folder is given.
    """
    path = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    clean = {name: value for name, value in (environment() | path).items() if name not in VARIABLES}
    return subprocess.run(
        ["bash", str(ROOT / "experiments" / (script if "/" in script else f"scene_flow/{script}")), *flags],
        env=clean | {name: str(value) for name, value in variables.items()},
        capture_output=True,
        text=True,
        timeout=600,
    )


def listed(name: str, **variables: object) -> list[list[str]]:
    """The words of the commands (python SCRIPT ...) that an experiment lists, in order."""
    done = bash(f"{name}.sh", LIST=1, **variables)
    assert done.returncode == 0, done.stderr
    parts = [shlex.split(part) for line in done.stdout.splitlines() for part in re.split(r"&&|\|\||;", line)]
    return [part[part.index("python") + 1 :] for part in parts if "python" in part]


def value(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_bash_can_read_it(path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    def known(script: str) -> set[str]:
        texts = [
            subprocess.run(
                [sys.executable, script, "--task", task, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
            for task in TASKS
        ]
        return set(re.findall(r"--[a-z][a-z-]+", " ".join(texts)))

    return {script: known(script) for script in ("train_teacher.py", "train_student.py", "evaluate.py")}


@pytest.mark.parametrize("name", make_tables.EXPERIMENTS)
def test_every_flag_and_method_exists_and_every_run_is_resumed_and_scored(name, flags):
    commands = listed(name)
    trained, scored, joined = set(), set(), set()
    for script, *words in commands:
        if script == "experiments/join_run.py":
            joined.add(tuple(words))
            continue
        assert {word for word in words if word.startswith("--")} <= flags[script]
        if script == "evaluate.py":
            if "--checkpoint" in words:
                scored.add((value(words, "--checkpoint").removesuffix("/best.pt"), value(words, "--json")))
        else:
            assert "--resume" in words and value(words, "--out") not in trained
            trained.add(value(words, "--out"))
        if script == "train_student.py":
            parse_distill(value(words, "--distill"))
    assert {run for run, _ in joined} == trained
    assert joined <= scored  # each run goes to the file of its own score


@pytest.mark.parametrize(("teacher", "epochs"), [("kitti", "560"), ("ft3d", "1200")])
def test_the_published_gamma_tables(teacher, epochs):
    name = f"{teacher}_teacher"
    commands = listed(name, DATA="somewhere")
    first, *students = [words for words in commands if words[0].startswith("train_")]
    assert first[0] == "train_teacher.py" and value(first, "--dataset") == teacher and value(first, "--epochs") == "560"
    assert [value(words, "--distill") for words in students] == [f"output:{gamma}" for gamma in GAMMAS]
    for words in students:
        assert value(words, "--epochs") == epochs and value(words, "--dataset") == "kitti"
        assert value(words, "--teacher") == value(first, "--out") + "/best.pt"
        assert value(words, "--num-points") == "8192" and value(words, "--lr-step") == "150"
        assert value(words, "--data-root") == "somewhere" and "--seed" in words
    published = read_published(ROOT / "experiments/scene_flow/published.json", name).rows
    expected = make_tables.expected_results(f"scene_flow/{name}")
    assert set(published) == {group.name for group in make_tables.group_by_seed(expected)}
    assert [published[f"student-kitti-from-{teacher}-half-output{gamma}"][1]["EPE3D"] for gamma in GAMMAS] == {
        "kitti": [0.066, 0.081, 0.073, 0.081, 0.060, 0.104],
        "ft3d": [0.087, 0.066, 0.041, 0.039, 0.041, 0.104],
    }[teacher]


def test_runs_that_two_experiments_share_are_the_same_command():
    runs, shared = {}, set()
    for name in ("synthetic", "methods", "pareto"):
        for words in listed(name):
            if words[0] == "train_student.py":
                out = value(words, "--out")
                shared |= {Path(out).name} & set(runs)
                assert runs.setdefault(Path(out).name, words) == words
    assert shared == {f"student-half-output{gamma}-seed{seed}" for gamma in ("0", "0.3") for seed in range(3)}


STAND_IN = """#!/usr/bin/env bash
# Stands in for python: notes the call; --out gets a run's files (best.pt once), --json a result; FAIL names a run
echo "$*" >> "$CALLS"
while [ $# -gt 0 ]; do
  case "$1" in
    --out) out=$2 ;;
    --json) json=$2 ;;
  esac
  shift
done
if [ -n "${json:-}" ]; then echo '{}' > "$json"; exit; fi
case "$out" in *"${FAIL:-nothing}"*) exit 3 ;; esac
[ -n "${out:-}" ] || exit 0
mkdir -p "$out"
[ -e "$out/best.pt" ] || touch -d '1 minute ago' "$out/best.pt"
"""


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Runs an experiment with the stand-in; returns its result and the calls it made."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").write_text(STAND_IN)
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    calls = tmp_path / "calls"
    variables = {"CALLS": calls, "RUNS": tmp_path / "a run", "RESULTS": tmp_path / "results", "SEEDS": "0"}

    def run(name: str, **more: object) -> tuple[subprocess.CompletedProcess, list[str]]:
        calls.write_text("")
        done = bash(f"{name}.sh", **variables, **more)
        return done, calls.read_text().splitlines()

    return run


def test_a_second_start_scores_nothing_anew_but_asks_every_run_to_resume(quick, tmp_path):
    done, calls = quick("pareto")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 3 * (1 + 8)
    name = "student-tiny-output0.3-seed0"
    assert f"experiments/join_run.py {tmp_path}/a run/{name} {tmp_path}/results/{name}.json" in calls
    done, calls = quick("pareto")
    trained = [call for call in calls if call.startswith("train_")]
    assert done.returncode == 0 and len(trained) == 1 + 8 and all("--resume" in call for call in trained)
    assert len(calls) == 2 * (1 + 8) and not any("evaluate.py" in call for call in calls)
    best = tmp_path / "a run/student-quarter-output0-seed0/best.pt"
    os.utime(best, (best.stat().st_atime, best.stat().st_mtime + 120))  # trained on: a new best
    done, calls = quick("pareto")
    assert [call for call in calls if call.startswith("evaluate.py")] == [
        f"evaluate.py --checkpoint {best} --dataset synthetic-drive --num-points 512 "
        f"--json {tmp_path}/results/student-quarter-output0-seed0.json"
    ]


def test_a_failure_stops_the_script_with_its_status(quick, tmp_path):
    done, calls = quick("pareto", FAIL="student-half-all-output0-")
    assert done.returncode == 3
    assert "student-half-all-output0-" in calls[-1] and calls[-1].startswith("train_student.py")
    done, calls = quick("pareto")
    assert done.returncode == 0 and sum(call.startswith("evaluate.py") for call in calls) == 6


def test_a_run_under_way_elsewhere_is_left_alone(quick, tmp_path):
    (tmp_path / "a run").mkdir()
    lock = tmp_path / "a run/student-half-output0.3-seed0.lock"
    with subprocess.Popen(["flock", lock, "cat"], stdin=subprocess.PIPE) as holder:
        while subprocess.run(["flock", "-n", lock, "true"]).returncode == 0:
            pass
        done, calls = quick("pareto")
        holder.communicate()
    assert done.returncode == 0
    assert "== student-half-output0.3-seed0\nunder way in another process: left to it\n" in done.stdout
    assert not any("student-half-output0.3-seed0" in call for call in calls)
    assert len(calls) == 3 * (1 + 7)


def test_first_report_in_full(tmp_path):
    """Four networks, one of them teacher and student at once, on a few boxes of points; then its table."""
    write_ft3d(tmp_path)
    write_kitti(tmp_path)
    variables = {
        "DATA": tmp_path,
        "RUNS": tmp_path / "runs",
        "RESULTS": tmp_path / "results",
        "POINTS": 128,
        "BATCH": 2,
        "EPOCHS": 1,
        "WORKERS": 0,
    }
    done = bash("first_report.sh", **variables)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "results/student-kitti-learned-from-student-half-output0.7-seed0.json").read_text())
    assert record["training"]["teacher"]["path"].endswith("/runs/student-ft3d-scratch-half-output0-seed0/best.pt")
    assert record["training"]["gamma"] == 0.7 and record["protocol"]["dataset"] == "kitti"
    assert record["config"]["flags"]["distill"] == "output:0.7"
    assert [line["epoch"] for line in record["log"]] == [1]
    names = {path.name for path in (tmp_path / "results").iterdir()}
    assert len(names) == 4 and all(name.endswith("-seed0.json") or name == "teacher-ft3d.json" for name in names)
    table = subprocess.run(
        [sys.executable, "experiments/make_tables.py", "scene_flow/first_report", "--format", "csv"],
        cwd=ROOT,
        env=environment() | {name: str(value) for name, value in variables.items()},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["row"] for row in rows[::2]] == [
        "teacher",
        "student, from scratch (gamma 0)",
        "student, gamma 0.7, taught by the teacher",
        "student, gamma 0.7, taught by the student from scratch",
    ]
    assert [row["row"] for row in rows[1::2]] == [f"{row['row']}, published" for row in rows[::2]]
    ours, theirs = rows[-2:]
    assert float(ours["EPE3D (m)"]) == record["metrics"]["EPE3D"] and ours["seeds"] == "1"
    assert (float(theirs["EPE3D (m)"]), theirs["scored on"]) == (0.067, "KITTI")
