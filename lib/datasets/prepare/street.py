"""synthetic-lidar as files in the layout of KITTI's object benchmark, for programs that read files.

synthetic-lidar/training/{image_2,calib,velodyne_reduced,label_2} hold all frames, synthetic-lidar/ImageSets the lists
train.txt, val.txt and test.txt. Points and labels are read back exactly as they were computed. The pictures in image_2
are no photographs: they show the points of the scan, the nearer the brighter, and give readers the image's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lib.datasets.kitti_object import Frame, Frames, write_calibration, write_labels
from lib.datasets.prepare.frames import Outcome, in_order
from lib.datasets.synthetic_street import DEFAULT_COUNTS, SyntheticStreet
from lib.errors import InputError
from lib.files import write_atomically

LISTS = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
FOLDERS = ("image_2", "calib", "velodyne_reduced", "label_2")
FARTHEST = 80.0  # m, drawn darkest


class StreetFrames(NamedTuple):
    """The frames of synthetic-lidar to write: all parts, one after another."""

    parts: dict[str, SyntheticStreet]
    folder: str = "synthetic-lidar"
    incomplete: int = 0  # none can be

    @property
    def names(self) -> list[str]:
        """The names of all frames, six digits each."""
        return [name for street in self.parts.values() for name in street.names]

    def write(self, out: Path, workers: int) -> Iterator[Outcome]:
        """Writes out/synthetic-lidar, `workers` frames at a time, and the lists at the end. Yields outcomes in order.

        A frame that can be read already is left as it is. Raises InputError when writing fails.
        """
        base = out / self.folder / "training"
        places = {name: (street, i) for street in self.parts.values() for i, name in enumerate(street.names)}

        def work(name: str) -> Outcome:
            try:
                read = Frames(base, [name], "velodyne_reduced", labels=True)[0]
                return Outcome(name, len(read.points), finished_before=True)
            except InputError:  # not there yet, or damaged
                street, index = places[name]
                frame = street[index]
                write_frame(base, frame)
                return Outcome(name, len(frame.points))

        make_folders([*(base / folder for folder in FOLDERS), out / self.folder / "ImageSets"])
        yield from in_order(work, self.names, workers)
        for part, street in self.parts.items():
            lines = "".join(f"{name}\n" for name in street.names)
            write_atomically(out / self.folder / "ImageSets" / LISTS[part], lines.encode())


def lidar(num_scenes: int) -> StreetFrames:
    """The first `num_scenes` training scenes, and as many validation and test scenes, at most 48 and 128.

    Raises InputError for more scenes than six digits can number.
    """
    counts = {part: min(num_scenes, most) for part, most in DEFAULT_COUNTS.items()} | {"train": num_scenes}
    return StreetFrames({part: SyntheticStreet(part, count) for part, count in counts.items()})


def write_frame(base: Path, frame: Frame) -> None:
    """Writes the four files of a frame below base. Raises InputError when the system refuses."""
    picture = cv2.imencode(".png", depth_picture(frame))[1].tobytes()
    write_atomically(base / "image_2" / f"{frame.name}.png", picture)
    write_calibration(base / "calib" / f"{frame.name}.txt", frame.calibration)
    write_atomically(base / "velodyne_reduced" / f"{frame.name}.bin", frame.points.astype("<f4").tobytes())
    write_labels(base / "label_2" / f"{frame.name}.txt", frame.objects)


def depth_picture(frame: Frame) -> np.ndarray:
    """The points of a frame as grey dots of 3 x 3 px on black, the nearer the brighter: (H, W, 3) uint8."""
    width, height = frame.image_size
    pixels, depth = frame.calibration.project(frame.calibration.to_camera(frame.points[:, :3]))
    farthest_first = np.argsort(-depth)
    column, row = pixels[farthest_first].astype(int).T  # (N,)
    grey = np.clip(255.0 * (1.0 - 0.8 * depth[farthest_first] / FARTHEST), 51, 255)
    picture = np.zeros((height + 2, width + 2), np.uint8)  # a border of 1 px, cut off below
    for down in (0, 1, 2):
        for right in (0, 1, 2):
            picture[row + down, column + right] = grey
    return np.repeat(picture[1:-1, 1:-1, None], 3, axis=2)


def make_folders(folders: list[Path]) -> None:
    """Makes folders that are not there yet. Raises InputError when the system refuses."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
