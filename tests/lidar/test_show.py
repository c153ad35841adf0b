"""Pictures, pages and reports of a detector's frames."""

import base64
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import image as images

from lib.boxes import Detections
from lib.camera import Calibration
from lib.datasets.kitti_object import Frame, Label, as_results
from lib.show.detection import evaluation_report as report
from lib.show.detection.matching import join, match, precision, within
from lib.show.detection.picture import draw_scene
from lib.show.detection.scene import COLOURS, Scene, image_lines, scene_of
from lib.show.detection.view3d import detection_page
from lib.tasks import kitti_scores

CLASSES = ("Pedestrian", "Cyclist", "Car")
# f 700 px, centre (600, 180); the camera stands where the LiDAR is.
CAMERA = Calibration(
    np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]]),
    np.eye(3),
    np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]),
)


def detections(*rows) -> Detections:
    """Of rows (x, y, yaw, score, class): boxes 4 x 2 x 2 m that stand on z = -1.7."""
    boxes = [[x, y, -0.7, 4.0, 2.0, 2.0, yaw] for x, y, yaw, _, _ in rows]
    labels = torch.tensor([CLASSES.index(name) for *_, name in rows], dtype=torch.int64)
    scores = torch.tensor([score for *_, score, _ in rows], dtype=torch.float32)
    return Detections(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 7), scores, labels, CLASSES)


FOUND = detections((12, 2, 0.1, 0.9, "Car"), (20, -4, 0, 0.5, "Car"), (15, -3, 0, 0.2, "Pedestrian"))
TRUTH = detections((12, 2, 0.1, 1, "Car"), (30, 0, 0, 1, "Cyclist"))


def scene(found=FOUND, truth=TRUTH, points=500, name="000007", **more) -> Scene:
    rng = np.random.default_rng(0)
    cloud = rng.uniform((2, -10, -1.7, 0), (40, 10, 1, 1), (points, 4)).astype(np.float32)
    return Scene(name, cloud, found, truth, **more)


# ---- geometry, by hand ----


def test_edges_in_the_image():
    """A box 4 x 2 x 2 m, 20 m ahead: its near face is 18 m away, its far face 22 m, from y 1 to -1 and z 1 to -1."""
    box = np.array([[20.0, 0, 0, 4, 2, 2, 0]])
    lines = image_lines(box, CAMERA)  # (1, 12, 2, 2)
    near, far = 700 / 18, 700 / 22
    corners = {(600 + i * d, 180 + j * d) for d in (near, far) for i in (-1, 1) for j in (-1, 1)}
    ends = {tuple(np.round(point, 6)) for point in lines.reshape(-1, 2)}  # (1, 12, 2, 2) -> (24, 2)
    assert lines.shape == (1, 12, 2, 2) and ends == {tuple(np.round(corner, 6)) for corner in corners}
    lengths = np.sort(np.linalg.norm(lines[0, :, 1] - lines[0, :, 0], axis=-1))
    assert np.allclose(lengths, np.sort([2 * near] * 4 + [2 * far] * 4 + [np.sqrt(2) * (near - far)] * 4))


def test_edges_behind_the_camera():
    """A box around the camera is cut just before it; one behind it has no image."""
    around, behind = image_lines(np.array([[0.0, 0, 0, 4, 2, 2, 0], [-20, 0, 0, 4, 2, 2, 0]]), CAMERA)
    shown = np.isfinite(around).all(axis=(1, 2))
    assert shown.sum() == 8, "the four edges of the rear face are gone"
    assert np.abs(around[shown]).max() == pytest.approx(700 / 0.01 + 600), "cut at 0.01 m"
    assert np.isnan(behind).all()


def test_real_boxes_lie_in_their_labels(shared):
    from lib.datasets.kitti_object import open_frames

    names = shared / "data/KITTI_object"
    frame = next(frame for frame in open_frames(names) if frame.name == "000008")
    drawn = scene_of(frame, Detections(torch.zeros(0, 7), torch.zeros(0), torch.zeros(0, dtype=torch.int64), CLASSES))
    cars = [label for label in frame.objects if label.type == "Car"]
    assert len(drawn.truth.scores) == len(cars) == 6 and drawn.truth.classes[drawn.truth.labels[0]] == "Car"
    for label, lines in zip(cars, image_lines(drawn.truth.boxes.numpy(), frame.calibration), strict=True):
        hull = np.concatenate([lines.reshape(-1, 2).min(axis=0), lines.reshape(-1, 2).max(axis=0)])
        width, height = frame.image_size
        hull = np.clip(hull, 0, [width - 1, height - 1] * 2)
        assert np.abs(hull - label.box2d).max() < 12  # px


# ---- pictures ----


def painted(png: bytes, colour: str) -> int:
    """Pixels of about a colour."""
    pixels = images.imread(io.BytesIO(png))[..., :3]
    wanted = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    return int((np.abs(pixels - wanted).max(axis=-1) < 0.1).sum())


def test_a_picture_shows_what_passes_the_threshold():
    orange, blue = COLOURS["Pedestrian"], COLOURS["Car"]
    low, high = (draw_scene(scene(), "title", threshold) for threshold in (0.1, 0.3))
    assert painted(low, blue) > 300 and painted(low, orange) > painted(high, orange) + 60
    images_alone = images.imread(io.BytesIO(high))
    assert images_alone.shape[1] == 1040


def test_a_picture_has_the_camera_image_above(tmp_path):
    images.imsave(tmp_path / "grey.png", np.full((36, 120, 3), 0.5))
    camera = Calibration(CAMERA.P2 * [[0.1], [0.1], [1]], CAMERA.R0_rect, CAMERA.Tr_velo_to_cam)
    plain = draw_scene(scene(), "title")
    both = draw_scene(scene(image=tmp_path / "grey.png", calibration=camera), "title")
    assert painted(both, "#808080") > 50_000 > painted(plain, "#808080")
    assert painted(both, COLOURS["Car"]) > painted(plain, COLOURS["Car"]) + 200


@pytest.mark.parametrize("drawn", [scene(detections(), None), scene(points=0), scene(detections(), detections(), 1)])
def test_odd_scenes_are_drawn_too(drawn):
    """Nothing found and nothing known; no point; one point."""
    assert draw_scene(drawn, "title").startswith(b"\x89PNG")
    assert b"</html>" in detection_page(drawn, "title")


# ---- pages ----


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.float32)


def test_the_page_holds_its_data_and_nothing_from_outside():
    page = detection_page(scene(name="<b>&</script>"), "<i>title").decode()
    assert "<i>title" not in page and "<b>&</script>" not in page
    assert not re.search(r'(src|href)="(?!data:)', page.split("<script>")[0]) and "default-src 'none'" in page
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page).group(1))
    assert data["classes"] == list(CLASSES) and data["found"]["scores"] == pytest.approx([0.9, 0.5, 0.2])
    assert np.allclose(unpacked(data["points"]).reshape(-1, 3), scene().points[:, :3])
    places = unpacked(data["found"]["places"]).reshape(3, 10, 3)
    assert np.allclose(places[1].max(axis=0), (22, -3, 0.3), atol=1e-5), "20 + 4 / 2, -4 + 2 / 2, -0.7 + 2 / 2"
    assert np.allclose(places[1, 8:], [(20, -4, 0.3), (22, -4, 0.3)], atol=1e-5), "the front lies ahead"
    assert "<b>Car</b> 0.90" in data["found"]["told"][0] and len(data["truth"]["scores"]) == 2
    assert all(0 <= corner < 8 for face in data["faces"] for corner in face) and len(data["faces"]) == 12
    without = detection_page(scene(truth=None, points=30_000), "t").decode()
    assert "data-truth" not in without.split("<script")[0] and "24,000 of 30,000 points drawn" in without


# ---- matches and the report ----


def test_matching_by_hand():
    """Shifts along the length of 4 m: 0.6 m is an overlap of 3.4 / 4.6 = 0.74, 0.8 m of 3.2 / 4.8 = 0.67."""
    truth = detections((10, 0, 0, 1, "Car"), (10, 5, 0, 1, "Car"), (20, 0, 0, 1, "Cyclist"))
    found = detections(
        (10.6, 0, 0, 0.9, "Car"),  # finds the first car
        (10, 0, 0, 0.8, "Car"),  # overlaps it more, but it is taken
        (10.8, 5, 0, 0.7, "Car"),  # too far
        (20.8, 0, 0, 0.6, "Cyclist"),  # near enough for a cyclist
        (20, 0, 0, 0.5, "Pedestrian"),  # another class
    )
    matches = match(found, truth)
    assert matches.found.tolist() == [True, False, False, True, False]
    assert matches.distance[0] == 10.0 and matches.distance[2] == pytest.approx(np.hypot(10.8, 5))
    assert precision(matches) == pytest.approx((1 / 1 + 2 / 4) / 3)
    cars = within(matches, "Car", 0, 11)
    assert len(cars.object_kind) == 1 and cars.found.tolist() == [True, False] and precision(cars) == 1.0
    assert precision(join([matches, matches])) == pytest.approx((1 / 1 + 2 / 2 + 3 / 7 + 4 / 8) / 6)
    assert np.isnan(precision(match(found, detections()))) and precision(match(detections(), truth)) == 0.0


def frame_of(name: str, truth: Detections) -> Frame:
    labels = [label._replace(score=None, occluded=0, truncated=0.0) for label in as_results(truth, CAMERA, (1200, 360))]
    assert all(isinstance(label, Label) for label in labels) and len(labels) == len(truth.scores)
    return Frame(name, scene().points, None, (1200, 360), CAMERA, labels)


def observed(found_by_name: dict[str, Detections]) -> report.Observations:
    seen = report.Observations()
    for name, found in found_by_name.items():
        frame = frame_of(name, TRUTH if name != "000000" else detections())
        record = kitti_scores.frame_record(name, frame.objects, as_results(found, CAMERA, frame.image_size))
        seen.observe(SimpleNamespace(frames=[frame]), found, record)
    return seen


FRAMES = {
    "000000": FOUND,  # no object: neither good nor bad
    "000001": TRUTH,
    "000002": detections(),
    "000003": FOUND,
    "000004": detections((12, 2, 0.1, 0.9, "Car"), (30, 0, 0, 0.95, "Car")),
}


def test_best_and_worst_frames_and_two_processes():
    seen = observed(FRAMES)
    assert [entry[2].name for entry in seen.best] == ["000001", "000003", "000004"]
    assert [entry[2].name for entry in seen.worst] == ["000002", "000004", "000003"]
    assert [entry[0] for entry in seen.best] == [1.0, 0.5, 0.25]
    halves = [
        observed({k: FRAMES[k] for k in names}) for names in (("000000", "000002", "000004"), ("000001", "000003"))
    ]
    whole = report.merged(halves)
    assert whole.records == seen.records and whole.matches.keys() == seen.matches.keys()
    for end in ("best", "worst"):
        assert [entry[2].name for entry in getattr(whole, end)] == [entry[2].name for entry in getattr(seen, end)]


def test_report_by_distance():
    values, shares, counts = report.by_distance(join(list(observed(FRAMES).matches.values())), "Car")
    assert counts == [0, 4, 0, 0, 0, 0] and shares[1] == 75.0 and np.isnan(values[0])
    # By score: right (000001), wrong (000000, which has no object), right, right; one of four objects is not found.
    assert values[1] == pytest.approx(100 * (1 / 1 + 2 / 3 + 3 / 4) / 4)


def test_the_report_page(monkeypatch):
    monkeypatch.setattr(report, "SHOWN", 1)
    seen = observed(FRAMES)
    where = {
        "command": "evaluate.py <x>",
        "time": "now",
        "git": "abc",
        "versions": {"torch": "2"},
        "machine": {"cpu": "c"},
    }
    result = {
        "network": "pointpillars-small",
        "checkpoint": "best.pt",
        "protocol": {"dataset": "synthetic-lidar", "split": "test", "scenes": 5, "device": "cpu", "amp": "off"},
        "seconds_per_sample": 0.1,
        "parameters": 644_680,
        "provenance": where,
    }
    page = report.evaluation_report(result, seen, kitti_scores.curves_of(seen.records)).decode()
    assert "evaluate.py &lt;x&gt;" in page and "0.64 M" in page and "Evaluation: synthetic-lidar, test" in page
    titles = re.findall(r'<div class="bar"><b>(.*?)</b>', page)
    assert titles == ["000001: AP 100 % over 2 objects", "000002: AP 0 % over 2 objects"]
    charts = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert "precision (%)" in charts[0] and "distance (m)" in charts[1] and page.count('<img src="data:image/png') == 2
    assert "<td>000003</td><td>2</td><td>1</td><td>2</td><td>50.0</td>" in page
    assert "Car, bird's-eye view" in page and "5 frames; device cpu" in page
