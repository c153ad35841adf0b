"""Scores of detections by KITTI's rules: from label lines to average precisions. Both detection tasks use it.

A record of a frame is {"name": its six digits, "labels": rows, "detections": rows}; a row is a KITTI line as a list
(type, truncated, occluded, alpha, left, top, right, bottom, h, w, l, x, y, z, rotation_y, and the score behind them).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.datasets.kitti_object import Label, read_labels, read_split
from lib.errors import InputError
from lib.metrics.kitti_detection import (
    CLASSES,
    LEVELS,
    METRICS,
    OVERLAPS,
    Curve,
    Objects,
    kitti_average_precision,
    kitti_curves,
)
from lib.tasks.task import Metric, Record

POINTS = {"R40": 40, "R11": 11}  # recall points of an average precision


def metric_name(name: str, metric: str, level: str, points: str, overlaps: str = "strict") -> str:
    """ "Car/3d/moderate/R40"; with the loose overlaps "Car/3d-loose/moderate/R40"."""
    return f"{name}/{metric}{'' if overlaps == 'strict' else '-' + overlaps}/{level}/{points}"


def _names() -> list[str]:
    """All metrics. The loose overlaps differ from the strict ones in BEV and 3-D only."""
    return [
        metric_name(name, metric, level, points, overlaps)
        for points in POINTS
        for overlaps in OVERLAPS
        for metric in (*METRICS, "aos")
        if overlaps == "strict" or metric in ("bev", "3d")
        for name in (*CLASSES, "mAP")
        for level in LEVELS
    ]


AVERAGE_PRECISIONS = {name: Metric("%", lower_is_better=False) for name in _names()}
BEST = metric_name("mAP", "3d", "moderate", "R40")
HEADLINE = (
    *(metric_name(name, "3d", "moderate", "R40") for name in CLASSES),
    BEST,
    metric_name("mAP", "bev", "moderate", "R40"),
)


def frame_record(name: str, labels: Sequence[Label], detections: Sequence[Label]) -> Record:
    """The record of one frame."""
    return {
        "name": name,
        "labels": [_row(label) for label in labels],
        "detections": [_row(label) for label in detections],
    }


def average_precisions(records: Sequence[Record]) -> dict[str, float]:
    """Every metric of ``AVERAGE_PRECISIONS``, in percent, over the frames of ``records``."""
    values = {}
    for overlaps in OVERLAPS:
        curves = curves_of(records, overlaps)
        for points, count in POINTS.items():
            for (metric, name, level), value in kitti_average_precision(curves, count).items():
                values[metric_name(name, metric, level, points, overlaps)] = value
    return {name: values[name] for name in AVERAGE_PRECISIONS}


def curves_of(records: Sequence[Record], overlaps: str = "strict") -> dict[tuple[str, str, str], Curve]:
    """The precision curves over the frames of ``records``, by metric, class and level."""
    labels = [objects_of(record["labels"], scored=False) for record in records]
    detections = [objects_of(record["detections"], scored=True) for record in records]
    return kitti_curves(labels, detections, overlaps)


def counts_of(record: Record) -> Record:
    """A record without its rows: how many labelled objects and detections the frame has."""
    labelled = sum(row[0] != "DontCare" for row in record["labels"])
    return {"name": record["name"], "labels": labelled, "detections": len(record["detections"])}


def objects_of(rows: Sequence[Sequence[Any]], scored: bool) -> Objects:
    """The rows of a record as the evaluator takes them. scored: the rows end with a score."""
    kinds = np.array([row[0] for row in rows], dtype=str)
    numbers = np.array([row[1:] for row in rows], dtype=np.float64).reshape(len(rows), 14 + scored)  # a row an object
    return Objects(
        type=kinds,
        truncated=numbers[:, 0],
        occluded=numbers[:, 1].astype(np.int64),
        alpha=numbers[:, 2],
        box=numbers[:, 3:7],
        size=numbers[:, 7:10],
        location=numbers[:, 10:13],
        rotation_y=numbers[:, 13],
        score=numbers[:, 14] if scored else None,
    )


def read_results(results: Path, labels: Path, frames: Path | None = None) -> list[Record]:
    """The records of result files in KITTI's format, from any detector.

    results, labels: folders of <6 digits>.txt. frames: a list of frame numbers; None takes every frame of ``labels``.
    Raises InputError for a folder or list that is not there, a frame without a result or label file, a result for a
    frame that is not scored, and lines that are no results.
    """
    for folder, what in ((results, "results"), (labels, "labels")):
        if not folder.is_dir():
            raise InputError(f"--{what} {folder} is no folder: name the one that holds 000000.txt and so on")
    names = read_split(frames) if frames else _frames_in(labels)
    if not names:
        raise InputError(f"--labels {labels} holds no label file (000000.txt and so on)")
    _check_complete(labels, names, "label", "extract data_object_label_2.zip there, or give a list with --frames")
    _check_complete(results, names, "result", "write an empty file for a frame without detections")
    more = sorted(set(_frames_in(results)) - set(names))
    if more:
        raise InputError(
            f"{results / more[0]}.txt is a result for a frame that is not scored ({len(more)} such): give the frames "
            f"with --frames, or remove the file"
        )
    records = []
    for name in names:
        truth = read_labels(labels / f"{name}.txt")
        found = read_labels(results / f"{name}.txt", scores=True)
        records.append(frame_record(name, truth, found))
    return records


def _frames_in(folder: Path) -> list[str]:
    stems = (path.stem for path in folder.glob("*.txt"))
    return sorted(stem for stem in stems if len(stem) == 6 and stem.isascii() and stem.isdigit())


def _check_complete(folder: Path, names: Sequence[str], what: str, fix: str) -> None:
    present = set(_frames_in(folder))
    missing = [name for name in names if name not in present]
    if missing:
        raise InputError(
            f"{folder / missing[0]}.txt is missing: {len(missing)} of {len(names)} frames have no {what} file; {fix}"
        )


def _row(label: Label) -> list[Any]:
    x, y, z, height, width, length, rotation = label.box3d
    row = [label.type, label.truncated, label.occluded, label.alpha, *label.box2d]
    row += [height, width, length, x, y, z, rotation]
    return row if label.score is None else [*row, label.score]
