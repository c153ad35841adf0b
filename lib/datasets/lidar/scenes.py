"""From frames to samples for LiDAR detectors: the points in a detector's range and the boxes it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from lib.boxes import camera_to_lidar
from lib.datasets.kitti_object import Frame
from lib.datasets.lidar.augment import OTHER, PLAIN, Augmentation, Range, Scene, augment_scene
from lib.datasets.lidar.database import Database
from lib.errors import InputError
from lib.ops import points_in_boxes

TRAINING_STREAM = 2  # the first number of each training generator's seed, as in lib/datasets/scene_flow/pairs.py


class LidarSample(NamedTuple):
    """One cloud and its objects. LiDAR frame, metres and radians."""

    points: torch.Tensor  # (N, 4) float32: x, y, z, reflectance
    boxes: torch.Tensor  # (M, 7) float32: LiDAR boxes of lib/boxes.py
    labels: torch.Tensor  # (M,) int64: places in the classes of the scenes
    name: str
    frame: Frame | None  # what evaluation scores against; None in training


class LidarBatch(NamedTuple):
    """Several samples. Clouds differ in size, so each field is a list with one entry a sample."""

    points: list[torch.Tensor]  # (N_i, 4) float32
    boxes: list[torch.Tensor]  # (M_i, 7) float32
    labels: list[torch.Tensor]  # (M_i,) int64
    names: list[str]
    frames: list[Frame | None]


def collate(samples: Sequence[LidarSample]) -> LidarBatch:
    """A batch of samples."""
    return LidarBatch(*(list(values) for values in zip(*samples, strict=True)))


class LidarScenes(torch.utils.data.Dataset):
    """Samples of frames. Every draw depends on its key alone, so workers and order change nothing.

    scenes[i]: frame i for evaluation: nothing is drawn, points and objects keep the order of the files.
    scenes[epoch, i]: frame i for training. What is drawn depends on (seed, epoch, i) only. The points are shuffled,
    because a full voxel keeps the points that come first.

    frames: points, calibration and labels in view of the camera, with `names`. classes: the types to be detected; a
    label is a place in it. area: low x, y, z and high x, y, z in m; points on the low side are kept, those on the high
    side are not. A sample holds every object of the classes whose centre lies strictly inside seen from above, however
    hard it is to see. augment: what is done in training; None does nothing. database: where the augmentation takes
    objects from. min_points: objects with fewer points inside their box are left out.

    Raises InputError for classes or an area that cannot be, for an augmentation that needs a database and gets none,
    and, when asked for a sample, for a frame without a point in the area.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        classes: Sequence[str],
        area: Range,
        *,
        augment: Augmentation | None = None,
        database: Database | None = None,
        min_points: int = 0,
        seed: int = 0,
    ) -> None:
        if not classes or len(set(classes)) < len(classes):
            raise InputError(f"classes are {tuple(classes)}: give at least one, and each once")
        if len(area) != 6 or not all(low < high for low, high in zip(area[:3], area[3:], strict=True)):
            raise InputError(f"the range is {tuple(area)}: give low x, y, z and then high x, y, z, all in m")
        if seed < 0:
            raise InputError(f"seed is {seed}; it must be 0 or more")
        if augment is not None and "database" in augment.steps and database is None:
            raise InputError("this augmentation adds objects of a database: give one (open_database)")
        self.frames, self.classes, self.area = frames, tuple(classes), tuple(map(float, area))
        self.augment, self.database = augment, database
        self.min_points, self.seed = min_points, seed

    @property
    def names(self) -> list[str]:
        """The names of the frames."""
        return self.frames.names

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: int | tuple[int, int]) -> LidarSample:
        if isinstance(key, tuple):
            epoch, i = key
            i = range(len(self))[i]
            frame = self.frames[i]
            rng = np.random.default_rng((TRAINING_STREAM, self.seed, epoch, i))
            scene = augment_scene(
                scene_of(frame, self.classes), self.augment or PLAIN, self.classes, self.area, self.database, rng
            )
            scene = scene._replace(points=scene.points[rng.permutation(len(scene.points))])
            return self._sample(scene, frame)._replace(frame=None)
        frame = self.frames[range(len(self))[key]]
        return self._sample(augment_scene(scene_of(frame, self.classes), PLAIN, self.classes, self.area), frame)

    def _sample(self, scene: Scene, frame: Frame) -> LidarSample:
        if len(scene.points) == 0:
            raise InputError(f"frame {frame.name} has no point in the range {self.area}: remove it or widen the range")
        ours = scene.labels != OTHER
        points, boxes, labels = torch.from_numpy(scene.points), scene.boxes[ours], scene.labels[ours]
        if self.min_points > 0:
            enough = points_in_boxes(points, torch.from_numpy(boxes)).sum(1).numpy() >= self.min_points
            boxes, labels = boxes[enough], labels[enough]
        return LidarSample(points, torch.from_numpy(boxes).float(), torch.from_numpy(labels), frame.name, frame)


def scene_of(frame: Frame, classes: Sequence[str]) -> Scene:
    """The points of a frame and its objects, in the order of the files. DontCare regions have no place: left out."""
    objects = [label for label in frame.objects if label.type != "DontCare"]
    boxes = np.array([label.box3d for label in objects], np.float64).reshape(-1, 7)  # (M, 7), also without objects
    labels = [classes.index(label.type) if label.type in classes else OTHER for label in objects]
    return Scene(
        frame.points, camera_to_lidar(boxes, frame.calibration.lidar_to_camera), np.array(labels, dtype=np.int64)
    )
