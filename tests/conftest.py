"""Fixtures several test files share: real data beside the project, the published weights' stand-in, small clouds."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("DATA_SHARED", ROOT.parent / "shared"))
os.environ.pop("DATA_ROOT", None)  # a default of --data-root, set in the container


# Folders and files whose tests train, start scripts or compile kernels. `make check` leaves them out.
SLOW = (
    "ops/",
    "training/test_engine.py",
    "training/test_resume.py",
    "training/test_distributed.py",
    "distill/test_distill_training.py",
    "distill/test_distill_online.py",
    "lidar/test_bad_input.py",
    "lidar/test_golden.py",
    "lidar/test_scripts.py",
    "scene_flow/test_golden.py",
    "scene_flow/test_graphs.py",
    "scene_flow/test_predict",
    "scene_flow/test_prepare",
    "scene_flow/test_visualize.py",
    "scene_flow/test_models.py",
    "test_bad_input.py",
    "test_benchmark.py",
    "test_container.py",
    "test_convert_checkpoint.py",
    "test_damaged_files.py",
    "test_experiments.py",
    "test_pages.py",
    "test_readme",
    "test_scripts.py",
    "test_sweep.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if str(item.path.relative_to(ROOT / "tests")).startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and this machine has none"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden values and real frames; tests that need it skip where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"golden values and real data not found at {SHARED} (set DATA_SHARED)")
    return SHARED


def fill_published_state(shared: Path, full_rank: bool) -> dict[str, torch.Tensor]:
    """A published state filled by one of the two rules of golden/README.md.

    The plain rule makes every matrix of rank 2; the other one makes nearly all of them of full rank.
    """
    state = {}
    for k, (name, shape) in enumerate(json.loads((shared / "golden/published_state_keys.json").read_text())):
        count = int(np.prod(shape))
        i = np.arange(1, count + 1)
        more = 0.3 + 100 * np.sin(0.6180339887 * i) if full_rank else 0.0
        s = np.sin(12.9898 * i + 78.233 * (k + 1) + more)
        if name.endswith("num_batches_tracked"):
            value = np.zeros(1, np.int64)
        elif name.endswith("running_mean"):
            value = 0.1 * s
        elif name.endswith("running_var"):
            value = 1 + 0.5 * s
        elif len(shape) == 1:
            value = 1 + 0.2 * s if "bn" in name and name.endswith("weight") else 0.1 * s
        elif "bias" in name:
            value = 0.5 * s
        elif full_rank:
            value = (0.5 if name.endswith("linear.weight") else 1.0) * np.sqrt(2 / (count / shape[0])) * s
        else:
            value = np.sqrt(3 / (count / shape[0])) * s
        tensor = torch.from_numpy(value.reshape(shape))
        state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


@pytest.fixture(scope="session")
def published_state(shared: Path) -> dict[str, torch.Tensor]:
    """A published state filled by the plain rule of golden/README.md."""
    return fill_published_state(shared, full_rank=False)


@pytest.fixture
def small_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Two clouds of 256 points in a 10 m box, batch 2."""
    generator = torch.Generator().manual_seed(3)
    xyz1 = torch.rand(2, 256, 3, generator=generator) * 10
    return xyz1, xyz1 + 0.3 * torch.randn(2, 256, 3, generator=generator)
