"""A street computed from a seed, seen by a LiDAR: frames as those of KITTI's object benchmark, without a download.

world.py draws what stands where, bodies.py says what things are made of, rays.py finds what a ray meets, lidar.py turns
that into a scan, labels.py writes the label lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from lib.camera import Calibration
from lib.datasets.kitti_object import Frame, Label
from lib.datasets.synthetic_street.labels import label_objects
from lib.datasets.synthetic_street.lidar import Scan, fan_of, scan, visible_shares
from lib.datasets.synthetic_street.rays import cast
from lib.datasets.synthetic_street.world import World, draw_world
from lib.errors import InputError

__all__ = ["CALIBRATION", "DEFAULT_COUNTS", "IMAGE_SIZE", "PARTS", "SyntheticStreet", "draw_scene", "observe"]

PARTS = {"train": 0, "validation": 1, "test": 2}  # the number goes into the generator's seed
DEFAULT_COUNTS = {"train": 400, "validation": 48, "test": 128}
FIRST_NAMES = {"train": 0, "validation": 800_000, "test": 900_000}  # so that no two parts share a name
LAST_NAMES = {"train": 800_000, "validation": 900_000, "test": 1_000_000}
WORLD, LIDAR = 201, 202  # the random streams; 203 is kept for the appearance of an image
KEPT_FRAMES = 640  # the latest ones stay in memory, about 0.28 MB each

IMAGE_SIZE = (1242, 375)  # width, height in px
CALIBRATION = Calibration(  # that of most KITTI frames, with axes that are parallel
    P2=np.array(
        [[721.5377, 0.0, 609.5593, 44.85728], [0.0, 721.5377, 172.854, 0.2163791], [0.0, 0.0, 1.0, 0.002745884]]
    ),
    R0_rect=np.eye(3),
    Tr_velo_to_cam=np.array([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -0.08], [1.0, 0.0, 0.0, -0.27]]),
)


class SyntheticStreet:
    """A part of the set: a sequence of `count` frames, computed when asked for. The latest 640 are kept in memory.

    part: "train", "validation" or "test". A scene depends on seed, part and index alone. Frames have no image:
    image_path is None. Their names have six digits; no two parts share one.
    Raises InputError for another part, a count that is not positive or too large for six digits, and a negative seed.
    """

    def __init__(self, part: str, count: int, seed: int = 0) -> None:
        if part not in PARTS:
            raise InputError(f"no part {part!r}: choose one of {', '.join(PARTS)}")
        most = LAST_NAMES[part] - FIRST_NAMES[part]
        if not 1 <= count <= most:
            raise InputError(f"number of scenes is {count}; the part {part} can have 1 to {most}")
        if seed < 0:
            raise InputError(f"seed is {seed}; it must be 0 or more")
        self.part, self.seed = part, seed
        self.names = [f"{FIRST_NAMES[part] + index:06d}" for index in range(count)]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Frame]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Frame:
        """Frame number `index`."""
        return _frame(self.seed, self.part, range(len(self))[index])


def draw_scene(seed: int, part: str, index: int) -> World:
    """The street of a scene."""
    return draw_world(_stream(WORLD, seed, part, index))


def observe(world: World, noise: np.random.Generator) -> tuple[Scan, list[Label]]:
    """What the LiDAR sees of a street, and the label lines of the frame. noise: the random stream of the scan."""
    fan = fan_of(world)
    hits = cast(world.bodies, fan)
    shares = visible_shares(world, fan, hits, CALIBRATION, IMAGE_SIZE)
    labels = label_objects(world, shares, CALIBRATION, IMAGE_SIZE)
    return scan(world, fan, hits, noise, CALIBRATION, IMAGE_SIZE), labels


@lru_cache(KEPT_FRAMES)
def _frame(seed: int, part: str, index: int) -> Frame:
    made, labels = observe(draw_scene(seed, part, index), _stream(LIDAR, seed, part, index))
    made.points.flags.writeable = False  # later readers get the same array
    return Frame(f"{FIRST_NAMES[part] + index:06d}", made.points, None, IMAGE_SIZE, CALIBRATION, labels)


def _stream(number: int, seed: int, part: str, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([number, seed, PARTS[part], index])))
