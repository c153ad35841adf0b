"""Everything about a pair of clouds that depends on coordinates alone, computed once and shared by all layers.

A teacher and a student that see the same pair share one ``PairGeometry`` as well.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lib import ops
from lib.ops import InputError

LEVELS = 5  # 0 (finest) .. 4 (coarsest)
SIZE_DIVISORS = (1, 4, 16, 32, 128)  # 8192 points -> 2048, 512, 256, 64
DOWN_NEIGHBOURS = 16
SELF_NEIGHBOURS = 9
CROSS_NEIGHBOURS = 32
INTERPOLATION_NEIGHBOURS = 3


def level_sizes(points: int, sizes: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Points at levels 0..4 of a cloud of ``points``: ``sizes`` for levels 1..4, else N/4, N/16, N/32, N/128.

    Raises InputError when the cloud is too small for its levels or the sizes do not fall.
    """
    if sizes is None and points < SIZE_DIVISORS[-1]:
        raise InputError(
            f"a cloud of {points} points is too small: the four coarser levels need at least {SIZE_DIVISORS[-1]} points"
        )
    chosen = (points, *(sizes or (points // d for d in SIZE_DIVISORS[1:])))
    if len(chosen) != LEVELS or chosen[-1] < 1 or any(a < b for a, b in pairwise(chosen)):
        raise InputError(f"level sizes must be four falling numbers >= 1 and at most the cloud's {points}, got {sizes}")
    return chosen


def neighbours(*searches: tuple[Tensor, Tensor, int]) -> list[Tensor]:
    """Of each (query, support, k) the k nearest, or all support points where there are fewer: (B, N, min(k, M))."""
    return ops.knn_each(*((query, support, min(k, support.shape[1])) for query, support, k in searches))


def cross_neighbours(xyz1: Tensor, xyz2: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbours across a pair (B, N, 3), (B, M, 3): (B, N, 32) into the target, (B, M, 32) into the source."""
    near12, near21 = neighbours((xyz1, xyz2, CROSS_NEIGHBOURS), (xyz2, xyz1, CROSS_NEIGHBOURS))
    return near12, near21


@dataclass
class Neighbourhood:
    """Neighbours of each query and where they lie."""

    index: Tensor  # (B, N, K) into the support
    offset: Tensor  # (B, N, K, 3) = neighbour - query, metres

    @classmethod
    def of(cls, query: Tensor, support: Tensor, index: Tensor) -> "Neighbourhood":
        """Where the neighbours index (B, N, K) of each query (B, N, 3) lie among the support points (B, M, 3)."""
        return cls(index, ops.neighbour_offsets(query, support, index))


@dataclass
class Interpolation:
    """The 3 nearest support points of each query with inverse-distance weights: upsampling and warping."""

    index: Tensor  # (B, N, 3) into the support
    weights: Tensor  # (B, N, 3), sum 1

    @classmethod
    def of(cls, query: Tensor, support: Tensor, index: Tensor) -> "Interpolation":
        """query (B, N, 3), support (B, M, 3), metres, index (B, N, 3). Gradients flow through the weights."""
        return cls(index, ops.inverse_distance_weights(query, support, index))

    @classmethod
    def search(cls, query: Tensor, support: Tensor) -> "Interpolation":
        """The same with the nearest neighbours."""
        return cls.of(query, support, *neighbours((query, support, INTERPOLATION_NEIGHBOURS)))

    def __call__(self, values: Tensor) -> Tensor:
        """Values at the support points (B, M, C) -> values at the queries (B, N, C)."""
        return ops.weighted_sum(values, self.index, self.weights)

    def append(self, features: Tensor, values: Tensor, slope: float = 1.0) -> Tensor:
        """[features, LeakyReLU(values at the queries)]: features (B, N, F) of the queries -> (B, N, F + C).

        slope: of the LeakyReLU; 1: none.
        """
        return ops.append_weighted_sum(features, values, self.index, self.weights, slope)


@dataclass
class CloudGeometry:
    """The level pyramid of a batch of clouds. Index l of each list is level l."""

    xyz: list[Tensor]  # (B, N_l, 3), metres
    indices: list[Tensor | None]  # (B, N_l) into the level above; None at level 0
    down: list[Neighbourhood | None]  # level l's points among the points of level l - 1; None at level 0
    up: list[Interpolation]  # level l's points (l = 0..3) from the points of level l + 1

    @classmethod
    def build(cls, xyz: Tensor, sizes: tuple[int, ...]) -> "CloudGeometry":
        """xyz (B, N, 3) in metres, ``sizes`` of levels 0..4."""
        clouds, indices = [xyz], [None]
        for index in _sample_levels(xyz, sizes):
            indices.append(index)
            clouds.append(ops.gather(clouds[-1], index))
        pairs = list(pairwise(clouds))  # (finer, coarser)
        found = neighbours(
            *((coarse, fine, DOWN_NEIGHBOURS) for fine, coarse in pairs),
            *((fine, coarse, INTERPOLATION_NEIGHBOURS) for fine, coarse in pairs),
        )
        below, above = found[: len(pairs)], found[len(pairs) :]
        down = [Neighbourhood.of(coarse, fine, near) for (fine, coarse), near in zip(pairs, below, strict=True)]
        up = [Interpolation.of(fine, coarse, near) for (fine, coarse), near in zip(pairs, above, strict=True)]
        return cls(clouds, indices, [None, *down], up)


def _sample_levels(xyz: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """Sampling indices of levels 1..4, each (B, N_l) into the level above."""
    first = ops.furthest_point_sample(xyz, sizes[1])
    # Sampling a set that is in sampling order gives its own prefix, so one run serves all levels - as long as level 1
    # has distinct points. Where a cloud has too few, every distance has come to 0 and index 0 is picked again. A graph
    # under capture cannot look: it supposes distinct points and its caller looks afterwards.
    if ops.is_recording(first) or samples_differ(first):
        prefixes = [torch.arange(n, device=xyz.device).expand(len(xyz), n) for n in sizes[2:]]
        return [first, *prefixes]
    levels, cloud = [first], ops.gather(xyz, first)
    for size in sizes[2:]:
        levels.append(ops.furthest_point_sample(cloud, size))
        cloud = ops.gather(cloud, levels[-1])
    return levels


def samples_differ(index: Tensor) -> Tensor:
    """True (0-dimensional) when furthest point sampling (B, n) found a new point at every pick."""
    return (index[:, 1:] != 0).all()


@dataclass
class PairGeometry:
    """The geometry of source and target cloud before any flow is known."""

    cloud1: CloudGeometry
    cloud2: CloudGeometry
    both: CloudGeometry | None  # the two clouds in one batch (2B), when they have the same size
    own: list[Neighbourhood]  # source points among themselves, levels 0..3
    cross: tuple[Tensor, Tensor]  # ``cross_neighbours`` at level 3, the only level whose target is not warped

    @classmethod
    def build(cls, xyz1: Tensor, xyz2: Tensor, sizes1: tuple[int, ...], sizes2: tuple[int, ...]) -> "PairGeometry":
        """xyz1 (B, N, 3), xyz2 (B, M, 3) in metres; the sizes of levels 0..4 of each."""
        both = None
        if sizes1 == sizes2:
            both = CloudGeometry.build(torch.cat([xyz1, xyz2]), sizes1)
            cloud1, cloud2 = _halves(both, len(xyz1))
        else:
            cloud1, cloud2 = CloudGeometry.build(xyz1, sizes1), CloudGeometry.build(xyz2, sizes2)
        finer, (last1, last2) = cloud1.xyz[:-1], (cloud1.xyz[3], cloud2.xyz[3])
        *near, near12, near21 = neighbours(
            *((xyz, xyz, SELF_NEIGHBOURS) for xyz in finer),
            (last1, last2, CROSS_NEIGHBOURS),
            (last2, last1, CROSS_NEIGHBOURS),
        )
        own = [Neighbourhood.of(xyz, xyz, index) for xyz, index in zip(finer, near, strict=True)]
        return cls(cloud1, cloud2, both, own, (near12, near21))


def _halves(both: CloudGeometry, batch: int) -> tuple[CloudGeometry, CloudGeometry]:
    """Views of the first and second half of a doubled batch."""

    def half(part: slice) -> CloudGeometry:
        return CloudGeometry(
            [xyz[part] for xyz in both.xyz],
            [None if i is None else i[part] for i in both.indices],
            [None if d is None else Neighbourhood(d.index[part], d.offset[part]) for d in both.down],
            [Interpolation(u.index[part], u.weights[part]) for u in both.up],
        )

    return half(slice(None, batch)), half(slice(batch, None))
