"""Writing files so that a kill or a full disk loses nothing."""

import os
from pathlib import Path

from lib.errors import InputError


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces the file at once: whatever happens, it holds the old content or the new, never a part.

    What is no file (a pipe, /dev/null) is written to, not replaced.
    Raises InputError when the system refuses (full disk, no permission ...); the old file is then untouched.
    """
    temporary = path.with_name(path.name + ".tmp")  # same folder, so same file system: os.replace is atomic there
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Makes the system put the folder's entries on the disk: a renamed file is only then safe."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
