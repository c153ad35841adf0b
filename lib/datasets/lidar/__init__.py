"""Samples for LiDAR detectors: scenes.py, their augmentation (augment.py), and the database of objects it uses."""

from lib.datasets.lidar.augment import POINTPILLARS, POINTRCNN, SECOND, SMALL, Augmentation
from lib.datasets.lidar.database import Database, open_database
from lib.datasets.lidar.scenes import LidarBatch, LidarSample, LidarScenes, collate

__all__ = [
    "POINTPILLARS",
    "POINTRCNN",
    "SECOND",
    "SMALL",
    "Augmentation",
    "Database",
    "LidarBatch",
    "LidarSample",
    "LidarScenes",
    "collate",
    "open_database",
]
