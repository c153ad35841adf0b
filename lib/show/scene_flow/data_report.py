"""The report page of a prepared data set: how much there is, where the points are, how they move, and some frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from lib.datasets.prepare.raw import RawFrames
from lib.datasets.scene_flow.processed import read_pair
from lib.show.charts import BLUE, GREEN, ORANGE, bars, charts
from lib.show.page import note, page, picture, section, table, tiles
from lib.show.scene_flow.picture import draw_flow
from lib.show.scene_flow.view import View

PICTURES = 4
DEPTHS = [-np.inf, 0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 50.0, np.inf]  # m
MOTIONS = [0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, np.inf]  # m
DOTS = 75  # a picture's dots an inch


class FrameStatistics(NamedTuple):
    """Of one frame: points, counts in the bins of depth and of flow length, and the ranges of x, y, z.

    low, high (3,): m, x left, y up, z forward, over both clouds. length, longest: mean and largest length of the flow.
    """

    points: int
    depths: np.ndarray
    motions: np.ndarray
    low: np.ndarray
    high: np.ndarray
    length: float
    longest: float


def read_statistics(frames: RawFrames, out: Path, names: Iterable[str], workers: int) -> Iterator[FrameStatistics]:
    """Reads the prepared frames again, ``workers`` at a time, and yields each one's statistics, in order.

    out: the folder that holds frames.folder. Raises InputError for a frame that is damaged.
    """

    def read(name: str) -> FrameStatistics:
        pc1, pc2 = _read(frames, out, name)
        length = np.linalg.norm(pc2 - pc1, axis=1)
        both = np.concatenate([pc1, pc2])
        return FrameStatistics(
            len(pc1),
            np.histogram(pc1[:, 2], DEPTHS)[0],
            np.histogram(length, MOTIONS)[0],
            both.min(axis=0),
            both.max(axis=0),
            float(length.mean(dtype=np.float64)),
            float(length.max()),
        )

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(read, names)


def data_report(frames: RawFrames, out: Path, names: list[str], statistics: list[FrameStatistics]) -> bytes:
    """The page. names: the prepared frames, at least one, with their ``statistics`` in the same order."""
    points = np.array([frame.points for frame in statistics])
    depths, motions = (sum(getattr(frame, name) for frame in statistics) for name in ("depths", "motions"))
    low = np.min([frame.low for frame in statistics], axis=0)
    high = np.max([frame.high for frame in statistics], axis=0)
    mean = sum(frame.length * frame.points for frame in statistics) / points.sum()
    numbers = [
        ("frames", f"{len(names):,}"),
        ("points of a source cloud, in all", f"{points.sum():,}"),
        ("points a frame, median", f"{np.median(points):,.0f}"),
        ("mean motion", f"{mean:.3f} m"),
        ("largest motion", f"{max(frame.longest for frame in statistics):.2f} m"),
    ]
    ranges = [(axis, f"{low[k]:.2f}", f"{high[k]:.2f}") for k, axis in enumerate(("x, left", "y, up", "z, forward"))]
    chosen = [names[k] for k in np.unique(np.linspace(0, len(names) - 1, PICTURES).round().astype(int))]
    sections = [
        section(
            "The set",
            tiles(numbers),
            table(ranges, ["axis", "least (m)", "greatest (m)"]),
            note(
                "Frames as they are stored, in the frame x left, y up, z forward; the reader of a data set leaves "
                "out more, such as KITTI's ground and points beyond 35 m."
            ),
        ),
        section(
            "Points",
            charts(
                _sizes(points),
                _shares(DEPTHS, depths, "depth of the source points (m)", BLUE),
                _shares(MOTIONS, motions, "length of the flow (m)", GREEN),
            ),
        ),
        section("Frames", *(picture(_draw(frames, out, name), f"frame {name}") for name in chosen)),
    ]
    return page(f"Data set: {frames.folder}", f"prepared in {out / frames.folder}", sections)


def _read(frames: RawFrames, out: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Both clouds (n, 3) in the project's frame, m."""
    pc1, pc2 = read_pair(out / frames.folder / name)
    return pc1 * frames.signs, pc2 * frames.signs


def _draw(frames: RawFrames, out: Path, name: str) -> bytes:
    pc1, pc2 = _read(frames, out, name)
    flow = pc2 - pc1
    return draw_flow(View(name, pc1, flow, pc2, truth=flow), f"{name}: {len(pc1):,} points", DOTS)


def _sizes(points: np.ndarray) -> Any:
    def draw(axes: Axes) -> None:
        axes.hist(points, bins=min(40, max(5, len(points) // 4)), color=ORANGE)
        axes.set(title="points a frame", ylabel="frames")
        axes.tick_params(axis="x", labelrotation=30)

    return draw


def _shares(edges: list[float], counts: np.ndarray, title: str, colour: str) -> Any:
    def draw(axes: Axes) -> None:
        bars(axes, edges, (100 * counts / counts.sum()).tolist(), colour)
        axes.set(title=title, ylabel="points (%)")

    return draw
