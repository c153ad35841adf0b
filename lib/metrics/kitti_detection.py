"""Average precision of the KITTI object benchmark: 2-D boxes, bird's-eye view (BEV), 3-D boxes, orientation (AOS).

The rules are those of the official development kit (Geiger et al., CVPR 2012; 40 recall points: Simonelli et al.,
ICCV 2019). For one class, one level of difficulty and one metric:

1. Labels of the class are valid, or neutral where they are harder than the level. Labels of a similar class (Van for
   Car, Person_sitting for Pedestrian) are neutral. Detections of the class are valid; detections of any class that are
   too low in the image are neutral. Neutral objects are matched, but neither count nor cost anything.
2. First matching: each label takes the free detection with the highest score among those that overlap it enough.
   The scores of the valid pairs give at most 41 score thresholds, spread evenly over the recall.
3. Second matching, for each threshold: each label takes the valid detection with the largest overlap, else a neutral
   one. This gives the counts of true positives (TP), false positives (FP) and false negatives (FN).
4. The average precision is the mean of the precision, made monotone, over 40 (R40) or 11 (R11) recall points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lib.errors import InputError
from lib.kitti import LEVELS, TYPES, Level
from lib.metrics import kitti_overlap

CLASSES = ("Car", "Pedestrian", "Cyclist")
SIMILAR = {"Car": "Van", "Pedestrian": "Person_sitting", "Cyclist": None}
METRICS = ("bbox", "bev", "3d")
# An overlap must be larger than these to be a match.
STRICT = {metric: {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5} for metric in METRICS}
LOOSE = {"Car": 0.5, "Pedestrian": 0.25, "Cyclist": 0.25}
OVERLAPS = {"strict": STRICT, "loose": STRICT | {"bev": LOOSE, "3d": LOOSE}}
SLOTS = 41  # recall 0, 1/40, .., 1


class Objects(NamedTuple):
    """The N labels or the N detections of one frame, in the order of the file, as the fields of KITTI's text files.

    Detections have a score each; their `truncated` and `occluded` are not used. N may be 0.
    """

    type: np.ndarray  # (N,) str, of TYPES
    truncated: np.ndarray  # (N,) 0 .. 1
    occluded: np.ndarray  # (N,) 0, 1, 2, or 3: unknown
    alpha: np.ndarray  # (N,) rad, the heading as the camera sees it
    box: np.ndarray  # (N, 4) px: left, top, right, bottom
    size: np.ndarray  # (N, 3) m: height, width, length
    location: np.ndarray  # (N, 3) m: bottom centre x, y, z in the rectified camera frame
    rotation_y: np.ndarray  # (N,) rad, heading (cos, 0, -sin)
    score: np.ndarray | None = None  # (N,)


class Curve(NamedTuple):
    """What one class, level and metric gives. T <= 41 is the number of score thresholds."""

    count: int  # valid labels
    threshold: np.ndarray  # (T,) scores, falling
    tp: np.ndarray  # (T,)
    fp: np.ndarray  # (T,)
    fn: np.ndarray  # (T,)
    precision: np.ndarray  # (41,) 0 .. 1, made monotone
    orientation: np.ndarray  # (41,) the same with each TP weighted by (1 + cos(error of alpha)) / 2


class _Pairs(NamedTuple):
    """Label and detection of the same frame, P pairs, sorted by label, then detection (places in the whole set)."""

    label: np.ndarray  # (P,)
    detection: np.ndarray  # (P,)
    iou: dict[str, np.ndarray]  # metric: (P,)


def kitti_curves(
    labels: Sequence[Objects],
    detections: Sequence[Objects],
    overlaps: str = "strict",
    height_at_limit_counts: bool = False,
) -> dict[tuple[str, str, str], Curve]:
    """The precision curves of a set of frames, by (metric, class, level).

    labels, detections: one Objects a frame, the same frames in the same order; a frame without detections has an empty
    one. overlaps: "strict" (Car 0.7, Pedestrian and Cyclist 0.5) or "loose" (0.5 and 0.25 in BEV and 3-D).
    height_at_limit_counts: a label exactly as high as the limit is valid, as in the kit before 2020.

    Raises InputError for a different number of frames, unknown types or overlaps, and arrays of wrong shape or values.
    """
    if overlaps not in OVERLAPS:
        raise InputError(f"overlaps must be one of {', '.join(OVERLAPS)}; got {overlaps!r}")
    if len(labels) != len(detections) or len(labels) == 0:
        raise InputError(
            f"labels and detections need the same frames, at least one; got {len(labels)} and {len(detections)} "
            f"(a frame without detections has empty arrays)"
        )
    labels = [_checked(frame, f"labels of frame {k}", False) for k, frame in enumerate(labels)]
    detections = [_checked(frame, f"detections of frame {k}", True) for k, frame in enumerate(detections)]
    truth, found, pairs = _join(labels), _join(detections), _pairs(labels, detections)

    curves = {}
    for name in CLASSES:
        for level_name, level in LEVELS.items():
            label_state = _label_state(truth, name, level, height_at_limit_counts)
            detection_state = _detection_state(found, name, level)
            for metric in METRICS:
                limit = OVERLAPS[overlaps][metric][name]
                excused = np.zeros(len(found.type), bool)  # (D,) detections that are never an FP
                if metric == "bbox":
                    excused = _in_dont_care(truth, found, pairs, limit)
                curves[metric, name, level_name] = _curve(
                    truth, found, pairs, pairs.iou[metric], limit, label_state, detection_state, excused
                )
    return curves


def average_precision(curve: np.ndarray, points: int = 40) -> float:
    """Average precision in percent of a monotone curve (41,): recall 1/40 .. 1 (40 points), or 0, 0.1 .. 1 (11).

    Raises InputError for another number of points or another shape.
    """
    curve = np.asarray(curve, np.float64)
    if points not in (40, 11) or curve.shape != (SLOTS,):
        raise InputError(f"AP needs a curve ({SLOTS},) and 40 or 11 points; got {curve.shape} and {points}")
    return float(100 * (curve[1:] if points == 40 else curve[::4]).mean())


def kitti_average_precision(
    curves: dict[tuple[str, str, str], Curve], points: int = 40
) -> dict[tuple[str, str, str], float]:
    """AP in percent by (metric, class, level), from what kitti_curves gives.

    The metrics are bbox, bev, 3d and aos. The class "mAP" stands for the mean over the three classes.
    """
    values = {}
    for (metric, name, level), curve in curves.items():
        values[metric, name, level] = average_precision(curve.precision, points)
        if metric == "bbox":
            values["aos", name, level] = average_precision(curve.orientation, points)
    for metric in (*METRICS, "aos"):
        for level in LEVELS:
            values[metric, "mAP", level] = float(np.mean([values[metric, name, level] for name in CLASSES]))
    return values


# State of an object for one class and level.
SKIPPED, VALID, NEUTRAL = 0, 1, 2


def _label_state(truth: Objects, name: str, level: Level, height_at_limit_counts: bool) -> np.ndarray:
    """State (L,) of each label."""
    height = truth.box[:, 3] - truth.box[:, 1]
    hard = level.excludes(height, truth.occluded, truth.truncated, height_at_limit_counts)
    state = np.where(truth.type == name, np.where(hard, NEUTRAL, VALID), SKIPPED)
    state[truth.type == SIMILAR[name]] = NEUTRAL
    return state


def _detection_state(found: Objects, name: str, level: Level) -> np.ndarray:
    """State (D,) of each detection."""
    height = found.box[:, 3] - found.box[:, 1]
    return np.where(height < level.height, NEUTRAL, np.where(found.type == name, VALID, SKIPPED))


def _in_dont_care(truth: Objects, found: Objects, pairs: _Pairs, limit: float) -> np.ndarray:
    """Whether more than `limit` of each detection's 2-D box lies in one DontCare region: (D,)."""
    here = truth.type[pairs.label] == "DontCare"
    detection = pairs.detection[here]
    box = found.box[detection]
    share = kitti_overlap.ratio(
        kitti_overlap.image_intersection(truth.box[pairs.label[here]], box), kitti_overlap.image_area(box)
    )
    inside = np.zeros(len(found.type), bool)
    inside[detection[share > limit]] = True
    return inside


def _curve(
    truth: Objects,
    found: Objects,
    pairs: _Pairs,
    iou: np.ndarray,
    limit: float,
    label_state: np.ndarray,
    detection_state: np.ndarray,
    excused: np.ndarray,
) -> Curve:
    """The curve of one class, level and metric. iou: (P,) of the pairs; a match needs more than `limit`."""
    count = int((label_state == VALID).sum())
    kept = (iou > limit) & (label_state[pairs.label] != SKIPPED) & (detection_state[pairs.detection] != SKIPPED)
    label, detection, iou = pairs.label[kept], pairs.detection[kept], iou[kept]

    # First matching. lexsort sorts by its last key first; equal scores stay in the order of the file.
    order = np.lexsort((detection, -found.score[detection], label))
    taken = _match(label[order], detection[order], np.ones((len(found.type), 1), bool))[:, 0]
    first = order[taken]
    first = first[(label_state[label[first]] == VALID) & (detection_state[detection[first]] == VALID)]
    threshold = _thresholds(found.score[detection[first]], count)

    # Second matching, at all thresholds at once: valid detections by falling overlap, then neutral ones in file order.
    worth = np.where(detection_state[detection] == VALID, iou, 0)
    order = np.lexsort((detection, -worth, label))
    label, detection = label[order], detection[order]
    free = found.score[:, None] >= threshold  # (D, T), no longer free once taken
    taken = _match(label, detection, free)  # (P, T)

    of_valid = label_state[label] == VALID
    both = of_valid & (detection_state[detection] == VALID)
    tp = taken[both].sum(axis=0)
    fn = count - taken[of_valid].sum(axis=0)
    fp = free[(detection_state == VALID) & ~excused].sum(axis=0)
    similarity = (1 + np.cos(truth.alpha[label[both]] - found.alpha[detection[both]])) / 2
    weighted = similarity @ taken[both]
    return Curve(count, threshold, tp, fp, fn, _monotone(tp, tp + fp), _monotone(weighted, tp + fp))


def _match(label: np.ndarray, detection: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Which pairs (P,) are matched, at each of T thresholds: (P, T).

    The labels come in turn; each takes its first free detection. label, detection: the pairs (P,), those of a label
    side by side, the best first. free: (D, T), whether a detection can be taken; what is taken is set to False.
    """
    taken = np.zeros((len(label), free.shape[1]), bool)
    current = None
    for k, (i, j) in enumerate(zip(label.tolist(), detection.tolist(), strict=True)):
        if i != current:
            current, wants = i, np.ones(free.shape[1], bool)
        taken[k] = wants & free[j]
        wants &= ~taken[k]
        free[j] &= ~taken[k]
    return taken


def _thresholds(scores: np.ndarray, count: int) -> np.ndarray:
    """The scores (T,), falling, at which the recall comes nearest to 0, 1/40, .., 1. count: valid labels."""
    scores = np.sort(scores)[::-1]
    kept, recall = [], 0.0
    for i, score in enumerate(scores):
        here, after = (i + 1) / count, (i + 2) / count
        if i < len(scores) - 1 and after - recall < recall - here:
            continue  # the next score comes nearer to this recall
        kept.append(score)
        recall += 1 / (SLOTS - 1)
    return np.array(kept, np.float64)


def _monotone(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole (T,) in the first slots of 41, then at each slot the maximum of it and all later ones: (41,)."""
    curve = np.zeros(SLOTS)
    curve[: len(part)] = kitti_overlap.ratio(part, whole)
    return np.maximum.accumulate(curve[::-1])[::-1]


def _pairs(labels: list[Objects], detections: list[Objects]) -> _Pairs:
    """The pairs of a label and a detection of the same frame that overlap at all, in the image or on the ground."""
    parts = []
    label_start = detection_start = 0
    for truth, found in zip(labels, detections, strict=True):
        label, detection = np.indices((len(truth.type), len(found.type))).reshape(2, -1)  # (2, L, D) -> (2, L D)
        iou = _overlaps(truth, found, label, detection)  # (3, L D)
        kept = iou.any(axis=0)
        parts.append((label[kept] + label_start, detection[kept] + detection_start, iou[:, kept]))
        label_start, detection_start = label_start + len(truth.type), detection_start + len(found.type)
    label, detection, iou = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    return _Pairs(label, detection, dict(zip(METRICS, iou, strict=True)))


def _overlaps(truth: Objects, found: Objects, label: np.ndarray, detection: np.ndarray) -> np.ndarray:
    """Intersection over union (3, P) of pairs of one frame, by METRICS."""
    ground1, ground2 = _ground(truth)[label], _ground(found)[detection]
    heights1, heights2 = _heights(truth)[label], _heights(found)[detection]
    shared = kitti_overlap.ground_intersection(ground1, ground2)
    return np.stack(
        [
            kitti_overlap.image_iou(truth.box[label], found.box[detection]),
            kitti_overlap.ground_iou(ground1, ground2, shared),
            kitti_overlap.upright_iou(ground1, ground2, heights1, heights2, shared),
        ]
    )


def _ground(objects: Objects) -> np.ndarray:
    """Rectangles on the ground (N, 5): x, z, length, width, yaw. From x to z the heading turns by -rotation_y."""
    return np.column_stack([objects.location[:, [0, 2]], objects.size[:, [2, 1]], -objects.rotation_y])


def _heights(objects: Objects) -> np.ndarray:
    """Top and bottom (N, 2) of the boxes on the camera's y axis, which points down."""
    return np.column_stack([objects.location[:, 1] - objects.size[:, 0], objects.location[:, 1]])


def _join(frames: list[Objects]) -> Objects:
    """The objects of all frames in one."""
    scored = frames[0].score is not None
    fields = Objects._fields if scored else Objects._fields[:-1]
    return Objects(*(np.concatenate([getattr(frame, field) for frame in frames]) for field in fields))


def _checked(objects: Objects, where: str, scored: bool) -> Objects:
    """The same objects as float64 arrays; raises InputError where something is wrong with them."""
    kinds = np.asarray(objects.type, dtype=str).reshape(-1)  # an empty list is an array of float64
    n = len(kinds)
    unknown = sorted(set(kinds.tolist()) - set(TYPES))
    if unknown:
        raise InputError(f"{where}: unknown type {unknown[0]!r}; KITTI's types are {', '.join(TYPES)}")
    if scored and objects.score is None:
        raise InputError(f"{where}: every detection needs a score")
    arrays = {}
    for field in Objects._fields[1:] if scored else Objects._fields[1:-1]:
        columns = {"box": (4,), "size": (3,), "location": (3,)}.get(field, ())
        try:
            array = np.asarray(getattr(objects, field), dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError(f"{where}: {field} must be an array of numbers") from None
        if n == 0 and array.size == 0:
            array = array.reshape(0, *columns)
        if array.shape != (n, *columns):
            raise InputError(f"{where}: {field} must have shape {(n, *columns)} for {n} types; got {array.shape}")
        if not np.isfinite(array).all():
            raise InputError(f"{where}: {field} has values that are not finite; leave such objects out")
        arrays[field] = array
    if (arrays["box"][:, 2:] < arrays["box"][:, :2]).any():
        raise InputError(f"{where}: box must be left, top, right, bottom with left <= right and top <= bottom")
    if (arrays["size"][kinds != "DontCare"] < 0).any():
        raise InputError(f"{where}: size (height, width, length) must not be negative")
    return Objects(kinds, **arrays)
