"""What KITTI's object benchmark fixes (Geiger et al., CVPR 2012): the types of objects and the levels of difficulty."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")


class Level(NamedTuple):
    """The limits of one level of difficulty; an object beyond one of them is too hard for the level."""

    height: float  # px, of the 2-D box
    occluded: int
    truncated: float

    def excludes(
        self,
        height: float | np.ndarray,
        occluded: int | np.ndarray,
        truncated: float | np.ndarray,
        height_at_limit_counts: bool = False,
    ) -> bool | np.ndarray:
        """Whether objects are too hard: numbers, or arrays of one shape. height: of the 2-D box in px.

        height_at_limit_counts: an object exactly as high as the limit is not too hard, as in the kit before 2020.
        """
        low = height < self.height if height_at_limit_counts else height <= self.height
        return low | (occluded > self.occluded) | (truncated > self.truncated)


LEVELS = {"easy": Level(40, 0, 0.15), "moderate": Level(25, 1, 0.3), "hard": Level(25, 2, 0.5)}
