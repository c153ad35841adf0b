"""README.md says what is true: its flags, files and Python lines."""

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
    assert set(re.findall(r"--[a-z][a-z-]+", README)) - OTHERS <= everywhere


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_of_a_command_belongs_to_its_script(helps, script):
    documents = [README, *helps.values()]
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


def test_every_number_of_the_results_comes_from_a_file(monkeypatch, capsys):
    """The results' tables are what make_tables.py prints from the files under results/."""
    monkeypatch.chdir(ROOT)
    for marker in re.findall(r"<!-- (python experiments/make_tables\.py .*?) -->", README):
        split = ["bash", "-c", f"printf '%s\n' {marker}"]  # as a shell does, braces and all
        arguments = subprocess.run(split, capture_output=True, text=True, check=True).stdout.split("\n")[2:-1]
        assert make_tables.main(arguments) == 0
        assert f"<!-- {marker} -->\n{capsys.readouterr().out.strip()}\n" in README
    assert "<!-- python experiments/make_tables.py" in README
