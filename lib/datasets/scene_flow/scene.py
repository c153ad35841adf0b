"""What every data set yields."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from lib.camera import Camera


class Scene(NamedTuple):
    """Two aligned clouds of one scene, before any point is drawn.

    pc1, pc2: (n, 3) float32 in metres, x left, y up, z forward; row i of pc2 is where row i of pc1 moved.
    """

    name: str
    pc1: np.ndarray
    pc2: np.ndarray
    camera: Camera


class SceneSource(Protocol):
    """An ordered collection of scenes. Reading `names` opens no file and generates nothing."""

    names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Scene: ...
