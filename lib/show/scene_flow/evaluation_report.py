"""The report page of an evaluation: metrics, where the error is, and the best and the worst scenes to look at."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from lib.datasets.scene_flow.pairs import FlowBatch
from lib.show import orbit
from lib.show.charts import BLUE, GREY, ORANGE, bars, charts
from lib.show.page import folded, note, origin, page, section, table, tiles
from lib.show.scene_flow import view3d
from lib.show.scene_flow.view import View

SHOWN = 3  # scenes at either end
VIEW_POINTS = 4096  # dots a cloud in each of their views
DISTANCES = [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, math.inf]  # m from the sensor
MOTIONS = [0.0, 0.1, 0.25, 0.5, 1.0, 2.0, math.inf]  # m


class Observations:
    """What the report needs besides the score: sums over points, and the best and the worst scenes.

    ``evaluate`` calls ``observe`` for every scene. The memory does not grow with the number of scenes.
    """

    def __init__(self):
        self.points = {"distance": np.zeros(len(DISTANCES) - 1), "motion": np.zeros(len(MOTIONS) - 1)}
        self.errors = {name: np.zeros_like(counts) for name, counts in self.points.items()}
        self.best: list[tuple[float, View]] = []  # EPE3D, scene; the lowest first
        self.worst: list[tuple[float, View]] = []  # the highest first

    def observe(self, batch: FlowBatch, flow: Tensor, metrics: dict[str, float]) -> None:
        """Takes in one scene. batch: of one scene; flow (1, N, 3): predicted, metres."""
        source, truth, target = (cloud[0].numpy() for cloud in (batch.xyz1, batch.flow, batch.xyz2))  # (N, 3)
        view = View(batch.names[0], source, flow[0].float().numpy(), target, truth)
        groups = {"distance": (source, DISTANCES), "motion": (truth, MOTIONS)}
        for name, (vectors, edges) in groups.items():
            index = np.searchsorted(edges, np.linalg.norm(vectors, axis=1), side="right") - 1  # (N,)
            self.points[name] += np.bincount(index, minlength=len(edges) - 1)
            self.errors[name] += np.bincount(index, weights=view.error, minlength=len(edges) - 1)
        self._keep(metrics["EPE3D"], view)

    def _keep(self, epe: float, view: View) -> None:
        bisect.insort(self.best, (epe, view), key=lambda entry: entry[0])
        bisect.insort(self.worst, (epe, view), key=lambda entry: -entry[0])
        del self.best[SHOWN:], self.worst[SHOWN:]

    def mean_error(self, name: str) -> list[float]:
        """Mean end-point error (m) of the points in each bin of "distance" or "motion"; NaN for a bin without any."""
        counts = self.points[name]
        return np.divide(self.errors[name], counts, out=np.full_like(counts, math.nan), where=counts > 0).tolist()

    def share(self, name: str) -> list[float]:
        """Per cent of all points in each bin."""
        return (100 * self.points[name] / self.points[name].sum()).tolist()


def merged(parts: Sequence[Observations]) -> Observations:
    """The observations of all processes as one."""
    whole = Observations()
    for part in parts:
        for name in whole.points:
            whole.points[name] += part.points[name]
            whole.errors[name] += part.errors[name]
        for epe, view in {view.name: (epe, view) for epe, view in [*part.best, *part.worst]}.values():
            whole._keep(epe, view)
    return whole


def evaluation_report(result: dict[str, Any], seen: Observations) -> bytes:
    """The page. result: what evaluate.py --json writes; seen: of the same evaluation."""
    protocol, units = result["protocol"], result["units"]
    if "baseline" in result:
        model = f"baseline {result['baseline']}"
    else:
        model = f"{result['network']} ({result['checkpoint']})"
    numbers = [(name, f"{value:.4f} {units[name]}".rstrip()) for name, value in result["metrics"].items()]
    numbers += [("seconds a scene, network alone", f"{result['seconds_per_sample']:.3f}")]
    if "parameters" in result:
        numbers += [("parameters", f"{result['parameters'] / 1e6:.2f} M")]
    scenes = sorted(result["scenes"], key=lambda scene: scene["EPE3D"])
    names = [name for name in scenes[0] if name != "name"]
    ends = max(1, min(SHOWN, len(scenes) // 2))  # so that few scenes are not shown twice
    rows = [(scene["name"], *(f"{scene[name]:.4f}" for name in names)) for scene in scenes]
    sections = [
        section("Metrics", tiles(numbers), note(_protocol(protocol))),
        section(
            "Where the error is",
            charts(*_error_charts(seen), columns=2),
            note(
                "Mean end-point error over all points of a bin; the grey bars are the share of the points in it. "
                "Distance: from the sensor to the source point. Motion: the length of its true flow."
            ),
        ),
        section("Over the scenes", charts(*_scene_charts([scene["EPE3D"] for scene in scenes]), columns=2)),
        section("Best scenes", *_views(seen.best[:ends])),
        section("Worst scenes", *_views(seen.worst[:ends])),
        section("Every scene", folded(f"{len(rows)} scenes, the best first", table(rows, ["scene", *names]))),
        section("How this was made", origin(result["provenance"])),
    ]
    title = f"Evaluation: {protocol['dataset']}, {protocol['split']}"
    return page(title, model, sections, orbit.STYLE, view3d.scripts())


def _protocol(protocol: dict[str, Any]) -> str:
    return (
        f"{protocol['dataset']} {protocol['split']} (subset {protocol['subset']}), {protocol['scenes']} scenes, "
        f"{protocol['num_points']} points drawn of each cloud; each scene is scored alone and the metrics are "
        f"averaged over scenes; device {protocol['device']}, autocast {protocol['amp']}."
    )


def _error_charts(seen: Observations) -> list[Any]:
    def draw(name: str, edges: list[float], label: str) -> Any:
        def chart(axes: Axes) -> None:
            bars(axes, edges, seen.mean_error(name))
            axes.set(title=f"error against {name}", xlabel=label, ylabel="EPE3D (m)")
            share = axes.twinx()
            share.bar(range(len(edges) - 1), seen.share(name), width=0.18, color=GREY, alpha=0.75)
            share.set(ylabel="points (%)", ylim=(0, 100))
            share.grid(visible=False)

        return chart

    return [
        draw("distance", DISTANCES, "distance from the sensor (m)"),
        draw("motion", MOTIONS, "length of the true flow (m)"),
    ]


def _scene_charts(epe: list[float]) -> list[Any]:
    """epe: EPE3D (m) of each scene, sorted."""
    mean, median = float(np.mean(epe)), float(np.median(epe))

    def histogram(axes: Axes) -> None:
        axes.hist(epe, bins=min(40, max(8, len(epe) // 4)), color=BLUE)
        axes.axvline(mean, color=ORANGE, label=f"mean {mean:.3f} m")
        axes.axvline(median, color=GREY, linestyle="--", label=f"median {median:.3f} m")
        axes.set(title="scenes by their error", xlabel="EPE3D of the scene (m)", ylabel="scenes")
        axes.legend()

    def cumulative(axes: Axes) -> None:
        axes.step(epe, 100 * np.arange(1, len(epe) + 1) / len(epe), where="post", color=BLUE)
        axes.set(
            title="share of scenes up to an error", xlabel="EPE3D of the scene (m)", ylabel="scenes (%)", ylim=(0, 102)
        )

    return [histogram, cumulative]


def _views(entries: list[tuple[float, View]]) -> list[str]:
    return [view3d.view3d(view, f"{view.name}: EPE3D {epe:.3f} m", VIEW_POINTS) for epe, view in entries]
