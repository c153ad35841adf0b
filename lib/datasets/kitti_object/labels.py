"""The label lines of KITTI's object benchmark, and the result lines of a detector.

A line holds, separated by spaces: type, truncated (0 to 1), occluded (0, 1, 2, or 3 for unknown), alpha (rad), the 2-D
box left top right bottom (px, from 0), h w l (m), the bottom centre x y z in the rectified camera frame (m), and
rotation_y (rad). A result line has a score behind them. DontCare marks a region without labels: it has a 2-D box only.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.errors import InputError
from lib.files import write_atomically
from lib.kitti import TYPES

FIELDS = (
    *("truncated", "occluded", "alpha", "left", "top", "right", "bottom", "h", "w", "l", "x", "y", "z"),
    *("rotation_y", "score"),
)
AGAIN = "correct that line or extract data_object_label_2.zip again"
RESULT = "correct that line, or run the detector again"
WRITE = "give numbers that a KITTI line can hold"


class Label(NamedTuple):
    """One object of a frame: a line of a label file, or of a result file with its score."""

    type: str
    truncated: float  # -1 when unknown (DontCare, results)
    occluded: int  # 0 visible, 1 partly, 2 largely occluded, 3 unknown; -1 for DontCare and results
    alpha: float  # rad
    box2d: tuple[float, float, float, float]  # left, top, right, bottom in px
    box3d: tuple[float, float, float, float, float, float, float]  # x, y, z, h, w, l, rotation_y: see lib/boxes.py
    score: float | None = None

    @property
    def camera_box(self) -> np.ndarray:
        """The camera box (7,) of lib/boxes.py, float64: x, y, z (bottom centre), h, w, l in m, rotation_y in rad."""
        return np.array(self.box3d, dtype=np.float64)


def read_labels(path: Path, scores: bool = False) -> list[Label]:
    """The objects of a file, in its order. An empty file is a frame without objects.

    scores: the file is a result, so every line has 16 fields, the last one the score; else 15.
    Raises InputError that names the file, the line and the fix, for anything that is not such a line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file: extract or write it again") from None
    fix = RESULT if scores else AGAIN
    return [_parse(line, scores, f"{path}, line {i}", fix) for i, line in enumerate(lines, 1) if line.strip()]


def write_labels(path: Path, labels: list[Label]) -> None:
    """Writes objects as lines with six decimals. A score is written where a label has one.

    Raises InputError for a label that `read_labels` would refuse (then nothing is written), and when the system
    refuses to write.
    """
    lines = [_format(label) for label in labels]
    for label, line in zip(labels, lines, strict=True):
        _parse(line, label.score is not None, f"a label for {path}", WRITE)
    write_atomically(path, "".join(line + "\n" for line in lines).encode())


def _format(label: Label) -> str:
    x, y, z, height, width, length, rotation = label.box3d
    numbers = (label.alpha, *label.box2d, height, width, length, x, y, z, rotation)
    words = [label.type, _decimal(label.truncated), str(label.occluded), *map(_decimal, numbers)]
    return " ".join(words if label.score is None else [*words, _decimal(label.score)])


def _decimal(value: float) -> str:
    return f"{value:.6f}"


def _parse(line: str, scores: bool, where: str, fix: str) -> Label:
    """One line. where: the file and the line's number, fix: what to do; both for the message of an InputError."""
    words = line.split()
    if len(words) != 15 + scores:
        raise InputError(f"{where} has {len(words)} fields, it must have {15 + scores}: {fix}")
    if words[0] not in TYPES:
        raise InputError(f"{where} has the type {words[0]!r}, which is none of {' '.join(TYPES)}: {fix}")
    values = {
        name: _number(word, name, where, fix) for name, word in zip(FIELDS[: len(words) - 1], words[1:], strict=True)
    }
    box2d = tuple(values[name] for name in ("left", "top", "right", "bottom"))
    box3d = tuple(values[name] for name in ("x", "y", "z", "h", "w", "l", "rotation_y"))
    problem = None
    if values["occluded"] not in (-1, 0, 1, 2, 3):
        problem = f"occluded = {words[2]}, not one of -1 0 1 2 3"
    elif values["truncated"] != -1 and not 0 <= values["truncated"] <= 1:
        problem = f"truncated = {words[1]}, not -1 and not in 0 to 1"
    elif box2d[0] > box2d[2] or box2d[1] > box2d[3]:
        problem = "a 2-D box whose right or bottom lies before its left or top"
    elif words[0] != "DontCare" and min(box3d[3:6]) <= 0:
        problem = f"h w l = {' '.join(words[8:11])}, which must be above 0"
    if problem:
        raise InputError(f"{where} has {problem}: {fix}")
    occluded = int(values["occluded"])
    return Label(words[0], values["truncated"], occluded, values["alpha"], box2d, box3d, values.get("score"))


def _number(word: str, name: str, where: str, fix: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where} has {name} = {word!r}, which is not a finite number: {fix}")
    return value
