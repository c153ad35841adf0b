"""The frames of KITTI's object benchmark (Geiger et al., CVPR 2012): one reader for LiDAR and images.

`<root>/training/` holds image_2/<6 digits>.png, calib/<6 digits>.txt, label_2/<6 digits>.txt, and the scans
velodyne/<6 digits>.bin (the full turn) or velodyne_reduced/<6 digits>.bin (the part that the camera sees). Of either,
only the points in the camera's view are kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.camera import Calibration
from lib.datasets.kitti_object.labels import Label, read_labels
from lib.errors import InputError
from lib.files import PNG_SIGNATURE, write_atomically

FULL_COUNTS = {"train": 3712, "val": 3769}  # the usual split (Chen et al.), by the name of its list
SCANS = ("velodyne", "velodyne_reduced")
ARCHIVES = {
    "image_2": "data_object_image_2.zip",
    "calib": "data_object_calib.zip",
    "label_2": "data_object_label_2.zip",
    **dict.fromkeys(SCANS, "data_object_velodyne.zip"),
}
ENDINGS = {"image_2": ".png", "calib": ".txt", "label_2": ".txt", **dict.fromkeys(SCANS, ".bin")}
MATRICES = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}  # what is read of a calib file


class Frame(NamedTuple):
    """One frame."""

    name: str  # 6 digits
    points: np.ndarray | None  # (N, 4) float32: x, y, z in m (LiDAR frame), reflectance 0 to 1; None if not asked for
    image_path: Path | None  # None: the frame is computed and has no image
    image_size: tuple[int, int]  # width, height in px
    calibration: Calibration
    objects: list[Label] | None  # the label lines in the file's order; None if not asked for


class Frames:
    """A sequence of frames, read from the disk when asked for. `open_frames` makes one."""

    def __init__(self, base: Path, names: list[str], scans: str | None, labels: bool) -> None:
        self.base, self.names, self.scans, self.labels = base, names, scans, labels

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Frame:
        """Frame number `index`. Raises InputError that names the file which is damaged, and the fix."""
        name = self.names[index]
        image = self._path("image_2", name)
        size = read_image_size(image)
        calibration = read_calibration(self._path("calib", name))
        points = read_points(self._path(self.scans, name), calibration, size) if self.scans else None
        objects = read_labels(self._path("label_2", name)) if self.labels else None
        return Frame(name, points, image, size, calibration, objects)

    def texts(self, index: int) -> tuple[bytes, bytes]:
        """The content of the calib and the label file of a frame, as it is. Raises InputError when one is missing."""
        name = self.names[index]
        return tuple(
            _read_bytes(self._path(folder, name), f"extract {ARCHIVES[folder]} again")
            for folder in ("calib", "label_2")
        )

    def _path(self, folder: str, name: str) -> Path:
        return self.base / folder / (name + ENDINGS[folder])


def open_frames(root: Path, split: Path | None = None, points: bool = True, labels: bool = True) -> Frames:
    """The frames of a folder in KITTI's object layout.

    root: the folder that holds training/, or the folder that holds image_2/, calib/ and the others.
    split: a text file with one frame number a line (ImageSets/train.txt); None takes all frames of the folder.
    points, labels: whether scans and labels are read; without them their folders need not be there.
    Warns when a list named train.txt or val.txt has not the size of the usual split. Raises InputError for a folder,
    list or file that is missing.
    """
    base = next((path for path in (root, root / "training") if (path / "image_2").is_dir()), None)
    if base is None:
        raise InputError(f"{root} has no folder image_2 or training/image_2: name the folder that holds training/")
    scans = next((folder for folder in SCANS if (base / folder).is_dir()), SCANS[0]) if points else None
    folders = ["image_2", "calib", *([scans] if scans else []), *(["label_2"] if labels else [])]
    present = {folder: _names_in(base / folder, ENDINGS[folder]) for folder in folders}
    names = read_split(split) if split else sorted(set().union(*present.values()))
    if not names:
        raise InputError(f"{base} holds no frame (image_2/000000.png and so on): extract {ARCHIVES['image_2']} there")
    for folder in folders:
        missing = [name for name in names if name not in present[folder]]
        if missing:
            raise InputError(
                f"{base / folder / (missing[0] + ENDINGS[folder])} is missing, as for {len(missing)} of {len(names)} "
                f"frames: extract {ARCHIVES[folder]} there, or give a list of the frames that are complete"
            )
    return Frames(base, names, scans, labels)


def read_split(path: Path) -> list[str]:
    """The frame names (6 digits) of a split list, in its order.

    Warns as `open_frames` does. Raises InputError for a list that is missing or empty, a line that is no frame number,
    and a frame that is listed twice.
    """
    names: dict[str, int] = {}  # name -> line
    for number, line in enumerate(_read_text(path, "name a text file of frame numbers").splitlines(), 1):
        word = line.strip()
        if not word:
            continue
        if not (word.isascii() and word.isdigit() and len(word) <= 6):
            raise InputError(f"{path}, line {number}: {word!r} is no frame number; write one number a line, as 000007")
        name = word.zfill(6)
        if name in names:
            raise InputError(f"{path} lists frame {name} twice (lines {names[name]} and {number}): remove one line")
        names[name] = number
    if not names:
        raise InputError(f"{path} lists no frame: write one frame number a line, as 000007")
    full = FULL_COUNTS.get(path.stem)
    if full is not None and len(names) != full:
        warnings.warn(f"{path} lists {len(names)} frames, the full split {path.stem} has {full}", stacklevel=2)
    return list(names)


def read_calibration(path: Path) -> Calibration:
    """The calibration of a frame. Lines are found by their key; keys that are not needed are passed over.

    Raises InputError for a file without P2, R0_rect or Tr_velo_to_cam, or with other than finite numbers in them, the
    wrong count of them, or no rotation where one must be.
    """
    again = f"extract {ARCHIVES['calib']} again"
    lines = dict(line.split(":", 1) for line in _read_text(path, again).splitlines() if ":" in line)
    found = {}
    for key, shape in MATRICES.items():
        if key not in lines:
            raise InputError(f"{path} has no line {key}: {again}")
        try:
            matrix = np.array(lines[key].split(), dtype=np.float64).reshape(shape)  # row by row
        except ValueError:
            matrix = np.array(np.nan)
        if not np.isfinite(matrix).all():
            raise InputError(f"{path}: {key} must be {shape[0] * shape[1]} finite numbers: {again}")
        if key != "P2":
            turn = matrix[:, :3]
            if np.abs(turn @ turn.T - np.eye(3)).max() > 0.01 or np.linalg.det(turn) < 0.0:
                raise InputError(f"{path}: {key} is no rotation: {again}")
        elif matrix[0, 0] <= 0.0 or matrix[1, 1] <= 0.0 or not np.array_equal(matrix[2, :3], (0.0, 0.0, 1.0)):
            raise InputError(f"{path}: P2 is no projection of a rectified camera: {again}")
        found[key] = matrix
    return Calibration(**found)


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Writes a calibration as `read_calibration` reads it, to the last bit. P0, P1 and P3 are written equal to P2.

    Raises InputError when the system refuses to write.
    """
    matrices = dict.fromkeys(("P0", "P1", "P2", "P3"), calibration.P2)
    matrices |= {key: getattr(calibration, key) for key in ("R0_rect", "Tr_velo_to_cam")}
    lines = (f"{key}: {' '.join(map(str, matrix.ravel().tolist()))}\n" for key, matrix in matrices.items())
    write_atomically(path, "".join(lines).encode())


def read_points(path: Path, calibration: Calibration, size: tuple[int, int]) -> np.ndarray:
    """The points of a scan that the camera sees: (N, 4) float32, x, y, z in m and reflectance, in the file's order.

    size: (width, height) of the image in px. Raises InputError for a file of another layout, with numbers that are not
    finite, or without a point in view.
    """
    again = f"extract {ARCHIVES[SCANS[0]]} again"
    content = _read_bytes(path, again)
    if len(content) == 0 or len(content) % 16:
        raise InputError(f"{path} has {len(content)} bytes, no multiple of 16 (four float32 a point): {again}")
    points = np.frombuffer(content, "<f4").reshape(-1, 4)  # one row a point
    broken = np.flatnonzero(~np.isfinite(points).all(1))
    if len(broken):
        raise InputError(f"{path}: point {broken[0]} (of {len(broken)} such) is not finite: {again}")
    seen = points[calibration.in_view(points[:, :3], size)].astype(np.float32)
    if len(seen) == 0:
        raise InputError(f"{path}: no point lies in the camera's view; take scan, calib and image of one frame")
    return seen


def read_image_size(path: Path) -> tuple[int, int]:
    """(width, height) in px from the first bytes of a PNG. Raises InputError for a file that is none."""
    again = f"extract {ARCHIVES['image_2']} again"
    try:
        with open(path, "rb") as file:
            head = file.read(24)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): {again}") from error
    width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if len(head) < 24 or not head.startswith(PNG_SIGNATURE) or head[12:16] != b"IHDR" or not (width and height):
        raise InputError(f"{path} is not a PNG file: {again}")
    return width, height


def _names_in(folder: Path, ending: str) -> set[str]:
    """The frame names of a folder; empty when it is not there."""
    if not folder.is_dir():
        return set()
    stems = (path.name.removesuffix(ending) for path in folder.iterdir() if path.name.endswith(ending))
    return {stem for stem in stems if len(stem) == 6 and stem.isascii() and stem.isdigit()}


def _read_bytes(path: Path, fix: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): {fix}") from error


def _read_text(path: Path, fix: str) -> str:
    try:
        return _read_bytes(path, fix).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file: {fix}") from None
