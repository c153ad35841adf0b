"""`make test` begins with ruff. Its answer must not depend on the folders that runs of the scripts leave behind."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.runs import ROOT

PACKAGES = ("lib", "models", "benchmarks", "experiments", "tests")
UNSORTED = "import sys\nimport numpy\nimport os\n"
# Imports a package runs from elsewhere, as the lint must see it whether or not there is a folder runs/.
IMPORTS_RUNS = "import numpy\nimport runs\n\nimport lib\n\n__all__ = ['lib', 'numpy', 'runs']\n"


def lint(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def copy_of_sources(folder: Path) -> Path:
    """The Python files and the settings of the project, as a fresh clone has them."""
    for path in [ROOT / "pyproject.toml", ROOT / ".gitignore", *ROOT.glob("*.py")]:
        if path.exists():  # the container image has no .gitignore
            shutil.copy(path, folder / path.name)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_folders_that_runs_leave_do_not_change_the_lint(tmp_path):
    clone = copy_of_sources(tmp_path)
    (clone / "tests/imports_runs.py").write_text(IMPORTS_RUNS)
    fresh = lint(clone)
    assert fresh.returncode == 0, fresh.stdout
    for name in ("runs", "checkpoints", "results"):
        (clone / name / "demo").mkdir(parents=True)
        for file in ("__init__.py", "demo/__init__.py", "demo/notes.py"):
            (clone / name / file).write_text(UNSORTED)
        (clone / name / "demo/log.jsonl").write_text("{}\n")
    for _ in range(2):
        used = lint(clone)
        assert used.returncode == 0, used.stdout


def test_the_lint_still_finds_what_is_wrong(tmp_path):
    clone = copy_of_sources(tmp_path)
    (clone / "lib/unsorted.py").write_text(UNSORTED)
    assert lint(clone).returncode == 1


def test_every_package_and_script_is_listed_as_first_party():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["isort"]["known-first-party"]
    assert sorted(listed) == sorted([*PACKAGES, *(path.stem for path in ROOT.glob("*.py"))])
