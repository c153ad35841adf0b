"""Every command of README.md and docs/ runs: page by page, in a copy of the project, on tiny stand-ins for their files.

A command is a line of an indented or fenced block that begins with one of PROGRAMS, or `such code` within the text that
begins so or with a script's name; variables may be set before it, and parts of a pipe are commands of their own. To
cover a new command give its script its tiny sizes in SIZES, and put what stands for a file that it names into
`stand_ins`. A command that nobody covered fails.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

from lib.datasets.kitti_object.frames import write_calibration
from lib.datasets.prepare.street import lidar
from lib.datasets.synthetic_street import SyntheticStreet
from lib.training.checkpoint import save_checkpoint
from models import build_model
from tests.lidar.detectors import save_detector
from tests.runs import ROOT, environment, save_teacher, write_ft3d, write_kitti
from tests.scene_flow.raw_files import ft3d_clouds, write_ft3d_frame, write_kitti_frame

PROGRAMS = (".", "python", "python3", "torchrun", "make", "docker", "pip", "bash", "sh", "sudo", "conda", "git", "uv")
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # as in the activated environment
PARTS = ("lib", "models", "experiments", "benchmarks", "results", "checkpoints")

# What is put behind a command to make it tiny; of flags given twice the later counts.
TRAINING = "--num-points 128 --batch-size 2 --steps 1 --workers 0 --device cpu"
DETECTION = "--batch-size 2 --steps 1 --workers 0 --device cpu"
SIZES = {
    "train_teacher.py": TRAINING,
    "train_student.py": TRAINING,
    "train_teacher.py --task": DETECTION,
    "train_student.py --task": DETECTION,
    "evaluate.py --task": "",
    "evaluate.py": "--num-points 128 --device cpu",
    "visualize.py": "--num-points 128 --device cpu",
    "visualize.py boxes.json": "--device cpu",
    "visualize.py --task": "--device cpu",
    "predict.py": "--device cpu",
    "prepare_data.py": "--workers 1",
    "prepare_data.py synthetic": "--workers 1 --scenes 1",
    "convert_checkpoint.py": "",
    "benchmark.py": "--num-points 128 --repeats 1",
    "sweep.py": "LINES",
    "experiments/make_tables.py": "",
}
LEFT_OUT = ("--epochs", "--num-points", "--num-scenes")  # with their values: SIZES says what stands for them


# ---- finding the commands ----


def commands(text: str) -> list[str]:
    """The commands of a document in their order, with continued lines joined and comments cut off."""
    scripts = tuple(path.name for path in ROOT.glob("*.py"))
    found, prose, fence = [], "", None  # fence: the language of the fenced block that a line is in
    for line in [*text.replace("\\\n", " ").splitlines(), ""]:
        fenced = fence is not None or line.startswith("```")
        if line.startswith("```"):
            fence = line.strip("`").strip() if fence is None else None
        elif not fenced and not line.startswith("    ") and line.strip():
            prose += " " + line
            continue
        spans = [code.split() for code in re.findall(r"`([^`]+)`", prose)]
        found += [" ".join(words) for words in spans if len(words) > 1 and program(words) in (*PROGRAMS, *scripts)]
        prose = ""
        in_block = fence in ("bash", "sh", "console") if fenced else line.startswith("    ")
        if in_block and program(line.split()) in PROGRAMS:
            found.append(line)
    parts = [part for line in found for part in re.split(r"&& | \| ", line)]
    return [" ".join(shlex.split(part, comments=True)) for part in parts]


def program(words: list[str]) -> str:
    """The first word that sets no variable."""
    return next((word for word in words if not re.match(r"[A-Z_]+=", word)), "")


def alternatives(command: str) -> list[list[str]]:
    """A command with every choice of its words such as zero|nearest."""
    return [list(words) for words in product(*(word.split("|") for word in command.split()))]


# Long shell scripts of experiments/ are checked for syntax only.
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "checkpoints/README.md"]
COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page.read_text())))


def test_commands_are_found():
    text = (
        "Say `make demo` or `evaluate.py --baseline\nzero`, `loss`:\n\n    python a.py IN \\\n      OUT  # why\n"
        "    x = python\n\n```bash\nmake a && make b\n```\n\n```python\npython = 1\n```\n"
    )
    assert commands(text) == ["make demo", "evaluate.py --baseline zero", "python a.py IN OUT", "make a", "make b"]
    assert alternatives("evaluate.py --baseline zero|nearest") == [
        ["evaluate.py", "--baseline", "zero"],
        ["evaluate.py", "--baseline", "nearest"],
    ]
    assert len(COMMANDS) > 10


# ---- running those of this project, one after the other in one process ----

IN_TURN = """
import contextlib, importlib, io, json, os, runpy, sys, traceback
sys.path.insert(0, os.getcwd())
from lib.datasets.scene_flow.synthetic import DEFAULT_COUNTS
from lib.datasets.synthetic_street import DEFAULT_COUNTS as STREETS
DEFAULT_COUNTS.update(train=2, validation=2, test=2)  # scenes, where no flag says how many
STREETS.update(train=2, validation=1, test=4)
for line in sys.stdin:
    job = json.loads(line)
    os.environ.pop("DATA_ROOT", None)
    os.environ.update(job["environment"])
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        script, *flags = job["words"]
        sys.argv = [script, *flags]
        try:
            sys.path.insert(0, os.path.dirname(script))
            status = importlib.import_module(os.path.basename(script)[:-3]).main(flags)
        except SystemExit as end:
            status = end.code
        except BaseException:
            said.write(traceback.format_exc())
            status = 1
    print(json.dumps([status, said.getvalue()]), file=sys.__stdout__, flush=True)
"""


class Project:
    """A copy of the project with stand-ins for the files that the pages name."""

    def __init__(self, folder: Path):
        self.folder = folder
        for path in [*ROOT.glob("*.py"), *(ROOT / name for name in PARTS if (ROOT / name).is_dir())]:
            if path.is_dir():
                ignored = shutil.ignore_patterns("*.pt", "*.pth") if path.name == "checkpoints" else None
                shutil.copytree(path, folder / path.name, ignore=ignored)
            else:
                shutil.copy2(path, folder)
        stand_ins(folder)
        scans(folder)
        kitti_objects(folder)
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_TURN],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment() | {"PYTHONPATH": "", "PATH": PATH},
            text=True,
        )

    def run(self, words: list[str], variables: dict[str, str]) -> None:
        script = words[0]
        if " ".join(words[:2]) in SIZES:
            script = " ".join(words[:2])
        assert script in SIZES, f"no tiny sizes for {script} in {Path(__file__).name}"
        job = {"words": [*without(words, LEFT_OUT), *SIZES[script].split()], "environment": variables}
        status, said = self.answer(job)
        if run := re.search(r"(\S+) already holds a run", said):  # of an earlier command
            shutil.rmtree(self.folder / run[1])
            status, said = self.answer(job)
        assert status == 0, said

    def answer(self, job: dict) -> tuple[int, str]:
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return tuple(json.loads(self.process.stdout.readline()))


def stand_ins(folder: Path) -> None:
    """Files and folders under the names that the pages give them."""
    write_ft3d(write_kitti(folder / "DATA"), train=16)
    for k in range(2):
        write_kitti_frame(folder / "RAW/training", f"{k:06d}", k)
    for name in ("train/0000000", "val/0000000"):
        write_ft3d_frame(folder / "RAW/FlyingThings3D_subset", name, *ft3d_clouds(0, 500))
    save_checkpoint(folder / "IN", build_model("teacher"), {})  # of the published widths
    (folder / "checkpoints/ft3d").mkdir(parents=True, exist_ok=True)
    for name in ("best.pt", "P", "checkpoints/ft3d/best.pt"):
        save_teacher(folder / name)
    (folder / "LINES").write_text("python --version\n")
    (folder / "FRAMES").mkdir()
    rng = np.random.default_rng(0)
    for k in range(3):
        points = rng.uniform((4, -8, -1), (30, 8, 4), (200, 3)).astype(np.float32)  # x forward, y left, z up
        for path in (folder / f"{k:04d}.bin", folder / f"FRAMES/{k:04d}.bin"):
            np.column_stack([points, points[:, 0]]).astype("<f4").tofile(path)
        header = "ply\nformat ascii 1.0\nelement vertex 200\n" + "".join(f"property float {axis}\n" for axis in "xyz")
        rows = "\n".join(f"{-y} {-z} {x}" for x, y, z in points)  # x right, y down, z forward
        (folder / f"{('before', 'after', 'later')[k]}.ply").write_text(f"{header}end_header\n{rows}\n")


def scans(folder: Path) -> None:
    """A detector, and scans with their calibrations."""
    save_detector(folder / "detector.pt")
    for name in ("SCANS", "CALIBS"):
        (folder / name).mkdir()
    for name, frame in zip(("000008", "000009"), SyntheticStreet("test", 2), strict=True):
        for path in (folder / f"{name}.bin", folder / f"SCANS/{name}.bin"):
            frame.points.tofile(path)
        for path in (folder / f"{name}.txt", folder / f"CALIBS/{name}.txt"):
            write_calibration(path, frame.calibration)


def kitti_objects(folder: Path) -> None:
    """A few frames in the layout of KITTI's object benchmark, and results for them."""
    list(lidar(2).write(folder, workers=1))
    (folder / "synthetic-lidar").rename(folder / "KITTI")
    (folder / "RESULTS").mkdir()
    for path in (folder / "KITTI/training/label_2").iterdir():
        (folder / "RESULTS" / path.name).touch()


def without(words: list[str], flags: tuple[str, ...]) -> list[str]:
    """The words less these flags and their values."""
    pairs = pairwise(["", *words])
    return [word for before, word in pairs if word not in flags and before not in flags]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("readme"))
    yield project
    project.process.stdin.close()
    project.process.wait(timeout=30)


@pytest.mark.parametrize("command", COMMANDS)
def test_command(project, command):
    for words in alternatives(command):
        first = words.index(program(words))
        variables = dict(word.split("=", 1) for word in words[:first])
        name, rest = (words[first], words[first + 1 :]) if words[first] in PROGRAMS else ("python", words[first:])
        assert name in HANDLERS, f"nothing here says how to try a command of {name}: {command}"
        HANDLERS[name](project, rest, variables)


def run_python(project: Project, words: list[str], variables: dict[str, str]) -> None:
    if words == ["-m", "venv", ".venv"]:
        return
    project.run([word for word in words if word != "..."], {"DATA_ROOT": "DATA"} | variables)


def run_torchrun(project: Project, words: list[str], variables: dict[str, str]) -> None:
    """Here in one process; test_distributed.py has two."""
    option, *rest = words
    assert option == "--nproc-per-node=2"
    run_python(project, rest, variables)


def check_make(project: Project, words: list[str], _variables: dict[str, str]) -> None:
    made = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def check_activate(project: Project, words: list[str], _variables: dict[str, str]) -> None:
    assert words == [".venv/bin/activate"]


def check_pip(project: Project, words: list[str], _variables: dict[str, str]) -> None:
    assert words[:2] == ["install", "-r"] and (ROOT / words[2]).is_file()


def check_bash(project: Project, words: list[str], variables: dict[str, str]) -> None:
    """Experiments list their command lines; what would take hours is read only."""
    if words[0].startswith("runs/"):  # written by a command before it
        return
    assert subprocess.run(["bash", "-n", words[0]], cwd=ROOT).returncode == 0
    if "LIST" in variables:
        lines = subprocess.run(
            ["bash", *words],
            cwd=project.folder,
            env=environment() | variables,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "python train_student.py" in lines


def check_docker(project: Project, words: list[str], _variables: dict[str, str]) -> None:
    """The image is the one that `make image` builds, the mount the one that it reads; the command in it runs here."""
    dockerfile, makefile = (ROOT / "Dockerfile").read_text(), (ROOT / "Makefile").read_text()
    image = re.search(r"--tag (\S+)", makefile)[1]
    if words[0] == "build":
        assert words[-1] == "." and words[words.index("-t") + 1] == image
        return
    verb, *rest = words
    assert verb == "run"
    options = {
        "--gpus": 1,
        "-v": 1,
        "--rm": 0,
        "-it": 0,
        "--read-only": 0,
        "--tmpfs": 1,
        "--user": 1,
        "--network": 1,
        "--shm-size": 1,
    }
    mounts = []
    while rest[0].startswith("-"):
        flag, _, value = rest.pop(0).partition("=")
        assert flag in options, f"docker run has no option {flag} that this test knows"
        if options[flag] and not value:
            value = rest.pop(0)
        if flag == "-v":
            mounts.append(value)
    assert mounts[0].split(":") == ["DATA", "/data"] and "DATA_ROOT=/data" in dockerfile
    assert rest.pop(0) == image
    assert rest.pop(0) == "python"
    run_python(project, [word.replace("/data", "DATA") for word in rest], {"DATA_ROOT": "DATA"})


HANDLERS = {
    ".": check_activate,
    "python": run_python,
    "python3": run_python,
    "torchrun": run_torchrun,
    "make": check_make,
    "pip": check_pip,
    "bash": check_bash,
    "docker": check_docker,
}
