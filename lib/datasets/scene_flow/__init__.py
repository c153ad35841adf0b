"""Data sets for scene flow: ordered sources of scenes (scene.py). `open_scenes` opens a part of one.

* ft3d, kitti: the processed layout on disk.
* synthetic-things, synthetic-drive: procedural, computed from a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lib.datasets.scene_flow import ft3d, kitti, synthetic_drive, synthetic_things
from lib.datasets.scene_flow.pairs import FlowBatch, FlowPair, FlowPairs, collate
from lib.datasets.scene_flow.scene import Scene, SceneSource
from lib.errors import InputError

__all__ = [
    "AUGMENTED",
    "DATASETS",
    "Dataset",
    "FlowBatch",
    "FlowPair",
    "FlowPairs",
    "Scene",
    "SceneSource",
    "collate",
    "open_scenes",
]

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """What a data set offers. open(part, root, subset) for one on disk, open(part, num_scenes, seed) for the others."""

    open: Callable[..., SceneSource]
    on_disk: bool
    augment: bool  # the published recipe augments its training samples
    parts: tuple[str, ...] = PARTS
    subsets: tuple[str, ...] = ("full",)


DATASETS = {
    "ft3d": Dataset(ft3d.open_part, on_disk=True, augment=True, subsets=("full", "quarter")),
    "kitti": Dataset(kitti.open_part, on_disk=True, augment=False, parts=(*PARTS, "all")),
    "synthetic-things": Dataset(synthetic_things.open_part, on_disk=False, augment=True),
    "synthetic-drive": Dataset(synthetic_drive.open_part, on_disk=False, augment=False),
}
AUGMENTED = tuple(name for name, entry in DATASETS.items() if entry.augment)


def open_scenes(
    dataset: str,
    part: str,
    root: Path | None = None,
    subset: str = "full",
    num_scenes: int | None = None,
    seed: int = 0,
) -> SceneSource:
    """The scenes of one part of a data set.

    part: "train" (what the optimiser sees), "validation" (held out of the training data, to choose a checkpoint by),
    "test" (the reported split), and for kitti "all" (every evaluated frame present). On disk, validation is the last
    tenth of the sorted training list, at least 1 scene and at most 200.
    root: for a data set on disk, the folder that holds its folder, or that folder itself.
    subset: "quarter" takes every 4th scene of ft3d's training list, before validation is cut off.
    num_scenes, seed: for the procedural sets; num_scenes is the size of the part "train" (512 when not given).
    Warns when a folder does not hold the full set. Raises InputError for anything that is not there, and for an
    argument that the data set has no use for (seed excepted).
    """
    if dataset not in DATASETS:
        raise InputError(f"no data set {dataset!r}: choose one of {', '.join(DATASETS)}")
    entry = DATASETS[dataset]
    if part not in entry.parts:
        raise InputError(f"data set {dataset} has no part {part!r}: choose one of {', '.join(entry.parts)}")
    if subset not in entry.subsets:
        raise InputError(f"data set {dataset} has no subset {subset!r}: choose one of {', '.join(entry.subsets)}")
    if entry.on_disk:
        if num_scenes is not None:
            raise InputError(f"data set {dataset} is read from disk: leave --num-scenes out")
        return entry.open(part, root, subset)
    if root is not None:
        raise InputError(f"data set {dataset} is computed, not read: leave --data-root out")
    return entry.open(part, num_scenes, seed)
