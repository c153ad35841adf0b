"""The container as far as no container engine is needed. .ci/container builds and runs it for real."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate
from lib import provenance
from lib.tasks import TASKS
from tests.runs import ROOT, write_kitti

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_linter_is_content():
    hadolint = Path(sys.executable).with_name("hadolint")
    made = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr


def test_what_a_linter_does_not_know():
    """The base is pinned, requirements have a layer of their own, the process is not root, and paths agree."""
    assert re.search(r"^ARG BASE_IMAGE=\S+:\d+\.\d+\.\d+-\S+\nFROM \$\{BASE_IMAGE\}$", DOCKERFILE, flags=re.MULTILINE)
    assert DOCKERFILE.index("COPY requirements.txt") < DOCKERFILE.index("pip install") < DOCKERFILE.index("COPY . .")
    assert re.findall(r"^USER (.*)$", DOCKERFILE, flags=re.MULTILINE) == ["1000:1000"]
    assert os.access(ROOT / "entrypoint.sh", os.X_OK) and '"/app/entrypoint.sh"' in DOCKERFILE
    assert "mkdir -p /data/checkpoints /data/runs" in (ROOT / "entrypoint.sh").read_text()


def test_the_context_is_small():
    """Neither the history nor environments nor what runs leave is sent to the build."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv", "**/__pycache__", "runs", "checkpoints"} <= set(ignored)


def test_without_the_tools_it_says_so_aloud(tmp_path):
    for program in ("bash", "env", "dirname", "id"):
        (tmp_path / program).symlink_to(shutil.which(program))
    made = subprocess.run([ROOT / ".ci/container"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert made.returncode == 0 and made.stderr == ""
    why = "podman runc debootstrap are not installed, and there is no apt-get to install them"
    assert (
        f"\n##### THE CONTAINER WAS NOT BUILT AND NOT RUN: {'this needs root' if os.getuid() else why} #####\n"
        in made.stdout
    )


@pytest.mark.parametrize("fit", [True, False])
def test_entrypoint(tmp_path, fit):
    """It makes the folders that checkpoints/ and runs/ point to, or says that it cannot, and runs the command."""
    data = tmp_path / "data"
    data.mkdir() if fit else data.write_text("no folder")
    script = (ROOT / "entrypoint.sh").read_text().replace("/data/", f"{data}/")
    made = subprocess.run(["sh", "-c", script, "sh", "echo", "a  b"], capture_output=True, text=True)
    assert made.returncode == 0 and made.stdout == "a  b\n"
    if fit:
        assert sorted(path.name for path in data.iterdir()) == ["checkpoints", "runs"] and made.stderr == ""
    else:
        assert made.stderr.endswith(
            "warning: checkpoints/ and runs/ cannot be kept: mount a folder on /data that you "
            'may write, and add --user "$(id -u):$(id -g)"\n'
        )


# ---- what the image's environment variables do ----


def test_data_root(tmp_path, monkeypatch, capsys):
    """It stands for --data-root where a data set is read, and only there."""
    score = ["--baseline", "zero", "--num-points", "128", "--device", "cpu", "--dataset"]
    write_kitti(tmp_path / "there")
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "there"))
    with pytest.warns(UserWarning, match="the full set has"):
        assert evaluate.main([*score, "kitti"]) == 0
    assert "data           kitti test, 2 scenes, 128 points" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f" in {tmp_path}/else: prepare the data set"):
        evaluate.main([*score, "kitti", "--data-root", str(tmp_path / "else")])
    assert evaluate.parse(TASKS["scene-flow"], [*score, "synthetic-things"]).data_root is None


def test_commit_of_an_image(monkeypatch):
    """Outside of a git repository results carry the commit that the image was built from."""

    def no_git(*arguments):
        raise FileNotFoundError("git")

    monkeypatch.setenv("GIT_COMMIT", "0123-modified")
    assert provenance.git_commit() != "0123-modified"
    monkeypatch.setattr(provenance, "_git", no_git)
    assert provenance.git_commit() == "0123-modified"
    monkeypatch.setenv("GIT_COMMIT", "")
    assert provenance.git_commit() is None
