"""LAS and LAZ files, by laspy and lazrs.

A LAZ file is unpacked on one thread: lazrs's parallel reader ends the process, or panics, on a damaged table of chunks.
"""

import struct
from pathlib import Path

import laspy
import lazrs
import numpy as np

from lib.errors import InputError

HEADER = 107  # bytes: what every version of LAS begins with, up to the size of a point
AT_ONCE = 1 << 18  # points; a damaged file that promises billions ends before memory is taken for them
ITEMS = 32  # bytes: where the record of LASzip begins to list what it packs
RECORD = 54  # bytes: the smallest record that may stand between the header and the points

# What laspy, lazrs and numpy raise on a damaged file.
DAMAGE = (
    laspy.errors.LaspyException,
    lazrs.LazrsError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
)


def read_las(path: Path, reflectance: bool = False) -> np.ndarray:
    """The points of a LAS or LAZ file as (N, 3) float64; with ``reflectance`` (N, 4), the intensity as it stands.

    Raises InputError for a file that is damaged, and for one that has fewer points than its header says.
    """
    size = path.stat().st_size
    _check_header(path, size)
    try:
        with laspy.open(path, read_evlrs=False, laz_backend=laspy.LazBackend.Lazrs) as file:
            header = file.header
            if header.are_points_compressed:
                _check_chunks(path, size, header.offset_to_point_data)
                _check_items(path, header)
            else:
                _check_count(path, header.point_count, (size - header.offset_to_point_data) // header.point_format.size)
            names = ("x", "y", "z", *(("intensity",) if reflectance else ()))
            chunks = file.chunk_iterator(AT_ONCE)
            parts = [np.stack([getattr(part, name) for name in names], axis=1) for part in chunks]  # (n, 3 or 4) each
    except InputError:
        raise
    except DAMAGE:
        raise InputError(f"{path} is damaged or no LAS file: copy or export it again") from None
    cloud = np.concatenate([np.empty((0, len(names))), *parts])  # (N, 3 or 4) float64
    _check_count(path, header.point_count, len(cloud))
    return cloud


def _check_header(path: Path, size: int) -> None:
    """Refuses a header whose records do not fit before the points, or whose points begin behind the end of the file.

    laspy believes the number of records, and would read on for hours. size: of the file, bytes.
    """
    with open(path, "rb") as file:
        head = file.read(HEADER)
    header, points, records = (int.from_bytes(head[a:b], "little") for a, b in ((94, 96), (96, 100), (100, 104)))
    fits = header + records * RECORD <= points <= size
    if len(head) < HEADER or not head.startswith(b"LASF") or not fits:
        raise InputError(f"{path} is damaged or no LAS file: copy or export it again")


def _check_chunks(path: Path, size: int, points: int) -> None:
    """Refuses a LAZ file whose table of chunks lies outside the file, or counts more chunks than bytes.

    lazrs believes that count, and ends the process when there is no memory for it. points: where they begin, bytes.
    """
    with open(path, "rb") as file:
        file.seek(points)
        table = int.from_bytes(file.read(8), "little", signed=True)
        if table == -1:  # written by a program that could not go back: the place stands at the end of the file
            file.seek(size - 8)
            table = int.from_bytes(file.read(8), "little", signed=True)
        if points + 8 <= table <= size - 8:
            file.seek(table + 4)  # behind the version
            if int.from_bytes(file.read(4), "little") <= table - points:
                return
    raise InputError(f"{path} is damaged: its table of chunks is wrong: copy or export it again")


def _check_items(path: Path, header: laspy.LasHeader) -> None:
    """Refuses a LAZ file whose packed items are not those of its point format: lazrs would panic."""
    record = header.vlrs[header.vlrs.index("LasZipVlr")].record_data
    expected = lazrs.LazVlr.new_for_compression(header.point_format.id, header.point_format.num_extra_bytes)
    if _items(record) != _items(expected.record_data()):
        raise InputError(f"{path} is damaged: what it packs is not its point format: copy or export it again")


def _items(record: bytes) -> list[tuple[int, int]]:
    """(type, bytes a point) of each packed item in the record of LASzip; the version behind them may be any."""
    words = struct.unpack_from(f"<{(len(record) - ITEMS) // 2}H", record, ITEMS)
    return [(words[k], words[k + 1]) for k in range(1, 3 * words[0], 3)]


def _check_count(path: Path, promised: int, present: int) -> None:
    if present < promised:
        raise InputError(f"{path} is damaged: its header promises {promised} points, the file has {present}")
