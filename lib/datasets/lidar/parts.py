"""The data sets for LiDAR detection and their parts: KITTI on the disk, and a street computed from a seed.

* "train": what the optimiser sees. "validation": held out of the training data, to choose a checkpoint by.
* "test": what is reported. "all" (kitti only): every frame of the folder.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lib.boxes import camera_to_lidar
from lib.datasets.kitti_object import Frame, Label, open_frames
from lib.datasets.synthetic_street import DEFAULT_COUNTS, SyntheticStreet
from lib.errors import InputError

DATASETS = ("kitti", "synthetic-lidar")
ON_DISK = frozenset({"kitti"})
PARTS = ("train", "validation", "test")
HELD_OUT = 10  # one in ten training frames is held out for validation ...
MOST_HELD_OUT = 200  # ... and no more than these


class Area(NamedTuple):
    """The ground on which objects count, in the LiDAR frame, m: low included, high excluded."""

    low: tuple[float, float]  # x, y
    high: tuple[float, float]

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies strictly inside."""
        return self.low[0] < x < self.high[0] and self.low[1] < y < self.high[1]


class FramesInside(Sequence[Frame]):
    """Frames whose labelled objects outside an area are left out. DontCare regions stay: they have no place."""

    def __init__(self, frames: Sequence[Frame], area: Area) -> None:
        self.frames, self.area = frames, area
        self.names = frames.names

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Frame:
        frame = self.frames[index]
        matrix = frame.calibration.lidar_to_camera

        def inside(label: Label) -> bool:
            x, y, *_ = camera_to_lidar(label.camera_box, matrix).tolist()
            return label.type == "DontCare" or self.area.holds(x, y)

        return frame._replace(objects=[label for label in frame.objects if inside(label)])


def open_part(
    dataset: str,
    part: str,
    root: Path | None = None,
    train_frames: Path | None = None,
    test_frames: Path | None = None,
    num_scenes: int | None = None,
) -> Sequence[Frame]:
    """The frames of one part of a data set, with scans and labels.

    root: for kitti, the folder that holds training/. train_frames, test_frames: for kitti, lists of frame numbers;
    without them ImageSets/train.txt and val.txt of the root count, and where there are none every frame of the folder.
    The last tenth of the training list, at most 200 frames, is held out for validation. num_scenes: frames of the part
    "train" of synthetic-lidar (400); "validation" has 48, or as many as "train" where those are fewer.
    Raises InputError for what is not there and for arguments of the other data set.
    """
    if dataset not in DATASETS:
        raise InputError(f"no data set {dataset!r}: choose one of {', '.join(DATASETS)}")
    if part not in (*PARTS, "all") or (part == "all" and dataset != "kitti"):
        raise InputError(f"data set {dataset} has no part {part!r}: choose one of {', '.join(PARTS)}")
    if dataset == "synthetic-lidar":
        for flag, value in (("data-root", root), ("train-frames", train_frames), ("test-frames", test_frames)):
            if value is not None:
                raise InputError(f"data set {dataset} is computed, not read: leave --{flag} out")
        wanted = DEFAULT_COUNTS["train"] if num_scenes is None else num_scenes
        counts = {**DEFAULT_COUNTS, "train": wanted, "validation": min(DEFAULT_COUNTS["validation"], wanted)}
        return SyntheticStreet(part, counts[part])
    if num_scenes is not None:
        raise InputError(f"data set {dataset} is read from disk: leave --num-scenes out")
    if root is None:
        raise InputError("data set kitti needs --data-root: the folder that holds training/")
    if part == "all":
        return open_frames(root)
    given = test_frames if part == "test" else train_frames
    usual = root / "ImageSets" / ("val.txt" if part == "test" else "train.txt")
    split = given or (usual if usual.is_file() else None)
    if split is None:
        warnings.warn(
            f"there is no {usual}: every frame of {root} is taken; give a list with "
            f"--{'test' if part == 'test' else 'train'}-frames",
            stacklevel=2,
        )
    frames = open_frames(root, split)
    if part == "test":
        return frames
    held_out = min(max(len(frames) // HELD_OUT, 1), MOST_HELD_OUT)
    if len(frames) <= held_out:
        raise InputError(f"{split or root} has {len(frames)} frame: training needs one more, to be held out")
    rows = slice(-held_out, None) if part == "validation" else slice(None, -held_out)
    frames.names = frames.names[rows]
    return frames
