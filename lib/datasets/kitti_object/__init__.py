"""KITTI's object benchmark: its frames (frames.py) and its label and result lines (labels.py)."""

from lib.datasets.kitti_object.frames import Frame, Frames, open_frames, read_calibration, read_split, write_calibration
from lib.datasets.kitti_object.labels import TYPES, Label, read_labels, write_labels

__all__ = [
    "TYPES",
    "Frame",
    "Frames",
    "Label",
    "open_frames",
    "read_calibration",
    "read_labels",
    "read_split",
    "write_calibration",
    "write_labels",
]
