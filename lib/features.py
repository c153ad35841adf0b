"""What a network hands out for distillation: features with the places they stand on, logits, and predictions by level.

The words are the same for every task. Layouts of a feature's values:

* "points": (B, N, C), N points of each of B clouds;
* "rows": (P, C), rows of a whole batch together, such as voxels or proposals: there is no sample axis, but the sites
  may tell which sample each row belongs to;
* "map": (B, C, H, W), a cell for each pixel of an image or of a bird's-eye view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from lib.errors import InputError
from lib.ops import gather

Layout = Literal["points", "rows", "map"]


@dataclass(frozen=True, eq=False)
class Sites:
    """Where the values of a feature stand. Two features may be compared when their sites are one and the same object.

    places: coordinates of the sites, such as (B, N, 3) in metres, or None. finer, kept: these sites are the rows
    ``kept`` (B, N) int64 of the ``finer`` ones; None for the finest. sample: of the layout "rows", (P,) int64, the
    number of the sample (cloud or image) that each row belongs to; None where the rows do not tell.
    """

    places: Tensor | None = None
    finer: Sites | None = None
    kept: Tensor | None = None
    sample: Tensor | None = None

    def rows_of_samples(self) -> list[Tensor]:
        """Which rows belong to each sample: (P_b,) int64 each, rising. A sample without rows is left out.

        Raises InputError where the rows do not tell.
        """
        if self.sample is None:
            raise InputError("these rows do not tell which sample they belong to: choose a place of another layout")
        counts = self.sample.unique(return_counts=True)[1]
        return list(self.sample.argsort(stable=True).split(counts.tolist()))

    def bring_down(self, values: Tensor, fine: Sites) -> Tensor:
        """Values (B, N_fine, C) of the finer sites ``fine`` -> those of them that stand here, (B, N, C).

        Raises InputError when these sites are not a part of the finer ones.
        """
        if self is fine:
            return values
        if self.finer is None:
            raise InputError(
                "these sites are not a part of the finer ones: features of different clouds do not compare"
            )
        return gather(self.finer.bring_down(values, fine), self.kept)  # (B, N, C)


@dataclass(frozen=True)
class Feature:
    """Values of a layer. importance: one number a site, (B, N), (P,) or (B, H, W), where the network knows one."""

    values: Tensor
    layout: Layout
    sites: Sites
    importance: Tensor | None = None

    def detached(self) -> Feature:
        """The same without gradient."""
        return Feature(self.values.detach(), self.layout, self.sites, self.importance)

    def by_position(self) -> Tensor:
        """The values with channels last and positions in one axis: (B, N, C); rows stay (P, C)."""
        # map: (B, C, H, W) -> (B, C, H W) -> (B, H W, C)
        return self.values.flatten(2).transpose(1, 2) if self.layout == "map" else self.values

    def rows(self) -> Tensor:
        """All positions of the batch below each other: (R, C)."""
        return self.by_position().flatten(0, -2)  # (B, N, C) -> (B N, C)

    def as_clouds(self) -> Tensor:
        """The values as clouds (B, N, C). Rows of a batch are one cloud: (1, P, C)."""
        return self.by_position().unsqueeze(0) if self.layout == "rows" else self.by_position()

    def importance_of_clouds(self) -> Tensor | None:
        """``importance`` in the order of ``as_clouds``: (B, N), or None where the network knows none."""
        if self.importance is None:
            return None
        # rows: (P,) -> (1, P); map: (B, H, W) -> (B, H W)
        return self.importance.unsqueeze(0) if self.layout == "rows" else self.importance.flatten(1)

    def at(self, coarser: Feature) -> Tensor:
        """The values ``by_position`` at the sites of an equally fine or coarser feature of the same layout.

        Points keep those that the coarser level kept; a map is averaged over the cells of the coarser one.
        Raises InputError where neither is possible.
        """
        if self.sites is coarser.sites:
            return self.by_position()
        if self.layout == coarser.layout == "points":
            return coarser.sites.bring_down(self.values, self.sites)
        cells, fewer = self.values.shape[2:], coarser.values.shape[2:]
        if self.layout == coarser.layout == "map" and fewer[0] <= cells[0] and fewer[1] <= cells[1]:
            pooled = F.adaptive_avg_pool2d(self.values, fewer)  # (B, C, H', W')
            return pooled.flatten(2).transpose(1, 2)  # (B, H' W', C)
        raise InputError(
            f"a feature of {self.layout} {tuple(self.values.shape)} cannot be brought to the sites of one of "
            f"{coarser.layout} {tuple(coarser.values.shape)}"
        )


class Shape(NamedTuple):
    """What is known of a feature before the network has run: its width and its layout."""

    width: int
    layout: Layout


@dataclass(frozen=True)
class Levels:
    """Predictions of one quantity from fine to coarse: values[l] (B, N_l, D) at sites[l], with a weight each."""

    values: Sequence[Tensor]
    sites: Sequence[Sites]
    weights: Sequence[float]


@dataclass
class Outputs:
    """What one network gave for one batch. features and logits hold what was asked for.

    prediction: the task's own. logits: name -> (R, K). levels: where the task predicts level by level. shared: what
    another network may take over that sees the same batch, such as sites, sampling and neighbours.
    """

    prediction: Any
    features: Mapping[str, Feature] = field(default_factory=dict)
    logits: Mapping[str, Tensor] = field(default_factory=dict)
    levels: Levels | None = None
    shared: Any = None


class Want(NamedTuple):
    """Which features and logits a network is to return, by name."""

    features: tuple[str, ...] = ()
    logits: tuple[str, ...] = ()
