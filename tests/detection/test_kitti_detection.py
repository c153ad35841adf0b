"""The KITTI average precision equals the official development kit's, and small cases computed by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from lib.errors import InputError
from lib.metrics.kitti_detection import CLASSES, LEVELS, METRICS, Objects, average_precision, kitti_curves
from lib.metrics.kitti_detection import kitti_average_precision as all_values
from lib.metrics.kitti_overlap import ground_intersection, ground_iou, image_iou, upright_iou

SETS = ("real_noisy", "real_perfect", "synthetic", "edge_lt", "edge_le")


def parse(lines: list[str], scored: bool) -> Objects:
    """One frame from the lines of a KITTI text file."""
    rows = [line.split() for line in lines]
    numbers = np.array([row[1:] for row in rows], np.float64).reshape(len(rows), 15 if scored else 14)
    kinds = np.array([row[0] for row in rows], dtype=str)
    fields = [numbers[:, 0], numbers[:, 1], numbers[:, 2], numbers[:, 3:7], numbers[:, 7:10], numbers[:, 10:13]]
    return Objects(kinds, *fields, numbers[:, 13], numbers[:, 14] if scored else None)


def read_frames(path: Path, frames: list[str], scored: bool) -> list[Objects]:
    """The frames of one golden text file, each line led by its frame."""
    lines = {frame: [] for frame in frames}
    for line in path.read_text().splitlines():
        frame, rest = line.split(" ", 1)
        lines[frame].append(rest)
    return [parse(lines[frame], scored) for frame in frames]


@pytest.fixture(scope="module")
def golden(shared):
    """Set name -> its labels and detections."""
    folder = shared / "golden/kitti_ap"

    def load(name: str) -> tuple[list[Objects], list[Objects]]:
        if name.startswith("real"):
            files = sorted((shared / "data/KITTI_object").rglob("label_2/*.txt"))
            frames = [file.stem for file in files]
            assert len(frames) == 22
            labels = [parse(file.read_text().splitlines(), False) for file in files]
            return labels, read_frames(folder / f"{name}_detections.txt", frames, True)
        stem = name.split("_")[0]
        frames = [f"{k:06d}" for k in range(300 if stem == "synthetic" else 60)]
        return (
            read_frames(folder / f"{stem}_labels.txt", frames, False),
            read_frames(folder / f"{stem}_detections.txt", frames, True),
        )

    return load


@pytest.mark.parametrize("name", SETS)
def test_equals_the_development_kit(shared, golden, name):
    curves = kitti_curves(*golden(name), height_at_limit_counts=name == "edge_lt")
    folder = shared / "golden/kitti_ap"
    expected = json.loads((folder / "expected.json").read_text())[name]
    with np.load(folder / f"{name}_curves.npz", allow_pickle=False) as file:
        kit = dict(file)
    compared = 0
    for (metric, class_name, level), curve in curves.items():
        place = (METRICS.index(metric), CLASSES.index(class_name), list(LEVELS).index(level))
        if class_name not in expected[metric]:  # the kit leaves out a class that is never detected
            assert not curve.precision.any()
            continue
        assert curve.count == kit["n_gt"][place[1:]]
        known = ~np.isnan(kit["threshold"][place])
        np.testing.assert_array_equal(curve.threshold, kit["threshold"][place][known])
        for field in ("tp", "fp", "fn"):
            np.testing.assert_array_equal(getattr(curve, field), kit[field][place][known], field)
        row = {"bbox": 0, "bev": 2, "3d": 3}[metric]  # of kit["curve"]: bbox, aos, bev, 3d
        np.testing.assert_array_equal(curve.precision, kit["curve"][row][place[1:]])
        np.testing.assert_allclose(curve.orientation, kit["curve"][1][place[1:]], atol=1e-12) if row == 0 else None
        compared += 1
    assert compared >= 18
    for points, key in ((40, "R40"), (11, "R11")):
        values = all_values(curves, points)
        for metric, classes in expected.items():
            for class_name in CLASSES if metric != "n_gt" else ():
                ours = [values[metric, class_name, level] for level in LEVELS]
                np.testing.assert_allclose(ours, classes.get(class_name, {key: [0] * 3})[key], rtol=0, atol=1e-9)
