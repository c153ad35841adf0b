"""PCD files (Point Cloud Library, version 0.7): ASCII, binary and LZF-compressed. The viewpoint is not applied.

Read by our own code, because pypcd4 1.5.1 fails where it matters (tests/scene_flow/test_predict.py shows both cases).
It reads a file cut short between two points without a word. It refuses a header without COUNT, which means once each.
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.clouds.text import body_lines, parse_table, printable, reflectance_columns
from lib.errors import InputError

KINDS = {"F": "f", "I": "i", "U": "u"}
SIZES = {"F": (4, 8), "I": (1, 2, 4, 8), "U": (1, 2, 4, 8)}
ENTRIES = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
LONGEST_HEADER = 1 << 16  # bytes
LITERAL = 32  # LZF: a control byte below it begins a run of literal bytes


class Field(NamedTuple):
    """A field of a header: its numpy type and how many values a point has of it."""

    name: str
    kind: str
    count: int

    @property
    def size(self) -> int:
        """Bytes a point."""
        return np.dtype(self.kind).itemsize * self.count


def read_pcd(path: Path, reflectance: bool = False) -> np.ndarray:
    """The points of a PCD file as (N, 3): float32 when x, y and z are, else float64.

    With ``reflectance`` (N, 4) where the points have one.
    Raises InputError for anything else than a whole PCD file with x, y and z.
    """
    content = path.read_bytes()
    header, start = _header(path, content)
    fields, points = _fields(path, header), _points(path, header)
    if points == 0:
        raise InputError(f"{path} holds no points")
    names = [*"xyz", *(fields[k].name for k in reflectance_columns([field.name for field in fields]) if reflectance)]
    encoding = header["DATA"][0]
    if encoding == "ascii":
        return _ascii(path, content, start, fields, points, names)
    if encoding == "binary":
        columns = _binary(path, content[start:], fields, points)
    elif encoding == "binary_compressed":
        columns = _compressed(path, content[start:], fields, points)
    else:
        raise InputError(f"{path}: unknown DATA {encoding!r}; PCD knows ascii, binary and binary_compressed")
    exact = any(field.kind != "<f4" for field in fields if field.name in ("x", "y", "z"))
    return np.stack([columns[name] for name in names], axis=1).astype(np.float64 if exact else np.float32)


def decompress_lzf(data: bytes, size: int) -> bytes:
    """Unpacks LZF: data -> `size` bytes. Raises ValueError when the data give more or fewer, or make no sense.

    The data are a row of runs, each begun by a control byte c.
    c < 32: the next c + 1 bytes are copied as they are.
    c >= 32: bytes that were written before are repeated. How many: (c >> 5) + 2; when c >> 5 is 7, the next byte is
    added. From how far back: the lower 5 bits of c, then 8 bits of the next byte, plus 1.
    """
    out, at = bytearray(), 0
    try:
        while at < len(data) and len(out) <= size:
            control, at = data[at], at + 1
            if control < LITERAL:
                run = data[at : at + control + 1]
                if len(run) != control + 1:
                    raise ValueError("a literal run is cut short")
                at += control + 1
            else:
                length = control >> 5
                if length == 7:
                    length, at = length + data[at], at + 1
                length += 2
                back, at = ((control & 31) << 8 | data[at]) + 1, at + 1
                if back > len(out):
                    raise ValueError("a repetition begins before the data")
                run = out[-back:]
                run = (run * (length // back + 1))[:length]  # it may overlap what it writes
            out += run
    except IndexError:
        raise ValueError("the data end within a repetition") from None
    if len(out) != size:
        raise ValueError(f"{len(out)} bytes instead of {size}")
    return bytes(out)


def _header(path: Path, content: bytes) -> tuple[dict[str, list[str]], int]:
    """(entries of the header: key -> words, where the body begins)."""
    header, start = {}, 0
    while "DATA" not in header:
        end = content.find(b"\n", start, LONGEST_HEADER)
        if end < 0:
            raise InputError(f"{path} is not a PCD file, or its header is cut short: no line DATA")
        words = content[start:end].decode("ascii", errors="replace").split()
        start = end + 1
        if not words or words[0].startswith("#"):
            continue
        if words[0] not in ENTRIES or len(words) < 2:
            raise InputError(f"{path} is not a PCD file, or its header is damaged: line {' '.join(words)[:60]!r}")
        header[words[0]] = words[1:]
    for key in ("FIELDS", "SIZE", "TYPE"):
        if key not in header:
            raise InputError(f"{path}: its header has no line {key}")
    return header, start


def _fields(path: Path, header: dict[str, list[str]]) -> list[Field]:
    names, sizes, types = (header[key] for key in ("FIELDS", "SIZE", "TYPE"))
    counts = header.get("COUNT", ["1"] * len(names))
    if not len(names) == len(sizes) == len(types) == len(counts):
        raise InputError(
            f"{path}: its header has {len(names)} FIELDS, {len(sizes)} SIZE, {len(types)} TYPE and "
            f"{len(counts)} COUNT entries; they must be as many"
        )
    fields = []
    for name, size, kind, count in zip(names, sizes, types, counts, strict=True):
        if kind not in KINDS or size not in map(str, SIZES[kind]) or not count.isdecimal() or int(count) == 0:
            raise InputError(
                f"{path}: its field {printable([name])} has type {printable([kind])}, size {printable([size])} and "
                f"count {printable([count])}, which PCD does not know"
            )
        fields.append(Field(name, f"<{KINDS[kind]}{size}", int(count)))
    for name in "xyz":
        if [field.count for field in fields if field.name == name] != [1]:
            raise InputError(f"{path}: its points have {printable(names)}, but x, y and z are needed, once each")
    return fields


def _points(path: Path, header: dict[str, list[str]]) -> int:
    size = [header.get(key, [default])[0] for key, default in (("WIDTH", ""), ("HEIGHT", "1"))]
    points = header.get("POINTS", [""])[0] or None
    if not all(word.isdecimal() for word in size) or not (points is None or points.isdecimal()):
        raise InputError(f"{path}: its header has no whole numbers for WIDTH, HEIGHT and POINTS")
    product = int(size[0]) * int(size[1])
    if points is not None and int(points) != product:
        raise InputError(f"{path}: its header says {points} POINTS, but WIDTH x HEIGHT is {product}")
    return product


def _ascii(path: Path, content: bytes, start: int, fields: list[Field], points: int, columns: list[str]) -> np.ndarray:
    numbered = body_lines(path, content, start)
    if len(numbered) != points:
        raise InputError(f"{path} is damaged: its header promises {points} points, {len(numbered)} lines follow")
    starts = np.cumsum([0] + [field.count for field in fields])  # first column of each field
    names = [field.name for field in fields]
    return parse_table(path, numbered, [starts[names.index(name)] for name in columns], int(starts[-1]))


def _binary(path: Path, body: bytes, fields: list[Field], points: int) -> dict[str, np.ndarray]:
    """Rows, one point after the other."""
    size = sum(field.size for field in fields)
    if len(body) != points * size:
        raise InputError(
            f"{path} is damaged: its header promises {points} points of {size} bytes, {len(body)} bytes follow"
        )
    rows = np.frombuffer(body, np.uint8).reshape(points, size)
    columns, start = {}, 0
    for field in fields:
        columns[field.name] = np.ascontiguousarray(rows[:, start : start + field.size]).view(field.kind)[:, 0]
        start += field.size
    return columns


def _compressed(path: Path, body: bytes, fields: list[Field], points: int) -> dict[str, np.ndarray]:
    """Columns, one field after the other, packed together."""
    size = points * sum(field.size for field in fields)
    packed, unpacked = struct.unpack_from("<II", body) if len(body) >= 8 else (0, 0)
    if len(body) < 8 or len(body) - 8 < packed:
        raise InputError(f"{path} is cut short: {packed} compressed bytes are promised, {max(len(body) - 8, 0)} follow")
    if unpacked != size:
        raise InputError(
            f"{path} is damaged: its header promises {size} bytes of points, its compressed body {unpacked}"
        )
    try:
        content = decompress_lzf(body[8 : 8 + packed], size)
    except ValueError as error:
        raise InputError(f"{path}: its compressed body is damaged ({error})") from None
    columns, start = {}, 0
    for field in fields:
        column = np.frombuffer(content, field.kind, points * field.count, offset=start)
        columns[field.name] = column.reshape(points, field.count)[:, 0]
        start += points * field.size
    return columns
