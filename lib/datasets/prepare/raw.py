"""Checks that a raw download is complete, made before any work starts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.errors import InputError

Clouds = tuple[np.ndarray, np.ndarray]  # (n, 3) float32 each, aligned, with the signs of the processed layout


class Piece(NamedTuple):
    """A folder of a download with one file for each frame: <folder>/<frame><ending>, and the archive it comes in."""

    folder: str
    ending: str
    archive: str


class RawFrames(NamedTuple):
    """Frames to prepare.

    folder: the processed folder's name. names: its frames, "000002" or "train/0000710". convert(name) -> Clouds; it
    raises InputError for a frame whose files are unfit. incomplete: how many frames were left out because one of their
    files is missing. signs: the factors of x, y and z that turn stored points into the project's frame.
    """

    folder: str
    names: list[str]
    convert: Callable[[str], Clouds]
    incomplete: int = 0
    signs: np.ndarray = np.ones(3, np.float32)


def find_raw(raw: Path, inner: str, is_it: Callable[[Path], bool], what: str) -> Path:
    """The download's folder: `raw` itself when is_it(raw) holds, or the folder `inner` in it.

    Raises InputError when neither is one.
    """
    if not raw.is_dir():
        raise InputError(f"no folder {raw}: give the folder that the archives of {what} were extracted into")
    for folder in (raw, raw / inner):
        if is_it(folder):
            return folder
    raise InputError(f"{raw} does not hold {what}: give the folder that its archives were extracted into")


def complete_frames(base: Path, pieces: Sequence[Piece], lists: Sequence[Piece]) -> tuple[list[str], int]:
    """(sorted ids of the frames that have every piece, number of frames that lack one).

    A frame exists if a piece of `lists` has it. Warns of each piece that some frames lack. Raises InputError when a
    piece has no frame at all, naming its archive.
    """
    present = {piece: _ids(base, piece) for piece in pieces}
    missing = [f"{piece.folder} (from {piece.archive})" for piece in pieces if not present[piece]]
    if missing:
        raise InputError(f"{base} lacks {', '.join(missing)}: download and extract what is missing there")
    frames = set().union(*(present[piece] for piece in lists))
    for piece in pieces:
        lacking = sorted(frames - present[piece])
        if lacking:
            warnings.warn(
                f"{base / piece.folder} lacks {len(lacking)} of {len(frames)} frames, the first is "
                f"{lacking[0]}{piece.ending}: these are left out; extract {piece.archive} again to have them",
                stacklevel=1,
            )
    complete = frames.intersection(*present.values())
    if not complete:
        raise InputError(f"{base}: no frame has all its pieces; extract the archives again")
    return sorted(complete), len(frames) - len(complete)


def _ids(base: Path, piece: Piece) -> set[str]:
    folder = base / piece.folder
    if not folder.is_dir():
        return set()
    names = (entry.name for entry in folder.iterdir() if entry.name.endswith(piece.ending))
    return {name.removesuffix(piece.ending) for name in names if name.removesuffix(piece.ending).isdecimal()}
