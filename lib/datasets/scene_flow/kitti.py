"""KITTI Scene Flow 2015 in the processed layout, without occluded points.

`<root>/KITTI_processed_occ_final/<6-digit id>/{pc1,pc2}.npy` (also named kitti_processed). Of the 200 frames, the 142
with a raw-data mapping are evaluated; kitti_frames.csv says which, and holds every frame's P_rect_02. The benchmark has
no split of these 142. This project's split: the first 100 are for training, the last 42 are the part "test". Frames
that are not evaluated are never read. The part "all" is every evaluated frame that is present.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path

from lib.camera import Camera
from lib.datasets.scene_flow import processed
from lib.datasets.scene_flow.scene import Scene
from lib.datasets.scene_flow.transforms import drop_ground
from lib.errors import InputError

FOLDER_NAMES = ("KITTI_processed_occ_final", "kitti_processed")
FULL_COUNT = 200
NUM_TRAINING = 100  # of the 142 evaluated frames; the other 42 are the test part
FRAME_TABLE = Path(__file__).with_name("kitti_frames.csv")


@functools.cache
def frame_table() -> dict[str, tuple[bool, Camera]]:
    """frame id -> (is it evaluated, its camera), for all 200 frames. x and y are stored negated, so f = -P00."""
    with open(FRAME_TABLE, newline="") as file:
        return {
            row["frame"]: (
                row["evaluated"] == "1",
                Camera(-float(row["f"]), *(float(row[k]) for k in ("cx", "cy", "p03", "p13", "p23"))),
            )
            for row in csv.DictReader(file)
        }


def evaluated_frames() -> list[str]:
    """The ids of the 142 evaluated frames, sorted."""
    return sorted(frame for frame, (evaluated, _) in frame_table().items() if evaluated)


def part_frames(part: str, present: list[str]) -> list[str]:
    """The frames of a part among those present on disk.

    Raises InputError for a frame that the benchmark does not have, and for a part of which nothing is present.
    """
    unknown = [frame for frame in present if frame not in frame_table()]
    if unknown:
        raise InputError(
            f"KITTI Scene Flow 2015 has no training frame {unknown[0]} (its frames are 000000 to 000199): "
            f"remove that folder"
        )
    evaluated = evaluated_frames()
    training, test = evaluated[:NUM_TRAINING], evaluated[NUM_TRAINING:]
    if part in ("train", "validation"):
        train, validation = processed.cut_validation([frame for frame in training if frame in set(present)])
        return train if part == "train" else validation
    wanted, what = (test, "test part") if part == "test" else (evaluated, "evaluated frames")
    frames = [frame for frame in wanted if frame in set(present)]
    if not frames:
        fix = "use --split all for every evaluated frame present" if part == "test" else "add evaluated frames"
        raise InputError(
            f"none of the {len(wanted)} KITTI frames of the {what} ({wanted[0]} to {wanted[-1]}) is "
            f"there, only {_few(present)}: {fix}"
        )
    return frames


def open_part(part: str, root: Path | None, subset: str) -> processed.FolderScenes:
    """Scenes of one part ("train", "validation", "test" or "all"). Raises InputError for a folder missing or empty."""
    base = processed.find_folder(
        root, "kitti", FOLDER_NAMES, lambda path: any(processed.is_scene_id(entry.name) for entry in path.iterdir())
    )
    present = processed.scene_ids(base)
    processed.warn_about_count(base, len(present), FULL_COUNT)
    frames = part_frames(part, present)
    return processed.FolderScenes([base / f for f in frames], [f"kitti/{f}" for f in frames], load)


def load(folder: Path, name: str) -> Scene:
    """One frame without its ground, with its own camera. Raises InputError for anything wrong with its files.

    The files store x and y negated already, which is this project's frame: nothing to turn.
    """
    pc1, pc2 = processed.read_pair(folder)
    processed.check_depth(folder, pc1)
    above = drop_ground(pc1, pc2)
    if not above.any():
        raise InputError(f"{folder}: every row is ground (y < -1.4 m in both clouds); y must point up in these files")
    _, camera = frame_table()[folder.name]
    return Scene(name, pc1[above], pc2[above], camera)


def _few(frames: list[str]) -> str:
    return ", ".join(frames) if len(frames) <= 5 else f"{len(frames)} others ({frames[0]} to {frames[-1]})"
