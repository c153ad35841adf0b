"""The processed layout on disk: one folder per scene with pc1.npy and pc2.npy, read with every check.

Both files are (n, 3), float32 or float64, finite, and of the same length. A file is never unpickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lib.datasets.scene_flow.scene import Scene
from lib.errors import InputError
from lib.files import check_finite, read_npy

VALIDATION_SHARE = 10  # one scene in ten is held out of the training data ...
VALIDATION_LIMIT = 200  # ... and never more than this many


class FolderScenes:
    """Scenes read from folders, one at a time, whenever they are asked for.

    folders: the scenes' folders; names: what to call them; load(folder, name) -> Scene.
    """

    def __init__(self, folders: Sequence[Path], names: Sequence[str], load: Callable[[Path, str], Scene]):
        self.folders = list(folders)
        self.names = list(names)
        self.load = load

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> Scene:
        return self.load(self.folders[index], self.names[index])


def find_folder(root: Path | None, dataset: str, folder_names: Sequence[str], is_it: Callable[[Path], bool]) -> Path:
    """The data set's folder: below `root` under one of its names, or `root` itself when is_it(root) holds.

    Raises InputError when no root was given or the folder is not there.
    """
    names = " or ".join(folder_names)
    if root is None:
        raise InputError(f"data set {dataset} needs --data-root: the folder that holds {names}")
    root = Path(root)
    for name in folder_names:
        if (root / name).is_dir():
            return root / name
    if root.is_dir() and is_it(root):
        return root
    raise InputError(
        f"no folder {names} in {root}: prepare the data set in the processed layout there "
        f"(docs/data.md) or give another --data-root"
    )


def scene_ids(folder: Path) -> list[str]:
    """Sorted names of the scene folders (digits only) in a folder. Raises InputError when there is none."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: prepare the data set in the processed layout there (docs/data.md)")
    ids = sorted(entry.name for entry in folder.iterdir() if is_scene_id(entry.name) and entry.is_dir())
    if not ids:
        raise InputError(
            f"{folder} is empty: it should hold one folder per scene, named by digits, with pc1.npy and pc2.npy"
        )
    return ids


def is_scene_id(name: str) -> bool:
    """True for a folder name that is a scene's: digits alone."""
    return name.isascii() and name.isdigit()


def warn_about_count(folder: Path, found: int, full: int) -> None:
    """Warn, naming both counts, when a folder does not hold the full set."""
    if found != full:
        warnings.warn(f"{folder} holds {found} scenes, the full set has {full}", stacklevel=1)


def cut_validation(training: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a sorted training list into (train, validation): the last tenth, at least 1 and at most 200, is held out.

    Raises InputError when the list has fewer than two scenes.
    """
    if len(training) < 2:
        raise InputError(
            f"{len(training)} training scene(s) found, at least 2 are needed: "
            f"one to train on and one to hold out for validation"
        )
    held_out = min(max(len(training) // VALIDATION_SHARE, 1), VALIDATION_LIMIT)
    return list(training[:-held_out]), list(training[-held_out:])


def read_pair(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The two clouds of a scene folder as stored, (n, 3) float32 each. Raises InputError for anything wrong."""
    pc1 = read_cloud(folder / "pc1.npy")
    pc2 = read_cloud(folder / "pc2.npy")
    if len(pc1) != len(pc2):
        raise InputError(
            f"{folder}: pc1.npy has {len(pc1)} rows and pc2.npy has {len(pc2)}; "
            f"row i of pc2 must be where row i of pc1 moved, so prepare this scene again"
        )
    return pc1, pc2


def read_cloud(path: Path) -> np.ndarray:
    """One .npy file as (n, 3) float32. Raises InputError for a missing, damaged, pickled or unfit file."""
    if not path.is_file():
        raise InputError(f"no file {path}: every scene folder holds pc1.npy and pc2.npy")
    try:
        cloud = read_npy(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(cloud) == 0:
        raise InputError(f"{path} has no rows; prepare this scene again or remove its folder")
    check_finite(path, cloud, "prepare this scene again")
    return cloud


def check_depth(folder: Path, pc1: np.ndarray) -> None:
    """Raise InputError when the whole cloud lies behind the camera: its signs were stored another way."""
    if not (pc1[:, 2] > 0).any():
        raise InputError(
            f"{folder}: no point of pc1.npy lies in front of the camera after the data set's sign rule; "
            f"prepare this scene again with the signs of the processed layout"
        )
