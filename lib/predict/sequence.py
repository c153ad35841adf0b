"""The frames of a folder, and the folder of what is predicted of them, from which a stopped run goes on."""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.clouds.files import READERS
from lib.errors import InputError
from lib.files import ARRAY_DAMAGE, write_atomically

SETTINGS = "settings.json"


class Job(NamedTuple):
    """Two files of clouds, and the file for the flow from the one to the other."""

    source: Path
    target: Path
    out: Path

    def __str__(self) -> str:
        return f"{self.source.name} -> {self.target.name}"


def consecutive_pairs(folder: Path, out: Path) -> list[Job]:
    """The pairs of a folder: each frame, in the order of the names, with the next. The flow goes to out/<frame>.npz.

    Raises InputError as ``frames_in`` does, and when there are fewer than two frames.
    """
    frames = frames_in(folder, out, "flows")
    if len(frames) < 2:
        raise InputError(
            f"--batch {folder}: it holds {len(frames)} cloud(s), a sequence needs at least 2; the formats "
            f"are {', '.join(READERS)}"
        )
    return [Job(first, second, out / f"{first.stem}.npz") for first, second in itertools.pairwise(frames)]


def frames_in(folder: Path, out: Path, what: str) -> list[Path]:
    """The frames of a folder, by name: the files with the ending of a cloud; hidden files are left out.

    out: the folder for results; what: their name. Raises InputError when the folder is not there, when its frames have
    different endings, and when `out` is the same folder.
    """
    if not folder.is_dir():
        raise InputError(f"--batch {folder}: no such folder")
    if out.resolve() == folder.resolve():
        raise InputError(f"--out {out}: the {what} need a folder of their own, not that of the frames")
    frames = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in READERS and not path.name.startswith(".")
    )
    endings = sorted({path.suffix for path in frames})
    if len(endings) > 1:
        raise InputError(f"--batch {folder}: it holds {', '.join(endings)} files; a sequence has one ending only")
    return frames


def check_results(out: Path, settings: dict[str, Any], what: str = "flows", ending: str = ".npz") -> None:
    """Raises InputError when the folder ``out`` holds results that were made with other settings, or something else.

    what: the name of the results; ending: of their files.
    """
    note = out / SETTINGS
    if not note.exists():
        if out.exists() and (not out.is_dir() or any(out.glob(f"*{ending}"))):
            raise InputError(f"--out {out}: it holds something else than {what} of --batch; choose another folder")
        return
    try:
        before = json.loads(note.read_text())
        changed = [name for name in settings if before[name] != settings[name]]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{note} is damaged: choose another folder with --out") from None
    if changed:
        raise InputError(
            f"--out {out}: its {what} were made with another {' and another '.join(changed)}; choose another folder"
        )


def note_settings(out: Path, settings: dict[str, Any]) -> None:
    """Makes the folder for results and writes down what they are made with. Raises InputError when that is refused."""
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made: {error.strerror}") from error
    write_atomically(out / SETTINGS, (json.dumps(settings, indent=2) + "\n").encode())


def is_finished(job: Job, source: np.ndarray) -> bool:
    """Whether the flow file is whole, holds this source (N, 3), and is not older than the target's file."""
    try:
        if job.out.stat().st_mtime_ns < job.target.stat().st_mtime_ns:
            return False
        with np.load(job.out, allow_pickle=False) as file:
            return np.array_equal(file["source"], source) and file["flow"].shape == source.shape
    except FileNotFoundError:
        return False
    except ARRAY_DAMAGE:
        return False  # damaged after it was written: made anew
