"""The report page of a detector's evaluation: its curves, AP against distance, and the best and the worst frames."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lib.boxes import Detections
from lib.datasets.kitti_object import Frame
from lib.metrics.kitti_detection import CLASSES, LEVELS, SLOTS, Curve, average_precision, kitti_average_precision
from lib.show import orbit
from lib.show.charts import BLUE, GREEN, GREY, ORANGE, bars, charts
from lib.show.detection import view3d
from lib.show.detection.matching import Matches, join, match, precision, within
from lib.show.detection.picture import draw_scene
from lib.show.detection.scene import THRESHOLD, Scene, colour_of, scene_of
from lib.show.page import folded, note, origin, page, picture, section, table, tiles

SHOWN = 3  # frames at either end
VIEW_POINTS = 8192  # dots in each of their views
DOTS = 80  # an inch of their pictures
DISTANCES = [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, math.inf]  # m
NAMES = {"bbox": "2-D box", "bev": "bird's-eye view", "3d": "3-D box", "aos": "orientation (AOS)"}

Curves = Mapping[tuple[str, str, str], Curve]  # what kitti_curves gives: by metric, class, level


class Observations:
    """What a report needs of an evaluation besides its score: matches, records, and a few scenes whole.

    ``observe`` is handed to ``evaluate``. Of all but the few scenes, memory holds boxes and records only.
    """

    def __init__(self):
        self.records: list[dict[str, Any]] = []  # as they come; the task makes its curves of them
        self.matches: dict[str, Matches] = {}  # frame -> its matches
        self.best: list[tuple[float, int, Scene]] = []  # precision, objects, scene; the highest first
        self.worst: list[tuple[float, int, Scene]] = []  # the lowest first

    def observe(self, batch: Any, detections: Detections, record: dict[str, Any]) -> None:
        """Takes in one frame. batch: of one frame, which stands in its field ``frames``."""
        frame: Frame = batch.frames[0]
        scene = scene_of(frame, detections)
        self.records.append(record)
        self.matches[frame.name] = match(detections, scene.truth)
        self._keep(scene)

    def _keep(self, scene: Scene) -> None:
        """Frames without an object have no precision, and are neither good nor bad."""
        value, count = precision(self.matches[scene.name]), len(scene.truth.scores)
        if count:
            bisect.insort(self.best, (value, count, scene), key=lambda entry: (-entry[0], -entry[1]))
            bisect.insort(self.worst, (value, count, scene), key=lambda entry: (entry[0], -entry[1]))
            del self.best[SHOWN:], self.worst[SHOWN:]


def merged(parts: Sequence[Observations]) -> Observations:
    """What all processes have seen together; the records in the order of the frames' names."""
    whole = Observations()
    whole.records = sorted((record for part in parts for record in part.records), key=lambda record: record["name"])
    for part in parts:
        whole.matches.update(part.matches)
    for part in parts:
        for scene in {scene.name: scene for _, _, scene in (*part.best, *part.worst)}.values():
            whole._keep(scene)
    return whole


def evaluation_report(result: Mapping[str, Any], seen: Observations, curves: Curves) -> bytes:
    """The page.

    result: what evaluate.py --json writes. seen: of the same evaluation. curves: of the same frames (kitti_curves with
    the strict overlaps).
    """
    protocol = result["protocol"]
    if "baseline" in result:
        model = f"baseline {result['baseline']}"
    else:
        model = f"{result['network']} ({result['checkpoint']})"
    values = kitti_average_precision(curves)
    numbers = [(f"{name}, 3-D, moderate", f"{values['3d', name, 'moderate']:.2f} %") for name in (*CLASSES, "mAP")]
    numbers += [("mAP, bird's-eye view, moderate", f"{values['bev', 'mAP', 'moderate']:.2f} %")]
    numbers += [("seconds a frame, network alone", f"{result['seconds_per_sample']:.3f}")]
    if "parameters" in result:
        numbers += [("parameters", f"{result['parameters'] / 1e6:.2f} M")]
    together = join(list(seen.matches.values()))
    known = sum(len(matches.object_kind) > 0 for matches in seen.matches.values())
    ends = max(1, min(SHOWN, known // 2))  # so that few frames are not shown twice
    sections = [
        section("Average precision (R40)", tiles(numbers), _table(values), note(_protocol(protocol))),
        section(
            "Precision and recall",
            charts(*(_curve(curves, metric, name) for metric in ("3d", "bev") for name in CLASSES)),
            note(
                "By KITTI's rules: a detection is right when its overlap with an object exceeds 0.7 (Car) or 0.5. At "
                "each recall stands the highest precision there or at a higher recall. A curve ends at the highest "
                "recall that was reached."
            ),
        ),
        section(
            "Against distance",
            charts(*(_distance(together, name) for name in CLASSES)),
            note(
                "Bars: average precision of the objects at that distance from the sensor. Grey line: the share of "
                "them that are found at any score. Every labelled object counts here, however hard it is to see, so "
                "these values may be lower than KITTI's."
            ),
        ),
        section("Best frames", *_frames(seen.best[:ends])),
        section("Worst frames", *_frames(seen.worst[:ends])),
        section("Every frame", folded(f"{len(seen.matches)} frames", _every_frame(seen.matches))),
        section("How this was made", origin(result["provenance"])),
    ]
    title = f"Evaluation: {protocol['dataset']}, {protocol['split']}"
    return page(title, model, sections, orbit.STYLE, view3d.scripts())


def _table(values: Mapping[tuple[str, str, str], float]) -> str:
    """AP by metric and class, a column a level."""
    rows = [
        (NAMES[metric], name, *(f"{values[metric, name, level]:.2f}" for level in LEVELS))
        for metric in ("3d", "bev", "bbox", "aos")
        for name in (*CLASSES, "mAP")
    ]
    return table(rows, ["", "", *(f"{level} (%)" for level in LEVELS)])


def _protocol(protocol: Mapping[str, Any]) -> str:
    return (
        f"{protocol['dataset']} {protocol['split']}, {protocol['scenes']} frames; device {protocol['device']}, "
        f"autocast {protocol['amp']}."
    )


def _curve(curves: Curves, metric: str, name: str) -> Any:
    """Precision against recall, a line a level."""

    def chart(axes: Axes) -> None:
        for level, colour in zip(LEVELS, (GREEN, BLUE, ORANGE), strict=True):
            curve = curves[metric, name, level]
            reached = np.flatnonzero(curve.precision > 0)
            last = reached[-1] + 1 if len(reached) else 0
            recall = 100 * np.arange(SLOTS)[:last] / (SLOTS - 1)
            label = f"{level} {average_precision(curve.precision):.1f} ({curve.count})"
            axes.plot(recall, 100 * curve.precision[:last], color=colour, label=label)
        axes.set(title=f"{name}, {NAMES[metric]}", xlabel="recall (%)", ylabel="precision (%)")
        axes.set(xlim=(0, 100), ylim=(0, 102))
        axes.legend(title="AP (objects)", fontsize=7, title_fontsize=7)

    return chart


def by_distance(matches: Matches, name: str) -> tuple[list[float], list[float], list[int]]:
    """Of one class in each bin of DISTANCES: average precision in percent, objects found in percent, objects."""
    bins = [within(matches, name, low, high) for low, high in zip(DISTANCES[:-1], DISTANCES[1:], strict=True)]
    counts = [len(part.object_kind) for part in bins]
    shares = [
        100 * float(part.found.sum()) / count if count else math.nan for part, count in zip(bins, counts, strict=True)
    ]
    return [100 * precision(part) for part in bins], shares, counts


def _distance(matches: Matches, name: str) -> Any:
    def chart(axes: Axes) -> None:
        values, shares, counts = by_distance(matches, name)
        bars(axes, DISTANCES, values, colour_of(name))
        axes.plot(range(len(shares)), shares, color=GREY, marker="o", markersize=3)
        for k, count in enumerate(counts):
            axes.text(k, 101, f"{count}", fontsize=7, color=GREY, ha="center", va="bottom")
        axes.set(title=f"{name} (number of objects above)", xlabel="distance (m)", ylabel="%", ylim=(0, 112))
        axes.set_xlim(-0.6, len(counts) - 0.4)  # bins without an object keep their place

    return chart


def _frames(entries: list[tuple[float, int, Scene]]) -> list[str]:
    shown = []
    for value, count, scene in entries:
        title = f"{scene.name}: AP {100 * value:.0f} % over {count} object{'s' * (count != 1)}"
        png = draw_scene(scene, title, THRESHOLD, DOTS)
        shown += [view3d.view3d(scene, title, limit=VIEW_POINTS), folded("picture", picture(png, title))]
    return shown or [note("No frame has an object.")]


def _every_frame(matches: Mapping[str, Matches]) -> str:
    rows = [
        (name, len(frame.object_kind), int(frame.found.sum()), int((~frame.found).sum()), _percent(precision(frame)))
        for name, frame in sorted(matches.items())
    ]
    return table(rows, ["frame", "objects", "found", "false detections", "AP (%)"])


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f}"
