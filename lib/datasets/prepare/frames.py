"""Writing prepared frames: several at a time, each one whole or not at all, and finished ones not again."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.datasets.prepare.raw import Clouds, RawFrames
from lib.datasets.scene_flow import processed
from lib.errors import InputError
from lib.files import sync_folder


class Outcome(NamedTuple):
    """What became of a frame.

    points: rows of each of its clouds. finished_before: an earlier run had written it. unfit: why it was left out.
    """

    name: str
    points: int = 0
    finished_before: bool = False
    unfit: str | None = None


def prepare(frames: RawFrames, out: Path, workers: int) -> Iterator[Outcome]:
    """Writes the frames into out/<folder>/<name>/{pc1,pc2}.npy, `workers` at a time. Yields outcomes in order.

    A frame that is already there is checked by the reader. If it passes it is left as it is, else it is written again.
    A frame whose raw files are unfit is left out, and its outcome says why. Raises InputError when writing fails.
    """
    base = out / frames.folder

    def work(name: str) -> Outcome:
        folder = base / name
        if folder.exists() and (rows := _finished_rows(folder)):
            return Outcome(name, rows, finished_before=True)
        try:
            clouds = frames.convert(name)
        except InputError as error:
            return Outcome(name, unfit=str(error))
        write_frame(folder, clouds)
        return Outcome(name, len(clouds[0]))

    yield from in_order(work, frames.names, workers)


def in_order(work: Callable[[str], Outcome], names: list[str], workers: int) -> Iterator[Outcome]:
    """The outcomes of work(name) in the order of the names, `workers` at a time."""
    pool = ThreadPoolExecutor(workers)  # decoding, numpy and writing all release the interpreter's lock
    try:
        yield from pool.map(work, names)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C: finish the frames begun, start no other


def write_frame(folder: Path, clouds: Clouds) -> None:
    """Writes pc1.npy and pc2.npy of a frame, replacing the folder as a whole: a reader sees all of it or nothing.

    Raises InputError when the system refuses (full disk, no permission ...); no part of the frame is left then.
    """
    partial = folder.with_name(f".{folder.name}.partial")  # beside it, so on the same file system
    try:
        try:
            _remove(partial)  # what a killed run left
            partial.mkdir(parents=True)
            for name, cloud in zip(("pc1.npy", "pc2.npy"), clouds, strict=True):
                _write_npy(partial / name, cloud)
            sync_folder(partial)
            _remove(folder)  # one that failed its check
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(folder.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror or error}; what is finished stays, start again to go on"
        ) from error


def _finished_rows(folder: Path) -> int:
    """Rows of a finished frame; 0 for one that must be written again."""
    try:
        pc1, _ = processed.read_pair(folder)
    except InputError:
        return 0
    return len(pc1)


def _write_npy(path: Path, cloud: np.ndarray) -> None:
    content = io.BytesIO()  # numpy's own writer does not report a full disk as an OSError with its reason
    np.save(content, cloud)
    with open(path, "wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
