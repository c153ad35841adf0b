"""FlyingThings3D in the processed layout, without occluded points (Gu et al., HPLFlowNet, CVPR 2019).

`<root>/FlyingThings3D_subset_processed_35m/{train,val}/<7-digit id>/{pc1,pc2}.npy`. The folder train/ gives the parts
"train" and "validation", val/ gives "test".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lib.camera import FLYINGTHINGS3D_CAMERA
from lib.datasets.scene_flow import processed
from lib.datasets.scene_flow.scene import Scene

FOLDER_NAMES = ("FlyingThings3D_subset_processed_35m",)
FULL_COUNTS = {"train": 19640, "val": 3824}
SIGNS = np.array([-1, 1, -1], dtype=np.float32)  # the files store x and z negated
QUARTER = 4  # the published quarter set: every 4th scene of the training list


def open_part(part: str, root: Path | None, subset: str) -> processed.FolderScenes:
    """Scenes of one part ("train", "validation" or "test"). Raises InputError for missing or empty folders."""
    base = processed.find_folder(
        root, "ft3d", FOLDER_NAMES, lambda path: (path / "train").is_dir() or (path / "val").is_dir()
    )
    split = "val" if part == "test" else "train"
    ids = processed.scene_ids(base / split)
    processed.warn_about_count(base / split, len(ids), FULL_COUNTS[split])
    ids = part_ids(ids, part, subset)
    return processed.FolderScenes([base / split / i for i in ids], [f"ft3d/{split}/{i}" for i in ids], load)


def part_ids(ids: list[str], part: str, subset: str) -> list[str]:
    """The ids of a part, out of its folder's sorted ids. The quarter is taken before validation is cut off."""
    if part == "test":
        return ids
    training = ids[::QUARTER] if subset == "quarter" else ids
    train, validation = processed.cut_validation(training)
    return train if part == "train" else validation


def load(folder: Path, name: str) -> Scene:
    """One scene after the sign rule. Raises InputError for anything wrong with its files."""
    pc1, pc2 = processed.read_pair(folder)
    pc1, pc2 = pc1 * SIGNS, pc2 * SIGNS
    processed.check_depth(folder, pc1)
    return Scene(name, pc1, pc2, FLYINGTHINGS3D_CAMERA)
