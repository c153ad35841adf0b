"""What is drawn of a scene flow, as a picture or as a page: clouds, directions as seen by the viewer, and colours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib import colormaps

# Of Okabe & Ito's palette, which the colour-blind can tell apart; the target darker than any colour of the wheel.
CLOUDS = {"source": "#d55e00", "target": "#4a5a70", "warped source": "#009e73"}
ERROR_MAP = colormaps["magma_r"].resampled(320)(np.arange(40, 320))[:, :3]  # without its end that vanishes on white


class View(NamedTuple):
    """One pair to look at. source, flow (N, 3), target (M, 3), truth (N, 3): float32, m, x left, y up, z forward.

    flow: the predicted flow of the source points; where nothing was predicted, the true one. truth: the true flow,
    where it is known. total: how many source and target points there were before some were left out.
    """

    name: str
    source: np.ndarray
    flow: np.ndarray
    target: np.ndarray | None = None
    truth: np.ndarray | None = None
    total: tuple[int, int] | None = None

    @property
    def warped(self) -> np.ndarray:
        """source + flow (N, 3), m."""
        return self.source + self.flow

    def clouds(self) -> dict[str, np.ndarray]:
        """The clouds by their names in ``CLOUDS``, (n, 3) each, m."""
        known = {"source": self.source, "target": self.target, "warped source": self.warped}
        return {name: cloud for name, cloud in known.items() if cloud is not None}

    @property
    def error(self) -> np.ndarray | None:
        """Length of flow - truth (N,), m."""
        return None if self.truth is None else np.linalg.norm(self.flow - self.truth, axis=1)

    @property
    def shows_truth(self) -> bool:
        """The flow is the truth itself."""
        return self.truth is self.flow

    def thinned(self, limit: int) -> View:
        """The view with at most ``limit`` points a cloud, drawn at random but always the same ones."""
        target_points = 0 if self.target is None else len(self.target)
        rows, target_rows = _draw(len(self.source), limit), _draw(target_points, limit)
        flow = self.flow[rows]
        target = None if self.target is None else self.target[target_rows]
        truth = flow if self.shows_truth else None if self.truth is None else self.truth[rows]
        return View(self.name, self.source[rows], flow, target, truth, self.total or (len(self.source), target_points))

    def drawn(self) -> str:
        """Says how many points of each cloud are drawn."""
        total = self.total or (len(self.source), 0 if self.target is None else len(self.target))
        counts = [("source", len(self.source), total[0])]
        counts += [] if self.target is None else [("target", len(self.target), total[1])]
        return ", ".join(
            f"{name}: " + (f"all {known:,}" if shown == known else f"{shown:,} of {known:,}") + " points"
            for name, shown, known in counts
        )


def to_viewer(xyz: np.ndarray) -> np.ndarray:
    """Points or vectors (..., 3) of the project's frame -> (..., 3) right, forward, up as the sensor sees them, m."""
    return np.stack([-xyz[..., 0], xyz[..., 2], xyz[..., 1]], axis=-1)


def round_scale(values: np.ndarray) -> float:
    """The 95 % quantile of non-negative values (N,), rounded up to two digits: the end of a colour scale."""
    top = float(np.quantile(values, 0.95)) if len(values) else 0.0
    if top <= 0.0:
        return 1.0
    step = 10.0 ** (np.floor(np.log10(top)) - 1.0)
    return float(f"{np.ceil(top / step) * step:.2g}")


def flow_colours(flow: np.ndarray, scale: float) -> np.ndarray:
    """Colours (..., 3) uint8 of vectors (..., 3), m, seen from above: hue shows direction, strength shows length.

    Grey means no motion, full colour a length of ``scale`` m or more. The vertical part is not shown. All hues are
    equally light: they lie on a circle of OKLab (B. Ottosson, A perceptual color space for image processing, 2020).
    """
    right, forward, _ = np.moveaxis(to_viewer(flow), -1, 0).astype(np.float64)
    strength = np.clip(np.hypot(right, forward) / scale, 0.0, 1.0)
    heading = np.arctan2(forward, right)
    lightness, a, b = 0.80 - 0.14 * strength, 0.17 * strength * np.cos(heading), 0.17 * strength * np.sin(heading)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=-1,
    ).clip(0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * srgb).astype(np.uint8)


def error_colours(error: np.ndarray, scale: float) -> np.ndarray:
    """Colours (N, 3) uint8 of errors (N,), m: light at 0, dark at ``scale`` or more."""
    index = np.clip(error / scale * (len(ERROR_MAP) - 1), 0, len(ERROR_MAP) - 1).astype(int)
    return np.round(255 * ERROR_MAP[index]).astype(np.uint8)


def colour_wheel(size: int) -> np.ndarray:
    """The legend of ``flow_colours`` as an image (size, size, 4) uint8: forward is up, right is right."""
    axis = np.linspace(-1.0, 1.0, size)
    right, forward = np.meshgrid(axis, -axis)  # (size, size) each
    vectors = np.stack([-right, np.zeros_like(right), forward], axis=-1)
    inside = np.clip((1.0 - np.hypot(right, forward)) * size / 2 + 0.5, 0.0, 1.0)  # smooth rim
    return np.dstack([flow_colours(vectors, 1.0), np.round(255 * inside).astype(np.uint8)])


def _draw(points: int, limit: int) -> np.ndarray:
    if points <= limit:
        return np.arange(points)
    return np.sort(np.random.default_rng(0).choice(points, limit, replace=False))
