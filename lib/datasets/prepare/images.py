"""The image files of the raw downloads: PNG with its full bit depth, PFM disparities, FLO optical flow.

Every reader checks the whole file before it decodes it, and raises InputError that names the file.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np

from lib.errors import InputError
from lib.files import PNG_SIGNATURE

PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> values a pixel; 3 (palette) is refused
FLO_MAGIC = b"PIEH"  # the float 202021.25
AGAIN = "extract or download it again"


def read_png(path: Path, bits: tuple[int, ...], channels: int) -> np.ndarray:
    """A PNG with its full bit depth: (H, W) for 1 channel, (H, W, 3) in the order R, G, B for 3; uint8 or uint16.

    bits: the depths that are accepted. Depths below 8 are scaled to 0..255. Raises InputError for a file that is
    missing, cut short, damaged, or of another depth or number of channels.
    """
    content = read_bytes(path)
    depth, colour = _check_png(path, content)
    if colour == 3 or PNG_CHANNELS[colour] != channels or depth not in bits:
        kind = "a palette" if colour == 3 else f"{PNG_CHANNELS[colour]} channel(s)"
        raise InputError(
            f"{path} is a PNG of {depth} bits and {kind}, not of {' or '.join(map(str, bits))} bits and "
            f"{channels} channel(s): it was converted, {AGAIN}"
        )
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError(f"{path} is a damaged PNG: {AGAIN}")
    return np.ascontiguousarray(image[:, :, ::-1]) if channels == 3 else image  # OpenCV's order is B, G, R


def read_pfm(path: Path) -> np.ndarray:
    """A one-channel PFM as (H, W) float32, top row first. Raises InputError for anything else."""
    content = read_bytes(path)
    try:
        magic, size, scale, data = content.split(b"\n", 3)
        width, height = (int(word) for word in size.split())
        order = "<" if float(scale) < 0.0 else ">"
    except ValueError:
        raise InputError(f"{path} is not a complete PFM file: {AGAIN}") from None
    if magic.strip() != b"Pf":
        raise InputError(f"{path} is not a PFM file of one channel (its first line is not Pf): {AGAIN}")
    _check_length(path, len(data), 4 * width * height, width, height)
    return np.frombuffer(data, f"{order}f4").reshape(height, width)[::-1].astype(np.float32)  # stored bottom row first


def read_flo(path: Path) -> np.ndarray:
    """An optical flow in Middlebury's format as (H, W, 2) float32, px, u to the right and v down.

    Raises InputError for a file that is missing, of another format, or cut short.
    """
    content = read_bytes(path)
    if len(content) < 12 or content[:4] != FLO_MAGIC:
        raise InputError(f"{path} is not a FLO file (it does not begin with PIEH and a size): {AGAIN}")
    width, height = (int(value) for value in np.frombuffer(content, "<i4", 2, offset=4))
    _check_length(path, len(content) - 12, 8 * width * height, width, height)
    return np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)


def read_bytes(path: Path) -> bytes:
    """The content of a raw file. Raises InputError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def check_size(path: Path, image: np.ndarray, height: int, width: int) -> None:
    """Raises InputError when an image (H, W, ...) is not of this size in px."""
    if image.shape[:2] != (height, width):
        raise InputError(f"{path} is {image.shape[1]} x {image.shape[0]} px, expected {width} x {height}")


def _check_length(path: Path, present: int, expected: int, width: int, height: int) -> None:
    if width < 1 or height < 1 or present != expected:
        raise InputError(
            f"{path} is damaged: its header says {width} x {height} px, that is {expected} bytes, "
            f"and {present} follow: {AGAIN}"
        )


def _check_png(path: Path, content: bytes) -> tuple[int, int]:
    """Walks over all chunks and their checksums. Returns (bit depth, colour type)."""
    if not content.startswith(PNG_SIGNATURE) or content[12:16] != b"IHDR" or len(content) < 33:
        raise InputError(f"{path} is not a PNG file: {AGAIN}")
    start, name = len(PNG_SIGNATURE), b""
    while name != b"IEND":
        length = int.from_bytes(content[start : start + 4], "big")
        end = start + 12 + length
        if len(content) < end:
            raise InputError(f"{path} is a PNG cut short: {AGAIN}")
        name, body = content[start + 4 : start + 8], memoryview(content)[start + 4 : end - 4]
        if zlib.crc32(body) != int.from_bytes(content[end - 4 : end], "big"):
            raise InputError(
                f"{path} is a damaged PNG (the checksum of its part {name.decode('latin-1')!r} is wrong): {AGAIN}"
            )
        start = end
    if content[25] not in PNG_CHANNELS:
        raise InputError(f"{path} is a damaged PNG (colour type {content[25]}): {AGAIN}")
    return content[24], content[25]
