"""Files of point clouds: a reader for each format, and the writer of a predicted flow.

Every reader returns the points as (N, 3), float32 or float64. For an unfit file it raises an InputError that names the
file and says what is wrong. Only x, y and z are used, and where it is asked for the reflectance. Nothing is ever
unpickled.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lib.clouds.las import read_las
from lib.clouds.pcd import read_pcd
from lib.clouds.ply import flow_ply, read_ply
from lib.clouds.text import printable, read_text
from lib.errors import InputError
from lib.files import ARRAY_DAMAGE, check_finite, read_npy

NPZ_NAMES = ("xyz", "points")  # taken when a .npz holds several arrays
BIN_ROW = 16  # bytes: x y z intensity, float32


def read_cloud(path: Path, reflectance: bool = False) -> np.ndarray:
    """The points of a file as (N, 3) float32 or float64, N >= 1, all finite. The name's ending says the format.

    reflectance: also read the strength of each point's echo, on the file's own scale: (N, 4) where the file has it.
    Raises InputError for an unknown ending, a missing or damaged file, and points that are no points.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: unknown ending {path.suffix or '(none)'}; the formats are {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty")
        cloud = reader(path, reflectance)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(cloud) == 0:
        raise InputError(f"{path} holds no points")
    check_finite(path, cloud, "remove them")
    return cloud


def read_flow(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(source (N, 3), flow (N, 3)) of a .npz that ``encode_flow`` wrote, float32 or float64, N >= 1, all finite.

    Raises InputError for a missing or damaged file, and for arrays that are missing or unfit.
    """
    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ("source", "flow") if name not in file.files]
            if missing:
                raise InputError(
                    f"{path} holds no array {' and no array '.join(missing)}: predict.py --out FILE.npz "
                    f"writes source and flow"
                )
            source, flow = file["source"], file["flow"]
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ARRAY_DAMAGE:
        raise InputError(f"{path} is damaged or no .npz file of plain arrays: run predict.py again") from None
    for name, array in (("source", source), ("flow", flow)):
        if array.dtype not in (np.float32, np.float64) or array.ndim != 2 or array.shape[1] != 3 or len(array) == 0:
            raise InputError(
                f"{path}: array {name} is {array.dtype} of shape {array.shape}; it must be float32 of shape (n, 3)"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{path}: array {name} has NaN or infinity")
    if len(source) != len(flow):
        raise InputError(
            f"{path}: source has {len(source)} rows and flow has {len(flow)}; row i of flow is for row i of source"
        )
    return source, flow


def encode_flow(suffix: str, source: np.ndarray, flow: np.ndarray, **more: np.ndarray) -> bytes:
    """The content of a flow file. source, flow (N, 3), metres, in the axes of the input.

    .npz: arrays source and flow, and any more by their names. .npy: flow alone. .ply: points x y z with the vector in
    nx ny nz and its length in quality, which MeshLab and CloudCompare show. Raises InputError for another suffix.
    """
    if suffix not in WRITERS:
        raise InputError(f"a flow cannot be written as {suffix or 'a file without ending'}; use {', '.join(WRITERS)}")
    return _npz(source, flow, **more) if suffix == ".npz" else WRITERS[suffix](source, flow)


def _read_npy(path: Path, reflectance: bool = False) -> np.ndarray:
    return read_npy(path, (3, 4) if reflectance else (3,))


def _read_npz(path: Path, reflectance: bool = False) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
            chosen = names if len(names) == 1 else [name for name in NPZ_NAMES if name in names][:1]
            if not chosen:
                raise InputError(
                    f"{path} holds {len(names)} arrays ({printable(names[:5])}): keep one, or name the "
                    f"points {' or '.join(NPZ_NAMES)}"
                )
            cloud = file[chosen[0]]
    except InputError:
        raise
    except ARRAY_DAMAGE:
        raise InputError(f"{path} is damaged or no .npz file of plain arrays: save it again with numpy.savez") from None
    columns = (3, 4) if reflectance else (3,)
    if cloud.dtype not in (np.float32, np.float64) or cloud.ndim != 2 or cloud.shape[1] not in columns:
        raise InputError(
            f"{path}: array {chosen[0]} is {cloud.dtype} of shape {cloud.shape}; it must be float32 of shape (n, 3)"
            + (" or (n, 4)" if reflectance else "")
        )
    return cloud


def _read_bin(path: Path, reflectance: bool = False) -> np.ndarray:
    content = path.read_bytes()
    if content[:1024].isascii() and content[:1024].decode("ascii").replace("\n", "").replace("\r", "").isprintable():
        raise InputError(f"{path} holds text; .bin is KITTI's binary format (float32 x y z intensity): call it .txt")
    if len(content) % BIN_ROW:
        raise InputError(
            f"{path} has {len(content)} bytes, no multiple of {BIN_ROW}: .bin is KITTI's format, float32 "
            f"x y z intensity for each point"
        )
    points = np.frombuffer(content, "<f4").reshape(-1, 4)  # one row a point
    return points[:, : 4 if reflectance else 3].astype(np.float32)


def _npz(source: np.ndarray, flow: np.ndarray, **more: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, source=source, flow=flow, **more)
    return content.getvalue()


def _npy(source: np.ndarray, flow: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, flow)
    return content.getvalue()


READERS: dict[str, Callable[[Path, bool], np.ndarray]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".ply": read_ply,
    ".pcd": read_pcd,
    ".bin": _read_bin,
    ".txt": read_text,
    ".csv": read_text,
    ".xyz": read_text,
    ".las": read_las,
    ".laz": read_las,
}
WRITERS: dict[str, Callable[[np.ndarray, np.ndarray], bytes]] = {".npz": _npz, ".npy": _npy, ".ply": flow_ply}
