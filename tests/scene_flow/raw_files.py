"""Raw downloads as the tests write them: the inverse of the preparation's formulas, and the image files."""

from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 960, 540  # FlyingThings3D
P_RECT_02 = (
    "P_rect_02: 7.215377e+02 0 6.095593e+02 4.485728e+01 0 7.215377e+02 1.728540e+02 2.163791e-01 0 0 1 2.745884e-03"
)


def write_pfm(path: Path, image: np.ndarray, order: str = "<") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = f"Pf\n{image.shape[1]} {image.shape[0]}\n{-1.0 if order == '<' else 1.0}\n"
    path.write_bytes(header.encode() + image[::-1].astype(f"{order}f4").tobytes())


def write_flo(path: Path, flow: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = np.array([flow.shape[1], flow.shape[0]], "<i4").tobytes()
    path.write_bytes(np.float32(202021.25).tobytes() + size + flow.astype("<f4").tobytes())


def write_png(path: Path, image: np.ndarray) -> None:
    """image: (H, W), or (H, W, 3) in the order R, G, B."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image if image.ndim == 2 else image[:, :, ::-1])


def ft3d_files(base: Path, name: str) -> dict[str, Path]:
    """Where the five files of a frame "<split>/<id>" lie."""
    split, frame = name.split("/")
    folders = {
        "disparity": "disparity/left/{}.pfm",
        "disparity_occlusions": "disparity_occlusions/left/{}.png",
        "disparity_change": "disparity_change/left/into_future/{}.pfm",
        "flow": "flow/left/into_future/{}.flo",
        "flow_occlusions": "flow_occlusions/left/into_future/{}.png",
    }
    return {piece: base / split / folder.format(frame) for piece, folder in folders.items()}


def write_ft3d_frame(base: Path, name: str, pc1: np.ndarray, pc2: np.ndarray) -> None:
    """Raw files whose visible pixels are the points pc1 (n, 3), stored signs, each on a pixel's ray; the others hidden.

    The inverse of the formulas: d = 1050 / z, u = 479.5 - x d, v = 269.5 + y d.
    """
    pc1, pc2 = pc1.astype(np.float64), pc2.astype(np.float64)
    (u, v, d), (u2, v2, d2) = (
        (479.5 - cloud[:, 0] * disparity, 269.5 + cloud[:, 1] * disparity, disparity)
        for cloud, disparity in ((pc1, 1050 / pc1[:, 2]), (pc2, 1050 / pc2[:, 2]))
    )
    columns, rows = np.rint(u).astype(int), np.rint(v).astype(int)
    rng = np.random.default_rng(9)
    disparity, change = rng.uniform(-200, -30, (2, HEIGHT, WIDTH))
    flow = rng.uniform(-30, 30, (HEIGHT, WIDTH, 2))
    disparity[rows, columns], change[rows, columns] = d, d2 - d
    flow[rows, columns] = np.stack([u2 - columns, v2 - rows], axis=1)
    hidden = rng.choice(np.array([[255, 0], [0, 255], [255, 255]], np.uint8), (HEIGHT, WIDTH))
    hidden[rows, columns] = 0
    files = ft3d_files(base, name)
    write_pfm(files["disparity"], disparity)
    write_pfm(files["disparity_change"], change, ">")
    write_flo(files["flow"], flow)
    write_png(files["disparity_occlusions"], hidden[:, :, 0])
    write_png(files["flow_occlusions"], hidden[:, :, 1])


def ft3d_clouds(seed: int, points: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Clouds (n, 3) float32 with the stored signs, in the order of their pixels; pc1 lies on the rays of pixels."""
    rng = np.random.default_rng(seed)
    pixels = np.sort(rng.choice(WIDTH * HEIGHT, points, replace=False))
    z = rng.uniform(-33, -3, points)
    x, y = (pixels % WIDTH - 479.5) / 1050 * -z, (pixels // WIDTH - 269.5) / 1050 * z
    pc1 = np.stack([x, y, z], axis=1)
    return pc1.astype(np.float32), (pc1 + rng.normal(0, 0.3, (points, 3))).astype(np.float32)


def write_kitti_frame(base: Path, name: str, seed: int, size: tuple[int, int] = (40, 120)) -> None:
    """A small frame of random 16-bit values with a calibration file; about a third of its pixels is valid."""
    rng = np.random.default_rng(seed)
    for folder in ("disp_occ_0", "disp_occ_1"):
        image = rng.integers(8 * 256, 80 * 256, size) * (rng.random(size) < 0.7)
        write_png(base / folder / f"{name}_10.png", image.astype(np.uint16))
    flow = np.concatenate([rng.integers(31000, 34000, (*size, 2)), rng.integers(0, 2, (*size, 1))], axis=2)
    write_png(base / "flow_occ" / f"{name}_10.png", flow.astype(np.uint16))
    calibration = base / "calib_cam_to_cam" / f"{name}.txt"
    calibration.parent.mkdir(parents=True, exist_ok=True)
    calibration.write_text(f"calib_time: 09-Jan-2012 13:57:47\n{P_RECT_02}\n")
