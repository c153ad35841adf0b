"""Files: writing them so that a kill or a full disk loses nothing, and reading arrays of numpy that may be damaged."""

import os
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from lib.errors import InputError

# What numpy raises on a damaged .npy or .npz file. An InputError is a ValueError too: where one may arise, let it pass
# first. NotImplementedError and "encrypted" are RuntimeErrors of zipfile; TokenError and SyntaxError come from numpy's
# attempt to read a header of Python 2.
ARRAY_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"  # the first bytes of a PNG file


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces a file at one moment: before it the old content is there, after it the new, and never a part.

    A pipe or a device such as /dev/null is written to, not replaced. Raises InputError when the system refuses (full
    disk, no permission ...); the old file is then untouched.
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
    """Puts the entries of a folder on the disk. Only then does a renamed file survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_finite(path: Path, cloud: np.ndarray, remedy: str) -> None:
    """Raises InputError when a row of a cloud (N, C) from the file holds NaN or infinity. remedy: what to do then."""
    bad = np.flatnonzero(~np.isfinite(cloud).all(axis=1))
    if len(bad):
        raise InputError(
            f"{path} has NaN or infinity in {len(bad)} of {len(cloud)} points, the first is point {bad[0]}: {remedy}"
        )


def read_npy(path: Path, columns: tuple[int, ...] = (3,)) -> np.ndarray:
    """A .npy file as (n, c) float32, read only after its header and the file's length were checked.

    columns: what c may be. Raises InputError for a damaged or pickled file and another shape or type.
    """
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
                version
            ]
            shape, _, dtype = read_header(file)
        except ARRAY_DAMAGE as error:
            raise InputError(
                f"{path} is not a complete .npy file; save it again with numpy.save as float32 of shape (n, 3)"
            ) from error
        if dtype.hasobject:
            raise InputError(f"{path} holds pickled objects, which are never loaded; save it again as float32")
        if dtype not in (np.float32, np.float64):
            raise InputError(f"{path} has dtype {dtype}; save it again as float32")
        if len(shape) != 2 or shape[1] not in columns:
            allowed = " or ".join(f"(n, {count})" for count in columns)
            raise InputError(f"{path} has shape {shape}; it must be {allowed}")
        expected = shape[0] * shape[1] * dtype.itemsize
        present = path.stat().st_size - file.tell()
        if present != expected:
            raise InputError(
                f"{path} is damaged: its header promises {expected} bytes of coordinates, "
                f"the file has {present}; copy or prepare it again"
            )
        file.seek(0)
        cloud = np.lib.format.read_array(file, allow_pickle=False)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, which the caller reports
        return np.ascontiguousarray(cloud, dtype=np.float32)
