"""The real frames, for the tests of LiDAR detection."""

from pathlib import Path

import pytest

from lib.datasets.kitti_object import Frames, open_frames


@pytest.fixture(scope="session")
def real_frames(shared: Path) -> Frames:
    """The 22 frames of KITTI's object benchmark; tests that need them skip where they are missing."""
    if not (shared / "data/KITTI_object").is_dir():
        pytest.skip(f"real frames not found: {shared}/data/KITTI_object")
    return open_frames(shared / "data/KITTI_object")
