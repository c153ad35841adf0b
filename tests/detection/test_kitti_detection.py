"""The KITTI average precision equals the official development kit's, and small cases computed by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from lib.errors import InputError
from lib.metrics.kitti_detection import CLASSES, LEVELS, METRICS, Objects, average_precision, kitti_curves
from lib.metrics.kitti_detection import kitti_average_precision as all_values

SETS = ("real_noisy", "real_perfect", "synthetic", "edge_lt", "edge_le")


def parse(lines: list[str], scored: bool) -> Objects:
    """One frame from the lines of a KITTI text file."""
    rows = [line.split() for line in lines]
    numbers = np.array([row[1:] for row in rows], np.float64).reshape(len(rows), 15 if scored else 14)
    kinds = np.array([row[0] for row in rows], dtype=str)
    fields = [numbers[:, 0], numbers[:, 1], numbers[:, 2], numbers[:, 3:7], numbers[:, 7:10], numbers[:, 10:13]]
    return Objects(kinds, *fields, numbers[:, 13], numbers[:, 14] if scored else None)


def read_frames(path: Path, frames: list[str], scored: bool) -> list[Objects]:
    """The frames of one golden text file, each line led by its frame."""
    lines = {frame: [] for frame in frames}
    for line in path.read_text().splitlines():
        frame, rest = line.split(" ", 1)
        lines[frame].append(rest)
    return [parse(lines[frame], scored) for frame in frames]


@pytest.fixture(scope="module")
def golden(shared):
    """Set name -> its labels and detections."""
    folder = shared / "golden/kitti_ap"

    def load(name: str) -> tuple[list[Objects], list[Objects]]:
        if name.startswith("real"):
            files = sorted((shared / "data/KITTI_object").rglob("label_2/*.txt"))
            frames = [file.stem for file in files]
            assert len(frames) == 22
            labels = [parse(file.read_text().splitlines(), False) for file in files]
            return labels, read_frames(folder / f"{name}_detections.txt", frames, True)
        stem = name.split("_")[0]
        frames = [f"{k:06d}" for k in range(300 if stem == "synthetic" else 60)]
        return (
            read_frames(folder / f"{stem}_labels.txt", frames, False),
            read_frames(folder / f"{stem}_detections.txt", frames, True),
        )

    return load


@pytest.mark.parametrize("name", SETS)
def test_equals_the_development_kit(shared, golden, name):
    curves = kitti_curves(*golden(name), height_at_limit_counts=name == "edge_lt")
    folder = shared / "golden/kitti_ap"
    expected = json.loads((folder / "expected.json").read_text())[name]
    with np.load(folder / f"{name}_curves.npz", allow_pickle=False) as file:
        kit = dict(file)
    compared = 0
    for (metric, class_name, level), curve in curves.items():
        place = (METRICS.index(metric), CLASSES.index(class_name), list(LEVELS).index(level))
        if class_name not in expected[metric]:  # the kit leaves out a class that is never detected
            assert not curve.precision.any()
            continue
        assert curve.count == kit["n_gt"][place[1:]]
        known = ~np.isnan(kit["threshold"][place])
        np.testing.assert_array_equal(curve.threshold, kit["threshold"][place][known])
        for field in ("tp", "fp", "fn"):
            np.testing.assert_array_equal(getattr(curve, field), kit[field][place][known], field)
        row = {"bbox": 0, "bev": 2, "3d": 3}[metric]  # of kit["curve"]: bbox, aos, bev, 3d
        np.testing.assert_array_equal(curve.precision, kit["curve"][row][place[1:]])
        np.testing.assert_allclose(curve.orientation, kit["curve"][1][place[1:]], atol=1e-12) if row == 0 else None
        compared += 1
    assert compared >= 18
    for points, key in ((40, "R40"), (11, "R11")):
        values = all_values(curves, points)
        for metric, classes in expected.items():
            for class_name in CLASSES if metric != "n_gt" else ():
                ours = [values[metric, class_name, level] for level in LEVELS]
                np.testing.assert_allclose(ours, classes.get(class_name, {key: [0] * 3})[key], rtol=0, atol=1e-9)


# Small cases, computed by hand.
BOX = (100.0, 100.0, 200.0, 150.0)  # px, 50 px high
AWAY = (500.0, 100.0, 600.0, 150.0)


def thing(kind="Car", score=None, box=BOX, x=0.0, truncated=0.0, occluded=0, alpha=0.0, size=(1.5, 1.6, 4.0)) -> tuple:
    """One label, or one detection where a score is given."""
    return kind, truncated, occluded, alpha, box, size, (x, 1.6, 20.0), 0.0, score


def frame(*things: tuple) -> Objects:
    """The labels or detections of one frame."""
    columns = list(zip(*things, strict=True)) if things else [()] * 9
    score = None if things and things[0][-1] is None else np.array(columns[-1], np.float64)
    return Objects(*(np.array(column) for column in columns[:-1]), score)


def values(labels, detections, metric="bbox", name="Car", level="moderate", **options) -> tuple[float, float]:
    """AP R40 and R11 in percent."""
    curve = kitti_curves(labels, detections, **options)["bbox" if metric == "aos" else metric, name, level]
    curve = curve.orientation if metric == "aos" else curve.precision
    return average_precision(curve, 40), average_precision(curve, 11)


def one(labels: list[tuple], detections: list[tuple], level="moderate", metric="bbox", name="Car", **options):
    """The curve of a single frame."""
    return kitti_curves([frame(*labels)], [frame(*detections)], **options)[metric, name, level]


def counts(curve) -> list[tuple[int, int, int]]:
    """(TP, FP, FN) at each threshold."""
    return list(zip(curve.tp.tolist(), curve.fp.tolist(), curve.fn.tolist(), strict=True))


@pytest.mark.parametrize("metric", ["bbox", "bev", "3d", "aos"])
@pytest.mark.parametrize(
    ("objects", "found", "r40", "r11"),
    [
        (1, 1, 0, 100 / 11),
        (10, 10, 22.5, 300 / 11),
        (40, 40, 97.5, 1000 / 11),
        (41, 41, 100, 100),
        (50, 50, 100, 100),
        (200, 200, 100, 100),
        (80, 40, 50, 600 / 11),
        (42, 21, 50, 600 / 11),
    ],
)
def test_one_object_a_frame(objects, found, r40, r11, metric):
    labels = [frame(thing())] * objects
    detections = [frame(thing(score=1 - 0.001 * k)) if k < found else frame() for k in range(objects)]
    assert values(labels, detections, metric) == pytest.approx((r40, r11), abs=1e-9)


def false_ones(base: list[float], wrong: list[float]) -> tuple[list[Objects], list[Objects]]:
    """Frames with one object found with the scores `base`, then frames with a false detection of scores `wrong`."""
    labels = [frame(thing())] * len(base) + [frame()] * len(wrong)
    return labels, [frame(thing(score=s)) for s in base + wrong]


def test_false_positives_above_below_and_between():
    fifty = [0.5 - 0.001 * k for k in range(50)]
    assert values(*false_ones(fifty, [0.9] * 50)) == pytest.approx((50, 50))
    assert values(*false_ones(fifty, [0.1] * 50)) == pytest.approx((100, 100))
    hundred = [1 - 0.001 * k for k in range(100)]
    assert values(*false_ones(hundred, [s - 0.0005 for s in hundred])) == pytest.approx((51.1005, 55.2295), abs=5e-5)
    middle = (hundred[49] + hundred[50]) / 2
    assert values(*false_ones(hundred, [middle] * 25)) == pytest.approx((90, 1000 / 11))


def test_dont_care_excuses_false_positives_in_the_image_only():
    region = thing("DontCare", box=(490, 90, 570, 160), size=(-1, -1, -1), x=-1000)  # 0.7 of AWAY's area is 70 px wide
    wrong = thing(score=0.9, box=AWAY, x=15)
    labels, detections = [frame(thing(), region)] * 50, [frame(thing(score=0.5), wrong)] * 50
    assert values(labels, detections)[0] == pytest.approx(50)  # exactly the limit 0.7 is not enough
    region = thing("DontCare", box=(490, 90, 571, 160), size=(-1, -1, -1), x=-1000)
    labels = [frame(region, thing(), region)] * 50
    assert [values(labels, detections, metric)[0] for metric in METRICS] == pytest.approx([100, 50, 50])


@pytest.mark.parametrize("metric", ["bev", "3d"])
def test_overlap_must_exceed_the_limit(metric):
    for shift, expected in ((0.70, 100), (0.71, 0)):  # IoU 0.7021, 0.6985
        assert values([frame(thing())] * 41, [frame(thing(score=0.5, x=shift))] * 41, metric)[0] == expected
    far = [frame(thing(score=0.5, x=1.2))] * 41  # IoU 0.538
    assert values([frame(thing())] * 41, far, metric)[0] == 0
    assert values([frame(thing())] * 41, far, metric, overlaps="loose")[0] == 100
    assert counts(one([thing("Cyclist")], [thing("Cyclist", 0.5, (100, 100, 200, 125.0))], name="Cyclist")) == []


def test_orientation_costs_its_similarity():
    for error, expected in ((0, 100), (np.pi / 2, 50), (np.pi, 0), (2 * np.pi, 100)):
        labels, detections = [frame(thing(alpha=0.3))] * 41, [frame(thing(score=0.5, alpha=0.3 + error))] * 41
        assert values(labels, detections, "aos")[0] == pytest.approx(expected, abs=1e-9)
        assert values(labels, detections)[0] == 100


@pytest.mark.parametrize(
    ("truncated", "occluded", "height", "valid"),
    [
        (0.15, 0, 50, (1, 1, 1)),
        (0.16, 0, 50, (0, 1, 1)),
        (0.3, 1, 50, (0, 1, 1)),
        (0.31, 0, 50, (0, 0, 1)),
        (0.5, 2, 50, (0, 0, 1)),
        (0.51, 0, 50, (0, 0, 0)),
        (0, 1, 50, (0, 1, 1)),
        (0, 3, 50, (0, 0, 0)),
        (0, 0, 40, (0, 1, 1)),
        (0, 0, 40.01, (1, 1, 1)),
        (0, 0, 25, (0, 0, 0)),
    ],
)
def test_limits_of_the_levels(truncated, occluded, height, valid):
    labels = [thing(truncated=truncated, occluded=occluded, box=(100, 100, 200, 100 + height))]
    found = [thing(score=0.5, box=(100, 100, 200, 100 + height))]
    for level, count in zip(LEVELS, valid, strict=True):
        curve = one(labels, found, level)
        assert curve.count == count
        assert counts(curve) == [(1, 0, 0)] * count  # too hard: neutral, so the detection is no FP either


def test_height_at_the_limit_counted_before_2020():
    label, found = [thing(box=(0, 0, 30, 25))], [thing(score=0.5, box=(0, 0, 30, 25))]
    assert one(label, found).count == 0
    assert counts(one(label, found, height_at_limit_counts=True)) == [(1, 0, 0)]


@pytest.mark.parametrize(
    ("other", "name", "fp"),
    [("Van", "Car", 0), ("Truck", "Car", 1), ("Person_sitting", "Pedestrian", 0), ("Cyclist", "Pedestrian", 1)],
)
def test_similar_classes_cost_nothing(other, name, fp):
    labels = [thing(name), thing(other, box=AWAY, x=10)]
    found = [thing(name, 0.5), thing(name, 0.9, AWAY, 10)]
    for metric in METRICS:
        assert counts(one(labels, found, metric=metric, name=name)) == [(1, fp, 0)]


def test_a_van_takes_a_detection_from_a_later_car():
    van_first, car_first = [thing("Van"), thing()], [thing(), thing("Van")]
    assert counts(one(van_first, [thing(score=0.5)])) == []
    assert counts(one(car_first, [thing(score=0.5)])) == [(1, 0, 0)]


def test_equal_scores_keep_the_order_of_the_file():
    label = [thing(box=(100, 100, 200, 130))]
    low, good = thing("Pedestrian", 0.5, (100, 100, 200, 124.9)), thing(score=0.5, box=(100, 100, 200, 130))
    assert counts(one(label, [low, good])) == []  # the low one is neutral, and is taken first
    assert counts(one(label, [good, low])) == [(1, 0, 0)]
    low_but_25 = thing("Pedestrian", 0.5, (100, 100, 200, 125.9))  # not neutral: skipped
    assert counts(one(label, [low_but_25, good])) == [(1, 0, 0)]


def test_second_matching_takes_the_largest_overlap():
    near = thing(score=0.9, box=(100, 100, 180, 150), alpha=np.pi)  # IoU 0.8
    exact = thing(score=0.2)
    below, neutral = thing(), thing("Pedestrian", 0.1, (100, 100, 200, 124))
    curve = kitti_curves(
        [frame(below), frame(below)], [frame(near, exact, neutral), frame(thing(score=0.2))], overlaps="strict"
    )["bbox", "Car", "moderate"]
    assert curve.threshold.tolist() == [0.9, 0.2]
    assert counts(curve) == [(1, 0, 1), (2, 1, 0)]
    assert curve.orientation[:2] == pytest.approx([2 / 3, 2 / 3])  # 0, then 2 / 3, made monotone
    assert curve.precision[:3].tolist() == [1, 2 / 3, 0]


def test_nothing_to_find_or_nothing_found():
    for labels, found, count in (([], [], 0), ([thing()], [], 1), ([], [thing(score=0.5)], 0)):
        curves = kitti_curves([frame(*labels)], [frame(*found)])
        assert curves["3d", "Car", "easy"].count == count
        assert set(all_values(curves).values()) == {0.0}


def test_map_is_the_mean_of_the_classes():
    found = [frame(thing(score=0.5))] * 41
    result = all_values(kitti_curves([frame(thing())] * 41, found))
    assert result["3d", "Car", "hard"] == 100
    assert result["3d", "mAP", "hard"] == pytest.approx(100 / 3)
    assert result["aos", "mAP", "easy"] == pytest.approx(100 / 3)


def changed(**fields) -> list[Objects]:
    return [frame(thing(score=0.5))._replace(**fields)]


GOOD = [frame(thing())]


@pytest.mark.parametrize(
    ("labels", "detections", "options", "words"),
    [
        (GOOD, [], {}, "same frames"),
        ([], [], {}, "same frames"),
        (GOOD, GOOD, {}, "needs a score"),
        (GOOD, changed(type=np.array(["car"])), {}, "unknown type 'car'"),
        (GOOD, changed(box=np.zeros(4)), {}, "box must have shape"),
        (GOOD, changed(alpha=np.zeros(2)), {}, "alpha must have shape"),
        (GOOD, changed(score=np.array([np.nan])), {}, "score has values that are not finite"),
        (GOOD, changed(location=np.full((1, 3), np.inf)), {}, "location has values that are not finite"),
        (GOOD, changed(box=np.array([[10.0, 0, 5, 5]])), {}, "left <= right"),
        (GOOD, changed(size=np.array([[1.0, -1, 1]])), {}, "must not be negative"),
        (GOOD, changed(rotation_y=np.array(["x"])), {}, "array of numbers"),
        (GOOD, changed(), {"overlaps": "weak"}, "overlaps must be one of"),
    ],
)
def test_mistakes_are_one_line(labels, detections, options, words):
    with pytest.raises(InputError, match=words) as error:
        kitti_curves(labels, detections, **options)
    assert "\n" not in str(error.value)


def test_average_precision_refuses_other_points_and_shapes():
    for curve, points in ((np.zeros(41), 12), (np.zeros(40), 40)):
        with pytest.raises(InputError, match="AP needs a curve"):
            average_precision(curve, points)
