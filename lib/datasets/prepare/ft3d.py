"""FlyingThings3D subset: from disparities and optical flow to the processed layout.

`<raw>/{train,val}/` holds disparity/left/<id>.pfm, disparity_occlusions/left/<id>.png,
disparity_change/left/into_future/<id>.pfm, flow/left/into_future/<id>.flo and
flow_occlusions/left/into_future/<id>.png, 960 x 540 px. The formulas are those of the "without occlusion" protocol
(Gu et al., HPLFlowNet, CVPR 2019). They give x and z negated, and so the processed files store them.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from lib.camera import FLYINGTHINGS3D_CAMERA
from lib.datasets.prepare.images import check_size, read_flo, read_pfm, read_png
from lib.datasets.prepare.raw import Clouds, Piece, RawFrames, complete_frames, find_raw
from lib.datasets.scene_flow.ft3d import FOLDER_NAMES, SIGNS
from lib.errors import InputError

WIDTH, HEIGHT = 960, 540
NEAR = -35.0  # m; stored z of the farthest point kept
SPLITS = ("train", "val")

DISPARITY = Piece("disparity/left", ".pfm", "FlyingThings3D_subset_disparity.tar.bz2")
HIDDEN = Piece("disparity_occlusions/left", ".png", "FlyingThings3D_subset_disparity_occlusions.tar.bz2")
CHANGE = Piece("disparity_change/left/into_future", ".pfm", "FlyingThings3D_subset_disparity_change.tar.bz2")
FLOW = Piece("flow/left/into_future", ".flo", "FlyingThings3D_subset_flow.tar.bz2")
HIDDEN_LATER = Piece("flow_occlusions/left/into_future", ".png", "FlyingThings3D_subset_flow_occlusions.tar.bz2")
PIECES = (DISPARITY, HIDDEN, CHANGE, FLOW, HIDDEN_LATER)


def open_raw(raw: Path) -> RawFrames:
    """The frames of the splits train and val that have a future frame.

    One split is enough: the other is named in a warning. Raises InputError when a split lacks one of the five archives.
    """
    base = find_raw(
        raw,
        "FlyingThings3D_subset",
        lambda path: any((path / split).is_dir() for split in SPLITS),
        "the FlyingThings3D subset (folders train and val)",
    )
    present = [split for split in SPLITS if any((base / split / piece.folder).is_dir() for piece in PIECES)] or SPLITS
    for split in set(SPLITS) - set(present):
        warnings.warn(
            f"{base} holds no frames of {split}: only {present[0]} is prepared; extract the five archives of {split} "
            f"there to have both",
            stacklevel=1,
        )
    names, incomplete = [], 0
    for split in present:
        ids, lacking = complete_frames(base / split, PIECES, lists=(FLOW, CHANGE, HIDDEN_LATER))
        names += [f"{split}/{frame}" for frame in ids]
        incomplete += lacking
    return RawFrames(FOLDER_NAMES[0], names, lambda name: convert(base, name), incomplete, SIGNS)


def convert(base: Path, name: str) -> Clouds:
    """The clouds of one frame "<split>/<id>".

    A pixel becomes a point if it is visible in both cameras and both frames, has a depth (a negative disparity) in both
    frames, and is nearer than 35 m in both. Raises InputError for files that are damaged or of another size, and when
    no pixel is left.
    """
    split, frame = name.split("/")

    def path(piece: Piece) -> Path:
        return base / split / piece.folder / (frame + piece.ending)

    images = {piece: read_pfm(path(piece)) for piece in (DISPARITY, CHANGE)}
    images |= {piece: read_png(path(piece), bits=(1, 8), channels=1) for piece in (HIDDEN, HIDDEN_LATER)}
    images[FLOW] = read_flo(path(FLOW))
    for piece, image in images.items():
        check_size(path(piece), image, HEIGHT, WIDTH)
    rows, columns = np.nonzero((images[HIDDEN] == 0) & (images[HIDDEN_LATER] == 0))
    disparity, change, flow = (images[piece][rows, columns].astype(np.float64) for piece in (DISPARITY, CHANGE, FLOW))
    finite = np.isfinite(disparity) & np.isfinite(change) & np.isfinite(flow).all(axis=1)
    seen = finite & (disparity < 0.0) & (disparity + change < 0.0)
    if len(rows) and not seen.any():
        raise InputError(
            f"{path(DISPARITY)}: no visible pixel has a negative disparity; the subset's left disparities "
            f"are negative, so these files are of another release"
        )
    pc1 = lift(columns[seen], rows[seen], disparity[seen])
    pc2 = lift(columns[seen] + flow[seen, 0], rows[seen] + flow[seen, 1], disparity[seen] + change[seen])
    near = (pc1[:, 2] > NEAR) & (pc2[:, 2] > NEAR)
    if not near.any():
        raise InputError(f"{base / split} frame {frame}: no pixel is visible in both frames and nearer than 35 m")
    return pc1[near].astype(np.float32), pc2[near].astype(np.float32)


def lift(u: np.ndarray, v: np.ndarray, disparity: np.ndarray) -> np.ndarray:
    """Points (n, 3) in metres as the files store them (x and z negated), of pixels u, v (n,) and disparities < 0, px.

    z = 1050 / d, x = -(u - cx) / d, y = (v - cy) / d: the stereo baseline is 1.
    """
    camera = FLYINGTHINGS3D_CAMERA
    return np.stack([-(u - camera.cx) / disparity, (v - camera.cy) / disparity, -camera.f / disparity], axis=-1)
