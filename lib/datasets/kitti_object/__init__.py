"""KITTI's object benchmark: its frames (frames.py), its label and result lines (labels.py, results.py)."""

from lib.datasets.kitti_object.frames import Frame, Frames, open_frames, read_calibration, read_split, write_calibration
from lib.datasets.kitti_object.labels import TYPES, Label, read_labels, write_labels
from lib.datasets.kitti_object.results import as_results

__all__ = [
    "TYPES",
    "Frame",
    "Frames",
    "Label",
    "as_results",
    "open_frames",
    "read_calibration",
    "read_labels",
    "read_split",
    "write_calibration",
    "write_labels",
]
