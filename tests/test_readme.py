"""README.md, docs/ and results/README.md say what is true: flags, files, numbers, tables and Python lines."""

import json
import os
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from experiments import make_tables
from lib.tasks import DEFAULT_TASK, TASKS
from lib.tasks.scene_flow import SCENE_FLOW
from lib.training.optim import OPTIMIZERS, SCHEDULES
from models import CHECKPOINT_FORMAT, build_model, count_parameters, model_record
from tests.test_layout import LAYERS

ROOT = Path(__file__).resolve().parents[1]
FILES = ["README.md", "results/README.md", "checkpoints/README.md"]
FILES += sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))
PAGES = {name: (ROOT / name).read_text() for name in FILES}
README, RESULTS = PAGES["README.md"], PAGES["results/README.md"]
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


def plain(name: str) -> str:
    """A page with every run of white space as one blank: sentences may be broken anywhere."""
    return " ".join(PAGES[name].split())


def rows(text: str) -> list[list[str]]:
    """The rows of all tables of a text, cell by cell, without the lines below headings."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not re.fullmatch(r"[|\s-]+", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# ---- flags ----


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    def help_of(*words: str) -> str:
        command = [sys.executable, *words, "--help"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    def whole_help_of(script: str) -> str:
        whole = "".join([help_of(script), *(help_of(script, name) for name in PARTS.get(script, []))])
        others = [name for name in TASKS if name != DEFAULT_TASK and "--task" in whole]
        return whole + "".join(help_of(script, "--task", name) for name in others)

    with ThreadPoolExecutor(os.cpu_count()) as several:
        return dict(zip(SCRIPTS, several.map(whole_help_of, SCRIPTS), strict=True))


@pytest.mark.parametrize("name", FILES)
def test_every_flag_exists(helps, name):
    everywhere = set(re.findall(r"--[a-z][a-z-]+", "".join(helps.values())))
    assert set(re.findall(r"--[a-z][a-z-]+", PAGES[name])) - OTHERS <= everywhere


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_of_a_command_belongs_to_its_script(helps, script):
    documents = [*PAGES.values(), *helps.values()]
    lines = [line for text in documents for line in re.findall(rf"{script}((?: +[^\s`#|]+)+)", text)]
    assert lines
    for line in lines:
        known = set(re.findall(r"--[a-z][a-z-]+", helps[script]))
        assert set(re.findall(r"--[a-z][a-z-]+", line)) <= known, line


def test_the_recipe_and_its_choices():
    page = plain("docs/train.md")
    teacher, student = SCENE_FLOW.recipes["teacher"], SCENE_FLOW.recipes["student"]
    assert f"{teacher['optimizer'].capitalize()}, batch {teacher['batch_size']}, {teacher['epochs']} epochs" in page
    assert f"halved every {teacher['lr_step']} epochs (students: {student['lr_step']})" in page
    assert teacher["lr_gamma"] == student["lr_gamma"] == 0.5
    firsts = [row[0].strip("`") for row in rows(PAGES["docs/train.md"])]
    assert [name for name in firsts if name in SCHEDULES] == list(SCHEDULES)
    optimizers = next(row[1] for row in rows(PAGES["docs/train.md"]) if row[0] == "`--optimizer`")
    assert [name for name in re.findall(r"`(\w+)`", optimizers)] == list(OPTIMIZERS)


# ---- files ----


def test_readme_is_short():
    assert README.count("\n") <= 150


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_is_named_exists(name):
    """Links to files, and paths below the project's own folders."""
    text, folder = PAGES[name], (ROOT / name).parent
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (folder / link).exists(), link
    folders = "lib|models|tests|docs|results|experiments|benchmarks"
    for path in re.findall(rf"(?<![\w/.])((?:{folders})/[\w/.+-]*[\w+])(?![\w{{*])", text):
        assert (ROOT / path).exists(), path


def test_the_tree_of_the_readme_is_the_tree():
    """Every path of the map exists; every script and every folder is in it."""
    tree = README.split("## The tree")[1].split("Imports go one way")[0]
    named = re.findall(r"^    (\S+)", tree, flags=re.MULTILINE)
    for path in named:
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path
    scripts = {path.name for path in ROOT.glob("*.py")}
    packages = {f"lib/{path.parent.name}/" for path in ROOT.glob("lib/*/__init__.py")}
    assert scripts | packages <= set(named)


def test_every_page_is_linked_from_the_readme():
    assert {name for name in FILES if name.startswith("docs/")} <= set(re.findall(r"\]\(([^)]+)\)", README))


def test_the_table_of_layers_is_that_of_the_test():
    table = rows(PAGES["docs/python.md"].split("## The layers of the code")[1].split("\n## ")[0])[1:]
    layers = [set(re.findall(r"`([\w.]+)`", row[0])) or {row[0]} for row in table]
    assert layers == LAYERS


def test_the_messages_that_are_explained_exist():
    """docs/troubleshooting.md quotes them in italics, with ... for what differs."""
    sources = [path for pattern in ("*.py", "*.sh", "lib/**/*.py") for path in ROOT.glob(pattern)]
    code = " ".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in sources)
    quoted = [row[0] for row in rows(PAGES["docs/troubleshooting.md"]) if row[0].startswith("*")]
    parts = [part.strip() for text in quoted for part in text.split("*")[1].split("...")]
    assert len(parts) > 5
    for part in parts:
        assert part in code, part


# ---- numbers ----


def recorded(name: str) -> dict:
    return json.loads((ROOT / "results/scene_flow" / name).read_text())


def test_the_numbers_of_the_readme():
    """The row of scene flow, and what stands below it about the runs."""
    teacher = recorded("synthetic/teacher.json")
    runs = [
        [json.loads(path.read_text()) for path in sorted(ROOT.glob(f"results/scene_flow/longer/{name}-seed*.json"))]
        for name in ("student-drive-half-output0", "student-drive-half-output1")
    ]
    spreads = []
    for group in runs:
        values = [run["metrics"]["EPE3D"] for run in group]
        spreads.append(f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}")
    row = next(row for row in rows(README) if row[0] == "scene flow")
    assert row[2] == f"{teacher['parameters'] / 1e6:.2f} M -> {runs[0][0]['parameters'] / 1e6:.2f} M"
    assert row[3] == f"{teacher['metrics']['EPE3D']:.3f} / {spreads[0]} / {spreads[1]} m"
    first = runs[0][0]
    facts = [f"{first['training']['scenes']} synthetic street scenes of {first['protocol']['num_points']} points"]
    facts += [f"for {first['config']['flags']['steps']} steps", f"scored on {first['protocol']['scenes']} others"]
    facts += [f"over {len(runs[0])} and {len(runs[1])} seeds"]
    for fact in facts:
        assert fact in plain("README.md"), fact


def test_the_numbers_of_the_students():
    page = plain("docs/train.md")
    sizes = {short: count_parameters(build_model(name)) / 1e6 for short, name in SCENE_FLOW.networks.items()}
    assert f"`half`, the default, has {sizes['half']:.2f} M parameters" in page
    assert f"`half-all` (narrower predictors too) {sizes['half-all']:.2f} M" in page
    assert f"`quarter` {sizes['quarter']:.2f} M; `tiny` {sizes['tiny']:.2f} M" in page
    assert f"The teacher has {sizes['teacher']:.2f} M" in page


def test_the_numbers_of_speed():
    model, train, scaling = (recorded(f"benchmark/{name}.json") for name in ("model", "train", "scaling"))
    inference = {name: times["median_seconds"] for name, times in model["times"].items()}
    steps = {name: times["median_seconds"] for name, times in train["times"].items()}
    largest = scaling["times"][f"teacher {scaling['points'][-1]}"]["median_seconds"]
    ours, plainly = "teacher", "plain teacher"
    table = [
        ["teacher, inference", f"{inference[ours]:.3f} s", f"{inference[plainly]:.2f} s"],
        ["student, inference", f"{inference['student']:.3f} s", ""],
        ["teacher, training step", f"{steps[ours]:.2f} s", f"{steps[plainly]:.2f} s"],
        ["student, training step with gamma 0.3", f"{steps['student step, gamma 0.3']:.2f} s", ""],
        [
            f"teacher, inference with {scaling['points'][-1]:,} points",
            f"{largest:.1f} s, {scaling['peak_bytes_of_the_largest'] / 1e9:.1f} GB",
            "",
        ],
    ]
    remarks = [
        f"{model['teacher_over_plain']:.1f} times as fast",
        f"{model['student_over_teacher']:.2f} times as fast as the teacher",
        f"{train['teacher_over_plain']:.1f} times as fast; "
        f"{train['peak_memory_over_plain']:.2f} of plain's peak memory",
        f"{train['distillation_over_gamma_0']:.2f} times a step with gamma 0",
        f"time grows as N^{scaling['time_exponent']:.2f} from {scaling['points'][0]} points on",
    ]
    shown = rows(PAGES["docs/speed.md"])
    for row, remark in zip(table, remarks, strict=True):
        assert [*row, remark] in shown, row

    alone = model["seconds_on_one_thread"]
    parts = {
        "PointConv layers with what follows in their loop": alone["teacher"]["pointconv_layer"],
        "flow embeddings": alone["teacher"]["flow_embedding"],
        "neighbour search": alone["teacher"]["knn_each"],
        "other linear layers": alone["teacher"]["linear"] + alone["teacher"]["mlp"],
        "sampling": alone["teacher"]["furthest_point_sample"],
    }
    parts["all else"] = alone["teacher"]["total"] - sum(parts.values())
    for name, seconds in parts.items():
        assert [name, f"{seconds:.3f}"] in shown, name

    flop = {name: about["flop"] for name, about in model["arithmetic"].items()}
    predictors = [about["flop_by_part"]["predictor"] for about in model["arithmetic"].values()]
    least = flop["teacher"] / model["best_product_flop_per_second"]
    for fact in (
        f"{model['num_points']} points, batch {model['batch_size']}, float32",
        f"matrix products are {flop['teacher'] / 1e9:.1f} GFLOP",
        f"best rate, {model['best_product_flop_per_second'] / 1e9:.0f} GFLOP/s, they alone take {least:.3f} s",
        f"which is {100 * model['share_of_best_rate']['teacher']:.0f} % of the time of an inference",
        f"On one thread an inference takes {alone['teacher']['total']:.3f} s",
        f"Half of that is {alone['teacher']['total'] / 2:.3f} s. The rest of the {inference[ours]:.3f} s",
        f"products are {flop['teacher'] / flop['student']:.2f} times fewer",
        f"its predictors keep {100 * predictors[1] / predictors[0]:.0f} % of the teacher's",
        f"On one thread it takes {alone['student']['total']:.3f} s",
        f"{alone['teacher']['total'] / alone['student']['total']:.2f} times less",
    ):
        assert fact in plain("docs/speed.md"), fact


# ---- Python lines ----


def test_the_python_lines_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("RESULTS", "KITTI/training/label_2"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "000000.txt").touch()
    path = tmp_path / "best.pt"
    torch.save({"format": CHECKPOINT_FORMAT, "model": model_record(build_model("student")), "training": {}}, path)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", PAGES["docs/python.md"], flags=re.DOTALL):
        exec(code.replace("runs/demo/student-gamma0.3/best.pt", str(path)), names)
    assert names["flow"].shape == (1, 2048, 3) and names["flow"].isfinite().all()
    assert names["output"].features["bev/0"].shape[:2] == (1, 32) and len(names["found"].boxes) == len(names["names"])
    assert count_parameters(names["small"]) < count_parameters(names["net"])


# ---- results/README.md and docs/reproduce.md ----


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
    assert shown == set(make_tables.EXPERIMENTS) - {"scene_flow/remaining", "lidar/pointdistiller"}  # not run


def test_every_experiment_has_its_command_in_reproduce():
    scripts = {path for path in ROOT.glob("experiments/*/*.sh") if not path.stem.endswith(("common", "setting"))}
    page = PAGES["docs/reproduce.md"]
    named = re.findall(r"^\| `[^`]*bash (experiments/\w+/\w+\.sh)` \|", page, flags=re.MULTILINE)
    assert sorted(named) == sorted(str(path.relative_to(ROOT)) for path in scripts)
