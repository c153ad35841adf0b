"""What the tests of training share: tiny data folders, small checkpoints, and the scripts as separate processes."""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lib.datasets.scene_flow.kitti import evaluated_frames
from lib.losses.distill import DistillationMethod, Setting
from lib.tasks import TASKS
from lib.tasks.distil import Distiller
from lib.training.checkpoint import save_checkpoint
from models import build_model

ROOT = Path(__file__).resolve().parents[1]
SCENE_FLOW = TASKS["scene-flow"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TINY = ["--num-points", "128", "--device", "cpu", "--workers", "0"]


def write_ft3d(root: Path, train: int = 8, test: int = 2, rows: int = 200) -> Path:
    """A folder in the layout of ft3d: boxes of random points, each scene moved as a whole. Returns ``root``."""
    rng = np.random.default_rng(5)
    for part, count in (("train", train), ("val", test)):
        for i in range(count):
            save_scene(root / "FlyingThings3D_subset_processed_35m" / part / f"{i:07d}", rng, rows, signs=(-1, 1, -1))
    return root


def write_kitti(root: Path, train: int = 4, test: int = 2, rows: int = 200) -> Path:
    """A folder in the layout of KITTI, with the first training and the first test frames. Returns ``root``."""
    rng = np.random.default_rng(6)
    frames = evaluated_frames()
    for frame in frames[:train] + frames[100 : 100 + test]:
        save_scene(root / "KITTI_processed_occ_final" / frame, rng, rows, signs=(1, 1, 1))
    return root


def save_scene(folder: Path, rng: np.random.Generator, rows: int, signs: tuple[int, int, int]) -> None:
    cloud = rng.uniform([-5, -1, 8], [5, 3, 25], (rows, 3))
    moved = cloud + rng.normal(0, 0.4, 3)
    folder.mkdir(parents=True)
    np.save(folder / "pc1.npy", (cloud * signs).astype(np.float32))
    np.save(folder / "pc2.npy", (moved * signs).astype(np.float32))


def save_teacher(path: Path, seed: int = 3, **options) -> Path:
    """An untrained network in a checkpoint file, narrow unless options say otherwise."""
    torch.manual_seed(seed)
    net = build_model("teacher", **{"pyramid": (8, 8, 16, 16, 16), "predictor": (16, 16, 16, 8), **options})
    save_checkpoint(path, net, {})
    return path


def setting_for(student: nn.Module, teacher: nn.Module | None = None, batch: int = 2, build_peer=None) -> Setting:
    """What the methods of scene flow are built for."""
    taught = None if teacher is None else SCENE_FLOW.shapes(teacher)
    return Setting(SCENE_FLOW.shapes(student), taught, batch, build_peer, levels=SCENE_FLOW.levels)


def distiller(method: DistillationMethod, teacher: nn.Module | None = None, final_only: bool = False) -> Distiller:
    """What makes a step of scene flow."""
    return Distiller(SCENE_FLOW, argparse.Namespace(final_only=final_only), method, teacher)


def command(script: str, *flags: object) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, flags)]


def environment() -> dict[str, str]:
    """As many threads as in this process: the order of sums, and so their last bits, depends on that number."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": path}


def run(script: str, *flags: object, **options) -> subprocess.CompletedProcess:
    """Runs a script to its end and hands back its status and its output as text."""
    return subprocess.run(
        command(script, *flags), capture_output=True, text=True, timeout=300, env=environment(), **options
    )


def start(launcher: list[str], script: str, *flags: object) -> subprocess.CompletedProcess:
    """As ``run``, by a launcher: [sys.executable], or ``TORCHRUN`` for two processes."""
    arguments = [*launcher, str(ROOT / script), *map(str, flags)]
    return subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=300)


def launch(script: str, *flags: object) -> subprocess.Popen:
    """Starts a script and returns at once. Ctrl-C reaches it also where tests run in a shell's background, which it
    would otherwise be told to ignore."""
    return subprocess.Popen(
        command(script, *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def log_lines(run_folder: Path) -> list[dict]:
    """log.jsonl without the only field that may differ between equal runs."""
    lines = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def identical(a: object, b: object) -> bool:
    """Bit for bit, through dicts, lists and tensors."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(identical, a, b))
    return a == b


def assert_same_run(a: Path, b: Path) -> None:
    """Both folders hold the same run: weights, optimizer, generators, best, and log lines."""
    assert log_lines(a) == log_lines(b)
    for name in ("last.pt", "best.pt"):
        first, second = load(a / name), load(b / name)
        for part in first:
            assert identical(first[part], second[part]), f"{name}: {part} differs"
