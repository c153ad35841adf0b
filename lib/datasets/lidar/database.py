"""The ground-truth database: labelled objects of the training frames with their points, to be put into other frames.

It holds every Car, Pedestrian and Cyclist that KITTI counts at one level of difficulty at least and that has 5 points
or more in its box.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.boxes import camera_to_lidar
from lib.datasets.kitti_object import Frame, Frames, Label
from lib.errors import InputError
from lib.files import ARRAY_DAMAGE, sync_folder
from lib.kitti import LEVELS
from lib.ops import points_in_boxes

TYPES = ("Car", "Pedestrian", "Cyclist")
FEWEST_POINTS = 5
FOLDER = "ground_truth_database"  # where databases lie, one folder each, named by a hash
VERSION = 1  # to be raised when the content for the same frames changes
POINTS, OBJECTS = "points.npy", "objects.npz"  # the files of a database


class Database:
    """Objects with their points. K objects, P points. `open_database` makes one.

    boxes (K, 7) float64: LiDAR boxes. types (K,) str. starts (K + 1,) int64: object k has the points starts[k] up to
    starts[k + 1]. points (P, 4) float32: x, y, z in m from the box's centre, not turned, and reflectance.
    folder: where it lies on the disk; then its points are mapped from the file, and a pickle holds the path alone.
    """

    def __init__(
        self, boxes: np.ndarray, types: np.ndarray, starts: np.ndarray, points: np.ndarray, folder: Path | None = None
    ) -> None:
        self.boxes, self.types, self.starts, self.points, self.folder = boxes, types, starts, points, folder

    def __len__(self) -> int:
        return len(self.boxes)

    def rows(self, type: str, fewest: int = 0) -> np.ndarray:
        """The objects of a type that have at least so many points."""
        return np.flatnonzero((self.types == type) & (np.diff(self.starts) >= fewest))

    def points_of(self, row: int) -> np.ndarray:
        """The points (n, 4) float32 of an object, where they were in its own frame."""
        points = np.array(self.points[self.starts[row] : self.starts[row + 1]])
        points[:, :3] += self.boxes[row, :3]
        return points

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) if self.folder is None else {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state if state["folder"] is None else vars(read_database(state["folder"])))


def open_database(frames: Sequence[Frame], folder: Path | None = None) -> Database:
    """The database of frames with points and labels.

    folder: where it is kept, in ground_truth_database/<hash>. It is built when it is not there, and read otherwise. The
    hash is that of the frames' names, labels and calibrations, so changed labels give a new database. Several processes
    may build it at the same time: one of the equal results stays. None builds it in memory.

    Raises InputError for frames without a fitting object, a folder that cannot be written to, and a damaged database.
    """
    if folder is None:
        return build_database(frames)
    target = folder / FOLDER / fingerprint(frames)
    if not target.is_dir():
        _write(build_database(frames), target)
    return read_database(target)


def fingerprint(frames: Sequence[Frame]) -> str:
    """16 hex digits of SHA-256 over the frames' names, labels and calibrations, in their order.

    Of frames on the disk the two text files are read, not the scans: seconds for the full training set.
    """
    code = hashlib.sha256(repr((VERSION, TYPES, FEWEST_POINTS)).encode())
    for i, name in enumerate(frames.names):
        if isinstance(frames, Frames):
            content = frames.texts(i)
        else:
            frame = frames[i]
            content = (frame.calibration.lidar_to_camera.tolist(), [tuple(label) for label in frame.objects])
        code.update(repr((name, content)).encode())
    return code.hexdigest()[:16]


def build_database(frames: Sequence[Frame]) -> Database:
    """The database of frames, in memory: frame by frame, object by object. InputError: no object fits."""
    boxes, types, clouds = [], [], []
    for i in range(len(frames)):
        frame = frames[i]
        labels = [label for label in frame.objects if label.type in TYPES and _counts(label)]
        if not labels:
            continue
        matrix = frame.calibration.lidar_to_camera
        own = camera_to_lidar(np.stack([label.camera_box for label in labels]), matrix)
        inside = points_in_boxes(torch.tensor(frame.points), torch.from_numpy(own)).numpy()  # (M, N)
        for label, box, mine in zip(labels, own, inside, strict=True):
            if mine.sum() >= FEWEST_POINTS:
                points = frame.points[mine]
                points[:, :3] -= box[:3]
                boxes.append(box)
                types.append(label.type)
                clouds.append(points)
    if not boxes:
        raise InputError(
            f"none of the {len(frames)} training frames has an object for the ground-truth database "
            f"({', '.join(TYPES)} with {FEWEST_POINTS} points, not too hard to see): train with --augment off"
        )
    starts = np.cumsum([0, *map(len, clouds)], dtype=np.int64)
    return Database(np.stack(boxes), np.array(types), starts, np.concatenate(clouds))


def read_database(folder: Path) -> Database:
    """A database from its folder. Raises InputError when it is damaged."""
    try:
        with np.load(folder / OBJECTS, allow_pickle=False) as file:
            boxes, types, starts = file["boxes"], file["types"], file["starts"]
        points = np.load(folder / POINTS, mmap_mode="r", allow_pickle=False)
        sound = (
            (boxes.shape, boxes.dtype) == ((len(types), 7), np.float64)
            and types.ndim == 1
            and set(types.tolist()) <= set(TYPES)
            and (starts.shape, starts.dtype) == ((len(types) + 1,), np.int64)
            and starts[0] == 0
            and bool((np.diff(starts) >= FEWEST_POINTS).all())
            and (points.shape, points.dtype) == ((starts[-1], 4), np.float32)
            and bool(np.isfinite(boxes).all() and np.isfinite(points).all())
        )
    except (OSError, *ARRAY_DAMAGE) as error:
        raise InputError(_damaged(folder)) from error
    if not sound:
        raise InputError(_damaged(folder))
    return Database(boxes, types, starts, points, folder)


def _damaged(folder: Path) -> str:
    return f"the ground-truth database {folder} is damaged: remove that folder, the next run builds it again"


def _counts(label: Label) -> bool:
    """Whether an object is valid at one level of difficulty at least."""
    height = label.box2d[3] - label.box2d[1]
    return not all(level.excludes(height, label.occluded, label.truncated) for level in LEVELS.values())


def _write(database: Database, target: Path) -> None:
    """Writes a database beside its place and then renames the folder, so that it is complete wherever it is seen."""
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=target.parent))
        with open(temporary / POINTS, "wb") as file:
            np.save(file, database.points, allow_pickle=False)
            _flush(file)
        with open(temporary / OBJECTS, "wb") as file:
            np.savez(file, boxes=database.boxes, types=database.types, starts=database.starts)
            _flush(file)
        sync_folder(temporary)
        temporary.chmod(0o755)  # mkdtemp lets no one else read
        try:
            os.rename(temporary, target)
        except OSError:
            if not target.is_dir():  # else another process was faster, with the same content
                raise
        sync_folder(target.parent)
    except OSError as error:
        raise InputError(
            f"cannot write the ground-truth database to {target.parent} ({error.strerror or error}): "
            f"give a folder that can be written to with --database"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)  # not there any more when it was renamed


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
