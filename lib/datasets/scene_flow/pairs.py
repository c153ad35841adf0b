"""From scenes to samples: two unordered clouds of N points, drawn independently, and the flow of the first."""

from __future__ import annotations

import functools
import multiprocessing
import warnings
from collections.abc import Sequence
from multiprocessing.synchronize import Lock
from typing import NamedTuple

import numpy as np
import torch

from lib.camera import Camera
from lib.datasets.scene_flow import transforms
from lib.datasets.scene_flow.scene import SceneSource
from lib.errors import InputError

# The first number of each generator's seed. It keeps the draws of evaluation apart from those of training.
EVALUATION_STREAM = 1
TRAINING_STREAM = 2

MAX_DEPTH = 35.0  # m


class FlowPair(NamedTuple):
    """One sample. xyz1 (N, 3), xyz2 (M, 3), flow (N, 3): float32, metres; xyz1 + flow is where xyz1's points moved."""

    xyz1: torch.Tensor
    xyz2: torch.Tensor
    flow: torch.Tensor
    name: str
    camera: Camera


class FlowBatch(NamedTuple):
    """Several samples. xyz1 (B, N, 3), xyz2 (B, M, 3), flow (B, N, 3): float32, metres."""

    xyz1: torch.Tensor
    xyz2: torch.Tensor
    flow: torch.Tensor
    names: list[str]
    cameras: list[Camera]


class FlowPairs(torch.utils.data.Dataset):
    """Samples drawn from scenes. Every draw depends on its index alone, so workers and order change nothing.

    pairs[i]: the evaluation draw of scene i; depends on i only, never augmented.
    pairs[epoch, i]: a training draw of scene i; depends on (seed, epoch, i) only, augmented when `augment` is set.

    num_points: N rows for the source and, independently, N for the target. A scene that has fewer is drawn from with
    replacement; the first such scene of a run is named in a warning. None takes all rows, with the target's rows
    shuffled. max_depth: rows at or beyond it (m) in either frame are left out.
    Raises InputError for num_points < 1, a negative seed, and for a scene without any row nearer than max_depth.
    """

    def __init__(
        self,
        scenes: SceneSource,
        num_points: int | None,
        augment: bool = False,
        seed: int = 0,
        max_depth: float = MAX_DEPTH,
    ):
        if num_points is not None and num_points < 1:
            raise InputError(f"number of points is {num_points}; it must be at least 1")
        if seed < 0:
            raise InputError(f"seed is {seed}; it must be 0 or more")
        self.scenes = scenes
        self.num_points = num_points
        self.augment = augment
        self.seed = seed
        self.max_depth = max_depth
        self._right_to_warn = _right_to_warn()

    @property
    def names(self) -> list[str]:
        """The names of the samples: each is its scene's."""
        return list(self.scenes.names)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int | tuple[int, int]) -> FlowPair:
        if isinstance(index, tuple):
            epoch, i = index
            i = range(len(self))[i]
            return self._draw(i, np.random.default_rng((TRAINING_STREAM, self.seed, epoch, i)), self.augment)
        i = range(len(self))[index]
        return self._draw(i, np.random.default_rng((EVALUATION_STREAM, i)), augment=False)

    def _draw(self, i: int, rng: np.random.Generator, augment: bool) -> FlowPair:
        scene = self.scenes[i]
        near = transforms.within_depth(scene.pc1, scene.pc2, self.max_depth)
        pc1, pc2 = scene.pc1[near], scene.pc2[near]
        if len(pc1) == 0:
            raise InputError(
                f"scene {scene.name} has no point nearer than {self.max_depth:g} m in both clouds; "
                f"remove it or prepare it again"
            )
        if self.num_points is None:
            rows1, rows2 = np.arange(len(pc1)), rng.permutation(len(pc2))
        else:
            if len(pc1) < self.num_points and self._right_to_warn.acquire(block=False):
                warnings.warn(
                    f"scene {scene.name} has {len(pc1)} points within {self.max_depth:g} m, fewer than the "
                    f"{self.num_points} that are drawn: points of this scene, and of any other that has too few, "
                    f"are drawn more than once; a smaller --num-points avoids that",
                    stacklevel=1,
                )
            rows1 = transforms.draw(rng, len(pc1), self.num_points)
            rows2 = transforms.draw(rng, len(pc2), self.num_points)
        xyz1, moved, xyz2 = pc1[rows1], pc2[rows1], pc2[rows2]
        if augment:
            xyz1, moved, xyz2 = transforms.augment(xyz1, moved, xyz2, rng)
        return FlowPair(
            torch.from_numpy(xyz1), torch.from_numpy(xyz2), torch.from_numpy(moved - xyz1), scene.name, scene.camera
        )


@functools.cache
def _right_to_warn() -> Lock:
    """A lock that one process of a run takes, and never gives back: the one that meets the first scene of few points.

    The processes that read samples ahead inherit it, so a run warns once, whoever reads that scene.
    """
    return multiprocessing.Lock()


def collate(pairs: Sequence[FlowPair]) -> FlowBatch:
    """Stack samples into a batch. Raises InputError when their clouds differ in size."""
    if len({(pair.xyz1.shape, pair.xyz2.shape) for pair in pairs}) > 1:
        raise InputError("clouds of a batch differ in size: draw a number of points from each, or use batch size 1")
    return FlowBatch(
        torch.stack([pair.xyz1 for pair in pairs]),
        torch.stack([pair.xyz2 for pair in pairs]),
        torch.stack([pair.flow for pair in pairs]),
        [pair.name for pair in pairs],
        [pair.camera for pair in pairs],
    )
