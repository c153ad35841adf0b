"""The procedural sets as folders, for programs that read folders. Their names say synthetic.

synthetic-things takes FlyingThings3D's layout and signs: synthetic-things/{train,val}/<7 digits>. synthetic-drive takes
KITTI's: synthetic-drive/<6 digits>. Every scene has the camera of most KITTI frames. The KITTI frame of the same
number may have another. synthetic-lidar takes the layout of KITTI's object benchmark (street.py).
"""

from __future__ import annotations

from collections.abc import Callable

from lib.datasets.prepare import street
from lib.datasets.prepare.raw import Clouds, RawFrames
from lib.datasets.scene_flow import ft3d, kitti, synthetic_drive, synthetic_things
from lib.datasets.scene_flow.scene import Scene
from lib.errors import InputError


def things(num_scenes: int) -> RawFrames:
    """The first `num_scenes` training scenes in train/, and as many test scenes, at most all, in val/."""
    parts = {
        "train": synthetic_things.open_part("train", num_scenes, 0),
        "val": synthetic_things.open_part("test", None, 0),
    }
    names = [f"{part}/{i:07d}" for part, scenes in parts.items() for i in range(min(num_scenes, len(scenes)))]

    def convert(name: str) -> Clouds:
        part, number = name.split("/")
        scene: Scene = parts[part][int(number)]
        return scene.pc1 * ft3d.SIGNS, scene.pc2 * ft3d.SIGNS

    return RawFrames("synthetic-things", names, convert, signs=ft3d.SIGNS)


def drive(num_scenes: int) -> RawFrames:
    """The first `num_scenes` training scenes. Raises InputError for more than KITTI's layout has frames."""
    if num_scenes > kitti.FULL_COUNT:
        raise InputError(
            f"KITTI's layout has {kitti.FULL_COUNT} frames: synthetic-drive is written for at most as "
            f"many scenes, not {num_scenes}"
        )
    scenes = synthetic_drive.open_part("train", num_scenes, 0)

    def convert(name: str) -> Clouds:
        scene: Scene = scenes[int(name)]
        return scene.pc1, scene.pc2

    return RawFrames("synthetic-drive", [f"{i:06d}" for i in range(num_scenes)], convert)


SETS: dict[str, Callable[[int], RawFrames | street.StreetFrames]] = {
    "synthetic-things": things,
    "synthetic-drive": drive,
    "synthetic-lidar": street.lidar,
}
