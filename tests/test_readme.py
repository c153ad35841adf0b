"""README.md, results/README.md and docs/reproduce.md say what is true: flags, files, tables and Python lines."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from experiments import make_tables
from models import CHECKPOINT_FORMAT, build_model, model_record

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "results/README.md").read_text()
REPRODUCE = (ROOT / "docs/reproduce.md").read_text()
SCRIPTS = [
    "train_teacher.py",
    "train_student.py",
    "evaluate.py",
    "visualize.py",
    "prepare_data.py",
    "predict.py",
    "convert_checkpoint.py",
    "sweep.py",
    "benchmark.py",
    "experiments/make_tables.py",
]
OTHERS = {"--help", "--nproc-per-node", "--gres"}  # torchrun, sbatch
OTHERS |= {"--gpus", "--user", "--read-only", "--tmpfs", "--shm-size"}  # docker
PARTS = {"prepare_data.py": ["ft3d", "kitti", "synthetic"]}  # scripts of several commands


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    def help_of(*words: str) -> str:
        command = [sys.executable, *words, "--help"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    def whole_help_of(script: str) -> str:
        return "".join([help_of(script), *(help_of(script, name) for name in PARTS.get(script, []))])

    with ThreadPoolExecutor(os.cpu_count()) as several:
        return dict(zip(SCRIPTS, several.map(whole_help_of, SCRIPTS), strict=True))


def test_every_flag_exists(helps):
    everywhere = set(re.findall(r"--[a-z][a-z-]+", "".join(helps.values())))
    assert set(re.findall(r"--[a-z][a-z-]+", README + RESULTS + REPRODUCE)) - OTHERS <= everywhere


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_of_a_command_belongs_to_its_script(helps, script):
    documents = [README, RESULTS, REPRODUCE, *helps.values()]
    lines = [line for text in documents for line in re.findall(rf"{script}((?: +[^\s`#|]+)+)", text)]
    assert lines
    for line in lines:
        known = set(re.findall(r"--[a-z][a-z-]+", helps[script]))
        assert set(re.findall(r"--[a-z][a-z-]+", line)) <= known, line


def test_every_file_of_the_layout_exists():
    layout = README.split("## Layout")[1].split("Imports go one way")[0]
    for name in re.findall(r"^    (\S+?/)|(\w+\.py)", layout, flags=re.MULTILINE):
        path = name[0] or name[1]
        folders = (ROOT, *(ROOT / name for name in ("lib", "lib/ops", "experiments", "benchmarks")))
        assert any((folder / path).exists() for folder in folders), path


def test_the_python_lines_run(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    path = tmp_path / "best.pt"
    torch.save({"format": CHECKPOINT_FORMAT, "model": model_record(build_model("student")), "training": {}}, path)
    names = {}
    exec(code.replace("runs/demo/student-gamma0.3/best.pt", str(path)), names)
    assert names["flow"].shape == (1, 2048, 3) and names["flow"].isfinite().all()


def test_every_table_of_the_results_is_what_its_command_prints(monkeypatch, capsys):
    """results/README.md: under each command of make_tables.py stands its output, and no other table of rows does."""
    monkeypatch.chdir(ROOT)
    for name in ("LIST", "SEEDS", "PAIRS", "RUNS", "RESULTS", "LONG_RESULTS", "REAL_RESULTS"):
        monkeypatch.delenv(name, raising=False)
    commands = re.findall(r"^    (python experiments/make_tables\.py .*)$", RESULTS, flags=re.MULTILINE)
    for command in commands:
        split = ["bash", "-c", f"printf '%s\n' {command}"]  # as a shell does, braces and all
        arguments = subprocess.run(split, capture_output=True, text=True, check=True).stdout.split("\n")[2:-1]
        assert make_tables.main(arguments) == 0
        assert f"\n    {command}\n\n{capsys.readouterr().out.strip()}\n\n" in RESULTS
    assert len(commands) == len(re.findall(r"^\| row \|", RESULTS, flags=re.MULTILINE)) > 0


def test_every_experiment_with_a_row_is_in_the_results():
    shown = set(re.findall(r"make_tables\.py (\w+/\w+)$", RESULTS, flags=re.MULTILINE))
    assert shown == set(make_tables.EXPERIMENTS) - {"scene_flow/remaining"}  # neither run nor published


@pytest.mark.parametrize("name", ["README.md", "results/README.md", "docs/reproduce.md"])
def test_every_file_that_is_named_exists(name):
    """Links to files, and paths below results/ and experiments/."""
    text, folder = (ROOT / name).read_text(), (ROOT / name).parent
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (folder / link).exists(), link
    paths = re.findall(r"(?<![\w/])((?:results|experiments)/[\w/.+-]*[\w+])(?![\w{*])", text)
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path


def test_every_experiment_has_its_command_in_reproduce():
    scripts = {path for path in ROOT.glob("experiments/*/*.sh") if not path.stem.endswith(("common", "setting"))}
    named = re.findall(r"^\| `[^`]*bash (experiments/\w+/\w+\.sh)` \|", REPRODUCE, flags=re.MULTILINE)
    assert sorted(named) == sorted(str(path.relative_to(ROOT)) for path in scripts)
