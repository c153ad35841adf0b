"""KITTI Scene Flow 2015: from disparities and optical flow to the processed layout.

`<raw>/training/` holds disp_occ_0, disp_occ_1 and flow_occ (16-bit PNG, frame <id>_10.png) and
calib_cam_to_cam/<id>.txt, whose P_rect_02 is used. The protocol is that of Gu et al. (HPLFlowNet, CVPR 2019). It gives
x and y negated: x left, y up, as this project has them. The ground is kept here; the reader removes it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lib.camera import Camera
from lib.datasets.prepare.images import check_size, read_bytes, read_png
from lib.datasets.prepare.raw import Clouds, Piece, RawFrames, complete_frames, find_raw
from lib.datasets.scene_flow.kitti import FOLDER_NAMES
from lib.errors import InputError

BASELINE = 0.54  # m
FLOW_ZERO, FLOW_SCALE, DISPARITY_SCALE = 2.0**15, 64.0, 256.0  # value -> px

IMAGES, CALIBRATION = "data_scene_flow.zip", "data_scene_flow_calib.zip"
DISPARITY = Piece("disp_occ_0", "_10.png", IMAGES)
DISPARITY_LATER = Piece("disp_occ_1", "_10.png", IMAGES)
FLOW = Piece("flow_occ", "_10.png", IMAGES)
CALIB = Piece("calib_cam_to_cam", ".txt", CALIBRATION)


def open_raw(raw: Path) -> RawFrames:
    """The training frames. Raises InputError naming pieces of the download that are missing, with their archive."""
    folders = [piece.folder for piece in (DISPARITY, DISPARITY_LATER, FLOW, CALIB)]
    base = find_raw(
        raw,
        "training",
        lambda path: any((path / folder).is_dir() for folder in folders),
        "KITTI Scene Flow 2015 (folder training)",
    )
    images = (DISPARITY, DISPARITY_LATER, FLOW)
    names, incomplete = complete_frames(base, (*images, CALIB), lists=images)
    return RawFrames(FOLDER_NAMES[0], names, lambda name: convert(base, name), incomplete)


def convert(base: Path, name: str) -> Clouds:
    """The clouds of one frame: the pixels that are valid in both disparities and in the flow.

    The second cloud takes disp_occ_1 at the first frame's pixel, where the data set stores it. Raises InputError for
    files that are damaged, not 16 bits, or of different sizes, and when no pixel is valid.
    """
    camera = read_calibration(base / CALIB.folder / (name + CALIB.ending))
    paths = {piece: base / piece.folder / (name + piece.ending) for piece in (DISPARITY, DISPARITY_LATER, FLOW)}
    flow = read_png(paths[FLOW], bits=(16,), channels=3)
    first, later = (read_png(paths[piece], bits=(16,), channels=1) for piece in (DISPARITY, DISPARITY_LATER))
    for piece, image in ((DISPARITY, first), (DISPARITY_LATER, later)):
        check_size(paths[piece], image, *flow.shape[:2])
    rows, columns = np.nonzero((first > 0) & (later > 0) & (flow[:, :, 2] > 0))
    if len(rows) == 0:
        raise InputError(f"{base} frame {name}: no pixel is valid in both disparities and the flow")
    motion = (flow[rows, columns, :2] - FLOW_ZERO) / FLOW_SCALE  # (n, 2) px
    pc1 = lift(camera, columns, rows, first[rows, columns] / DISPARITY_SCALE)
    pc2 = lift(camera, columns + motion[:, 0], rows + motion[:, 1], later[rows, columns] / DISPARITY_SCALE)
    return pc1.astype(np.float32), pc2.astype(np.float32)


def lift(camera: Camera, u: np.ndarray, v: np.ndarray, disparity: np.ndarray) -> np.ndarray:
    """Points (n, 3) in metres, x left, y up, z forward, of pixels u, v (n,) and disparities, px.

    z = |f| 0.54 / (d + 1e-5); x and y solve camera.project. camera.f is negative, which negates x and y.
    """
    z = -camera.f * BASELINE / (disparity + 1e-5)
    x = (u * (z + camera.p23) - (camera.cx * z + camera.p03)) / camera.f
    y = (v * (z + camera.p23) - (camera.cy * z + camera.p13)) / camera.f
    return np.stack([x, y, z], axis=-1)


def read_calibration(path: Path) -> Camera:
    """The camera of a calib_cam_to_cam file, from its line P_rect_02 (3 x 4). Raises InputError without a fit one."""
    for line in read_bytes(path).decode("utf-8", errors="replace").splitlines():
        key, _, values = line.partition(":")
        if key == "P_rect_02":
            try:
                matrix = np.array(values.split(), dtype=np.float64).reshape(3, 4)
            except ValueError:
                break
            if not np.isfinite(matrix).all() or matrix[0, 0] <= 0.0 or matrix[0, 0] != matrix[1, 1]:
                break
            return Camera(-matrix[0, 0], matrix[0, 2], matrix[1, 2], *matrix[:, 3])
    raise InputError(f"{path} has no line P_rect_02 of 12 numbers with one focal length: extract {CALIBRATION} again")
