"""Procedural data sets: scenes computed when they are asked for, never stored, never downloaded.

A scene depends on the data set, the seed, the part and the index alone. The parts draw from different random streams.
The latest scenes are kept in memory, so that a small set is computed once, not in every epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from lib.camera import Camera
from lib.datasets.scene_flow.raycast import Render
from lib.datasets.scene_flow.scene import Scene
from lib.errors import InputError

PARTS = {"train": 0, "validation": 1, "test": 2}  # the number goes into the generator's seed
DEFAULT_COUNTS = {"train": 512, "validation": 32, "test": 64}
CACHED_SCENES = 128  # at most; about 0.7 MB each


class ProceduralScenes:
    """Scenes of a procedural set.

    name: of the data set. stream: its number in the generator's seed. build(rng) -> Render makes one scene.
    num_scenes sets the size of the part "train" only. Raises InputError for num_scenes < 1 and a negative seed.
    """

    def __init__(
        self,
        name: str,
        stream: int,
        build: Callable[[np.random.Generator], Render],
        camera: Camera,
        part: str,
        num_scenes: int | None = None,
        seed: int = 0,
    ):
        if num_scenes is not None and num_scenes < 1:
            raise InputError(f"number of scenes is {num_scenes}; it must be at least 1")
        if seed < 0:
            raise InputError(f"seed is {seed}; it must be 0 or more")
        count = num_scenes if part == "train" and num_scenes is not None else DEFAULT_COUNTS[part]
        self.names = [f"{name}/{part}/{index:06d}" for index in range(count)]
        self._stream = (stream, seed, PARTS[part])
        self._build = build
        self._camera = camera
        self._cache: OrderedDict[int, Scene] = OrderedDict()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Scene:
        index = range(len(self))[index]
        if index not in self._cache:
            made = self._build(np.random.default_rng((*self._stream, index)))
            for cloud in (made.pc1, made.pc2):
                cloud.flags.writeable = False  # shared with every later reader of the cache
            self._cache[index] = Scene(self.names[index], made.pc1, made.pc2, self._camera)
            if len(self._cache) > CACHED_SCENES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(index)
        return self._cache[index]
