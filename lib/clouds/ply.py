"""PLY files: ASCII, binary little endian and binary big endian. The points are the element vertex.

Read by our own code, because the packages fail where it matters (tests/scene_flow/test_predict.py shows the cases).
plyfile 1.1.5 drops points in silence when the header promises fewer than there are. It refuses an ASCII file with an
empty line, takes nine times as long for ASCII, and stands under the GPL. trimesh 5.2.0 gives fewer points than the
header promises without a word. It refuses a binary file with an element before the vertices.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.clouds.text import body_lines, parse_table, printable, reflectance_columns
from lib.errors import InputError

TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
ORDERS = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}
LONGEST_HEADER = 1 << 16  # bytes


class Element(NamedTuple):
    """What a header says of an element. properties: (name, numpy type), the type None for a list."""

    name: str
    count: int
    properties: list[tuple[str, str | None]]

    def dtype(self, order: str) -> np.dtype | None:
        """The type of one binary row, None when a list makes rows differ in size."""
        if any(kind is None for _, kind in self.properties):
            return None
        return np.dtype([(name, order + kind) for name, kind in self.properties])


def read_ply(path: Path, reflectance: bool = False) -> np.ndarray:
    """The vertices of a PLY file as (N, 3): float64 when x, y and z are double or the file is ASCII, else float32.

    With ``reflectance`` (N, 4) where the vertices have one.
    Raises InputError for anything else than a whole PLY file with x, y and z.
    """
    content = path.read_bytes()
    order, elements, start = _header(path, content)
    position = next((k for k, element in enumerate(elements) if element.name == "vertex"), None)
    if position is None:
        raise InputError(f"{path} has no element vertex: it holds no points")
    vertex = elements[position]
    names = [name for name, _ in vertex.properties]
    kinds = dict(vertex.properties)
    if any(kinds.get(name) is None for name in "xyz"):
        raise InputError(f"{path}: its vertices have {printable(names) or 'no properties'}, but x, y and z are needed")
    if vertex.count == 0:
        raise InputError(f"{path} holds no points")
    columns = [*"xyz", *(names[k] for k in reflectance_columns(names) if reflectance and kinds[names[k]])]
    before, is_last = elements[:position], position == len(elements) - 1
    if order is None:
        skipped = sum(element.count for element in before)
        return _ascii(path, content, start, vertex, skipped, is_last, columns)
    rows = [element.dtype(order) for element in (*before, vertex)]
    if None in rows:
        raise InputError(
            f"{path} has a list before the end of its vertices, which makes their place unknown: export "
            f"the points alone"
        )
    start += sum(element.count * row.itemsize for element, row in zip(before, rows[:-1], strict=True))
    needed, present = vertex.count * rows[-1].itemsize, len(content) - start
    if present < needed or (is_last and present > needed):
        raise InputError(
            f"{path} is damaged: its header promises {vertex.count} points of {rows[-1].itemsize} bytes, "
            f"{max(present, 0)} bytes follow"
        )
    table = np.frombuffer(content, rows[-1], vertex.count, offset=start)
    exact = any(kinds[name] in ("f8", "i4", "u4") for name in "xyz")
    return np.stack([table[name] for name in columns], axis=1).astype(np.float64 if exact else np.float32)


def flow_ply(source: np.ndarray, flow: np.ndarray) -> bytes:
    """A binary PLY file of points (N, 3) with the vectors flow (N, 3) in nx ny nz and their lengths in quality."""
    kind, word = ("<f8", "double") if source.dtype == np.float64 else ("<f4", "float")
    table = np.empty(
        len(source), [(name, kind) for name in "xyz"] + [(f"n{name}", "<f4") for name in "xyz"] + [("quality", "<f4")]
    )
    for k, name in enumerate("xyz"):
        table[name], table[f"n{name}"] = source[:, k], flow[:, k]
    table["quality"] = np.linalg.norm(flow, axis=1)
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment nx ny nz: motion of the point, quality: its length",
        f"element vertex {len(source)}",
    ]
    header += [f"property {word} {name}" for name in "xyz"]
    header += [f"property float {name}" for name in ("nx", "ny", "nz", "quality")]
    return ("\n".join([*header, "end_header"]) + "\n").encode() + table.tobytes()


def _header(path: Path, content: bytes) -> tuple[str | None, list[Element], int]:
    """(byte order, None for ASCII; elements; where the body begins)."""
    head = content[:LONGEST_HEADER]
    if not head.startswith((b"ply\n", b"ply\r\n", b"ply\r")):
        raise InputError(f"{path} is not a PLY file: it does not begin with the line ply")
    end = re.search(rb"[\r\n]end_header[ \t]*(\r\n|\n|\r)", head)
    if end is None:
        raise InputError(f"{path} has no end_header: its header is cut short")
    order, elements = "?", []
    for line in head[: end.start()].decode("ascii", errors="replace").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3 and words[1] in ORDERS:
            order = ORDERS[words[1]]
        elif words[0] == "element" and len(words) == 3 and words[2].isdecimal():
            elements.append(Element(words[1], int(words[2]), []))
        elif words[0] == "property" and elements and len(words) in (3, 5):
            unknown = [word for word in words[1:-1] if word not in TYPES and word != "list"]
            if unknown:
                raise InputError(f"{path}: unknown PLY property type {unknown[0]!r} in its header")
            is_list = words[1] == "list"
            elements[-1].properties.append((words[-1], None if is_list else TYPES[words[1]]))
        else:
            raise InputError(f"{path}: its header has the line {line.strip()[:60]!r}, which PLY does not know")
    if order == "?":
        raise InputError(f"{path}: its header has no format line")
    for element in elements:
        names = [name for name, _ in element.properties]
        if len(set(names)) < len(names):
            raise InputError(f"{path}: its element {printable([element.name])} has a property twice")
    return order, elements, end.end()


def _ascii(
    path: Path, content: bytes, start: int, vertex: Element, skipped: int, is_last: bool, columns: list[str]
) -> np.ndarray:
    numbered = body_lines(path, content, start)[skipped:]
    if len(numbered) < vertex.count or (is_last and len(numbered) > vertex.count):
        raise InputError(f"{path} is damaged: its header promises {vertex.count} points, {len(numbered)} lines follow")
    if any(kind is None for _, kind in vertex.properties):
        raise InputError(f"{path}: its vertices hold lists, which points do not have: export the points alone")
    names = [name for name, _ in vertex.properties]
    return parse_table(path, numbered[: vertex.count], [names.index(name) for name in columns], len(names))
