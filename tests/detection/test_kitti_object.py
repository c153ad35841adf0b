"""The reader of KITTI's object frames: the acceptance values on real frames, a made-up folder, and broken files."""

import re
import shutil
import warnings
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from lib import boxes
from lib.datasets.kitti_object import Frame, Frames, Label, open_frames, read_calibration, read_labels, write_labels
from lib.errors import InputError

CALIB = """P2: 700 0 20 0 0 700 15 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""
CAR = "Car 0.00 1 2.04 5.00 6.00 30.00 20.00 1.57 1.50 3.68 -1.17 1.65 7.86 1.90"
DONT_CARE = "DontCare -1 -1 -10 5.00 6.00 7.00 8.00 -1 -1 -1 -1000 -1000 -1000 -10"
SCAN = np.array([[10, 0, 0, 0.5], [-10, 0, 0, 0.1], [10, 5, 0, 0.2], [20, 0.1, 0.1, 0.9]], np.float32)  # 2 in view


@pytest.fixture(scope="module")
def real(shared: Path) -> Frames:
    if not (shared / "data/KITTI_object").is_dir():
        pytest.skip(f"real frames not found: {shared}/data/KITTI_object")
    return open_frames(shared / "data/KITTI_object")


@pytest.fixture(scope="module")
def frames(real: Frames) -> dict[str, Frame]:
    return {frame.name: frame for frame in real}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder of two complete frames, 000003 and 000007, with images of 40 x 30 px."""
    base = tmp_path / "training"
    for folder in ("image_2", "calib", "label_2", "velodyne"):
        (base / folder).mkdir(parents=True)
    for name in ("000003", "000007"):
        cv2.imwrite(str(base / f"image_2/{name}.png"), np.zeros((30, 40, 3), np.uint8))
        (base / f"calib/{name}.txt").write_text(CALIB)
        (base / f"label_2/{name}.txt").write_text(f"{CAR}\n{DONT_CARE}\n")
        (base / f"velodyne/{name}.bin").write_bytes(SCAN.tobytes())
    return tmp_path


def inside(points: np.ndarray, corners: np.ndarray) -> int:
    """How many points (N, 3) lie in the box with these corners (8, 3), boundary included."""
    count = np.ones(len(points), bool)
    for end in (1, 3, 4):  # the three edges that leave corner 0
        edge = corners[end] - corners[0]
        along = (points - corners[0]) @ edge / (edge @ edge)
        count &= (along >= 0) & (along <= 1)
    return int(count.sum())


# The real frames


def test_counts_of_the_real_frames(frames):
    assert len(frames) == 22
    assert {n: len(frames[n].points) for n in ("000000", "000008", "000010")} == {
        "000000": 20285,
        "000008": 17238,
        "000010": 16464,
    }
    assert sum(len(frame.points) for frame in frames.values()) == 420190
    types = Counter(label.type for frame in frames.values() for label in frame.objects)
    assert types == dict(Car=39, Pedestrian=11, Cyclist=3, Van=4, Truck=4, Misc=2, Tram=1, DontCare=64)
    sizes = {name: frame.image_size for name, frame in frames.items() if frame.image_size != (1242, 375)}
    assert sizes == {"000000": (1224, 370), "000015": (1238, 374), "000024": (1241, 376)}


def test_every_point_of_the_reduced_scans_is_kept(real, frames):
    for name, frame in frames.items():
        assert frame.points.nbytes == (real.base / f"velodyne_reduced/{name}.bin").stat().st_size
        assert frame.points.dtype == np.float32


def test_first_point_of_frame_8(frames):
    frame = frames["000008"]
    np.testing.assert_allclose(frame.points[0], [21.554, 0.028, 0.938, 0.34], atol=1e-6)
    camera = frame.calibration.to_camera(frame.points[:1, :3])
    pixels, depth = frame.calibration.project(camera)
    np.testing.assert_allclose(camera[0], [-0.0356, -0.7875, 21.2905], atol=5.1e-5)
    np.testing.assert_allclose(pixels[0], [610.380, 146.157], atol=5.1e-4)
    assert depth[0] == pytest.approx(21.2932, abs=5.1e-5)


def test_projected_cars_are_the_labelled_boxes(frames):
    overlaps = {}
    for name, frame in frames.items():
        for i, label in enumerate(frame.objects):
            if label.type == "Car":
                hull, visible = boxes.projected_box(label.camera_box, frame.calibration.P2, frame.image_size)
                assert visible
                low, high = np.maximum(hull[:2], label.box2d[:2]), np.minimum(hull[2:], label.box2d[2:])
                both = np.prod(np.clip(high - low, 0, None))
                areas = [np.prod(np.subtract(box[2:], box[:2])) for box in (hull, label.box2d)]
                overlaps[name, i] = both / (sum(areas) - both)
    assert len(overlaps) == 39
    assert min(overlaps.values()) == pytest.approx(0.959, abs=6e-4)
    assert min(overlaps, key=overlaps.get)[0] == "000017"


def test_alpha_of_the_labels(frames):
    labels = [label for frame in frames.values() for label in frame.objects if label.type != "DontCare"]
    alpha = boxes.observation_angle(np.stack([label.camera_box for label in labels]))
    away = np.abs(boxes.wrap_angle(alpha - [label.alpha for label in labels]))
    assert len(away) == 64 and away.max() < 0.04 and np.median(away) == pytest.approx(0.004, abs=6e-4)


@pytest.mark.parametrize(
    ("name", "line", "kind", "lidar", "camera", "box"),
    [
        ("000000", 0, "Pedestrian", 377, 376, (8.731, -1.856, -0.655, -1.581)),
        ("000003", 0, "Car", 674, 680, (13.511, -0.982, -0.909, 3.092)),
        ("000007", 0, "Car", 182, 191, (25.299, 0.709, -0.688, 0.019)),
        ("000007", 3, "Cyclist", 25, 25, (34.378, 12.651, -0.602, -3.111)),
        ("000008", 1, "Car", 1900, 1940, (8.149, 1.186, -0.843, 2.812)),
        ("000010", 1, "Car", 1013, 1016, (12.089, 2.407, -0.869, 2.952)),
        ("000011", 2, "Car", 186, 208, (26.929, 4.970, -0.641, -3.121)),
        ("000015", 1, "Pedestrian", 383, 386, (7.876, -4.703, -0.561, -2.821)),
        ("000020", 0, "Car", 500, 492, (15.869, -2.673, -0.838, 0.039)),
    ],
)
def test_points_in_labelled_boxes(frames, name, line, kind, lidar, camera, box):
    frame, label = frames[name], frames[name].objects[line]
    assert label.type == kind
    converted = boxes.camera_to_lidar(label.camera_box, frame.calibration.lidar_to_camera)
    np.testing.assert_allclose(converted[[0, 1, 2, 6]], box, atol=5.1e-4)
    points = frame.points[:, :3].astype(np.float64)
    assert abs(inside(points, boxes.lidar_corners(converted)) - lidar) <= 1
    assert abs(inside(frame.calibration.to_camera(points), boxes.camera_corners(label.camera_box)) - camera) <= 1
    back = boxes.lidar_to_camera(converted, frame.calibration.lidar_to_camera)
    np.testing.assert_allclose(back, label.camera_box, rtol=0, atol=1e-9)


def test_box_of_frame_8_with_five_decimals(frames):
    frame = frames["000008"]
    box = boxes.camera_to_lidar(frame.objects[1].camera_box, frame.calibration.lidar_to_camera)
    np.testing.assert_allclose(box, [8.14944, 1.18638, -0.84260, 3.68, 1.5, 1.57, 2.81239], atol=5.1e-6)


@pytest.mark.parametrize(
    ("name", "line", "depth", "centre", "height", "alpha"),
    [
        ("000008", 1, 7.86275, (507.6845, 252.1993), 144.0736, 2.04777),
        ("000010", 1, 11.80275, (467.1101, 230.6028), 87.4202, 1.95984),
        ("000007", 3, 34.09275, (343.5251, 194.4337), 36.4020, 1.89481),
    ],
)
def test_targets_of_the_monocular_detector(frames, name, line, depth, centre, height, alpha):
    """Acceptance value 3 of the monocular detector: the projected centre, its depth, f h / depth, and alpha."""
    label, calibration = frames[name].objects[line], frames[name].calibration
    pixel, z = calibration.project(label.camera_box[:3] - [0, label.camera_box[3] / 2, 0])
    assert z == pytest.approx(depth, abs=5.1e-6)
    np.testing.assert_allclose(pixel, centre, atol=5.1e-5)
    assert calibration.P2[1, 1] * label.camera_box[3] / z == pytest.approx(height, abs=5.1e-5)
    assert boxes.observation_angle(label.camera_box) == pytest.approx(alpha, abs=5.1e-6)


def test_real_labels_written_and_read_again(frames, tmp_path):
    for frame in frames.values():
        write_labels(tmp_path / "labels.txt", frame.objects)
        assert read_labels(tmp_path / "labels.txt") == frame.objects


# A made-up folder


def test_a_frame_by_hand(made):
    frame = open_frames(made)[1]
    assert frame.name == "000007" and frame.image_size == (40, 30)
    assert frame.image_path == made / "training/image_2/000007.png"
    np.testing.assert_array_equal(frame.points, SCAN[[0, 3]])
    car, ignored = frame.objects
    assert car == Label("Car", 0, 1, 2.04, (5, 6, 30, 20), (-1.17, 1.65, 7.86, 1.57, 1.5, 3.68, 1.9))
    assert ignored.type == "DontCare" and ignored.occluded == -1 and ignored.score is None


def test_both_scan_folders_give_the_same_points(made):
    full = open_frames(made)[0].points
    shutil.move(made / "training/velodyne", made / "training/velodyne_reduced")
    np.testing.assert_array_equal(open_frames(made / "training")[0].points, full)


def test_images_alone_need_no_scans_and_no_labels(made):
    shutil.rmtree(made / "training/velodyne")
    shutil.rmtree(made / "training/label_2")
    frame = open_frames(made, points=False, labels=False)[0]
    assert frame.points is None and frame.objects is None


def test_lists_keep_their_order_and_warn_about_their_size(made):
    (made / "train.txt").write_text("000007\n3\n\n")
    with pytest.warns(UserWarning, match=r"lists 2 frames, the full split train has 3712"):
        assert open_frames(made, made / "train.txt").names == ["000007", "000003"]
    (made / "mine.txt").write_text("000007\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_frames(made, made / "mine.txt")) == 1
        assert len(open_frames(made)) == 2


def test_results_written_and_read_again(tmp_path):
    path = tmp_path / "000007.txt"
    result = Label("Car", -1, -1, 0.123457, (1.5, 2, 3, 4), (1.25, 1, 10, 1.5, 1.6, 3.9, -3.1), 0.987654)
    write_labels(path, [result])
    assert len(path.read_text().split()) == 16
    assert read_labels(path, scores=True) == [result]
    with pytest.raises(InputError, match="16 fields, it must have 15"):
        read_labels(path)
    write_labels(path, [])
    assert read_labels(path, scores=True) == []


def test_a_label_that_no_line_can_hold_is_not_written(tmp_path):
    path = tmp_path / "000007.txt"
    write_labels(path, [])
    with pytest.raises(InputError, match="score = 'nan'"):
        write_labels(path, [Label("Car", -1, -1, 0, (1, 2, 3, 4), (1, 1, 10, 1.5, 1.6, 3.9, 0), float("nan"))])
    assert path.read_text() == ""


# Broken files: (file, new content or None to remove it, what the message says)
BROKEN = {
    "14 fields": ("label_2/000007.txt", CAR.rsplit(" ", 1)[0], "line 1 has 14 fields, it must have 15"),
    "16 fields": ("label_2/000007.txt", CAR + " 0.5", "line 1 has 16 fields, it must have 15"),
    "a word": ("label_2/000007.txt", f"{CAR}\n{CAR.replace('1.65', 'low')}", "line 2 has y = 'low'"),
    "nan": ("label_2/000007.txt", CAR.replace("7.86", "nan"), "z = 'nan', which is not a finite number"),
    "type": ("label_2/000007.txt", CAR.replace("Car", "Bus"), "the type 'Bus'"),
    "occluded": ("label_2/000007.txt", CAR.replace(" 1 2.04", " 1.5 2.04"), "occluded = 1.5"),
    "truncated": ("label_2/000007.txt", CAR.replace("0.00", "1.20", 1), "truncated = 1.20"),
    "2-D box": ("label_2/000007.txt", CAR.replace("30.00", "3.00"), "a 2-D box whose right"),
    "size": ("label_2/000007.txt", CAR.replace("1.57", "0.00"), "h w l = 0.00 1.50 3.68"),
    "binary label": ("label_2/000007.txt", b"\xff\xfe\x00", "not a text file"),
    "no key": ("calib/000007.txt", CALIB.replace("R0_rect", "R_rect"), "no line R0_rect"),
    "8 numbers": ("calib/000007.txt", CALIB.replace("0 0 0 1\nTr", "0 0 1\nTr"), "R0_rect must be 9 finite numbers"),
    "nan in calib": ("calib/000007.txt", CALIB.replace("700", "nan"), "P2 must be 12 finite numbers"),
    "no rotation": ("calib/000007.txt", CALIB.replace("0 0 0 1\nTr", "0 0 0 2\nTr"), "R0_rect is no rotation"),
    "no projection": ("calib/000007.txt", CALIB.replace("0 0 1 0\nR0", "0 0 2 0\nR0"), "P2 is no projection"),
    "binary calib": ("calib/000007.txt", b"\xff\xfe\x00", "not a text file"),
    "cut scan": ("velodyne/000007.bin", SCAN.tobytes()[:-3], "61 bytes, no multiple of 16"),
    "empty scan": ("velodyne/000007.bin", b"", "0 bytes"),
    "nan scan": ("velodyne/000007.bin", (SCAN * [1, 1, np.nan, 1]).astype("<f4").tobytes(), "point 0 (of 4 such)"),
    "nothing in view": ("velodyne/000007.bin", SCAN[1:2].tobytes(), "no point lies in the camera's view"),
    "no PNG": ("image_2/000007.png", b"GIF89a" * 9, "not a PNG file"),
    "no label": ("label_2/000007.txt", None, "is missing, as for 1 of 2 frames"),
    "no calib": ("calib/000007.txt", None, "is missing, as for 1 of 2 frames"),
    "no scan": ("velodyne/000007.bin", None, "is missing, as for 1 of 2 frames"),
    "no image": ("image_2/000007.png", None, "is missing, as for 1 of 2 frames"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line_that_names_it(made, case):
    file, content, message = BROKEN[case]
    path = made / "training" / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        list(open_frames(made))
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    assert re.search(r"extract|correct|take|write", text), "the message does not say what to do"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lists no frame"),
        ("seven\n", "line 1: 'seven' is no frame number"),
        ("1234567\n", "is no frame number"),
        ("7\n000007\n", "lists frame 000007 twice (lines 1 and 2)"),
        ("8\n", "000008.png is missing"),
    ],
)
def test_a_broken_list_is_one_line(made, content, message):
    (made / "mine.txt").write_text(content)
    with pytest.raises(InputError, match=re.escape(message)):
        open_frames(made, made / "mine.txt")


def test_missing_folders(made):
    with pytest.raises(InputError, match="no folder image_2"):
        open_frames(made / "nowhere")
    with pytest.raises(InputError, match="mine.txt cannot be read"):
        open_frames(made, made / "mine.txt")
    shutil.rmtree(made / "training/velodyne")
    with pytest.raises(InputError, match="as for 2 of 2 frames: extract data_object_velodyne.zip"):
        open_frames(made)
    with pytest.raises(InputError, match="000009.txt cannot be read"):
        read_calibration(made / "training/calib/000009.txt")
    with pytest.raises(InputError, match="000009.txt cannot be read"):
        read_labels(made / "training/label_2/000009.txt")
