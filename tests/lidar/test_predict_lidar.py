"""Reading a user's scan for a detector, its checks, and the files of boxes."""

import json

import laspy
import numpy as np
import plyfile
import pypcd4
import pytest
import torch

from lib.boxes import Detections, lidar_corners
from lib.camera import Calibration
from lib.clouds.files import READERS, read_cloud
from lib.datasets.kitti_object import read_labels
from lib.errors import InputError
from lib.predict.box_files import encode_json, read_boxes, write_boxes
from lib.predict.lidar import (
    ScanSettings,
    View,
    check_scan,
    crop_to_view,
    detect,
    ground_of,
    read_scan,
    read_view,
)

CLASSES = ("Pedestrian", "Cyclist", "Car")
LIMITS = (0.0, -17.92, -3.0, 35.84, 17.92, 1.0)


def street(points=400, seed=0) -> np.ndarray:
    """(N, 4) float32 in the LiDAR frame: ground 1.73 m below the sensor, some points above it, reflectance 0 to 1."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform((3, -8, -1.73), (30, 8, -1.72), (points, 3))
    xyz[: points // 4, 2] += rng.uniform(0, 2, points // 4)
    return np.column_stack([xyz, rng.integers(0, 256, points) / 255]).astype(np.float32)


def two_boxes() -> Detections:
    boxes = torch.tensor([[10.0, 2.0, -0.9, 4.0, 1.6, 1.5, 0.3], [15.0, -3.0, -0.8, 0.8, 0.6, 1.7, -1.2]])
    return Detections(boxes, torch.tensor([0.9, 0.4]), torch.tensor([2, 0]), CLASSES)


def kitti_calibration() -> Calibration:
    """f 700 px, centre (600, 180); the camera stands where the LiDAR is."""
    projection = np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]])
    turn = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])
    return Calibration(projection, np.eye(3), turn)


# ---- formats: the reflectance must come back from each ----


def pcd(path, points):
    scaled = np.column_stack([points[:, :3], points[:, 3]]).astype(np.float32)
    pypcd4.PointCloud.from_xyzi_points(scaled).save(path, encoding=pypcd4.Encoding.BINARY_COMPRESSED)


def ascii_pcd(path, points):
    pypcd4.PointCloud.from_xyzi_points(points).save(path, encoding=pypcd4.Encoding.ASCII)


def ply(path, points, text=False):
    """With a colour before the intensity and a face behind the points."""
    kinds = [(name, "f4") for name in "xyz"] + [("red", "u1"), ("scalar_Intensity", "f4")]
    rows = np.zeros(len(points), kinds)
    for k, name in enumerate(("x", "y", "z", "scalar_Intensity")):
        rows[name] = points[:, k]
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], text=text).write(path)


def las(path, points):
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.scales, header.offsets = np.full(3, 1e-6), np.zeros(3)
    file = laspy.LasData(header)
    file.xyz, file.intensity = points[:, :3], np.round(255 * points[:, 3]).astype(np.uint16)
    file.write(path)


def csv(path, points):
    lines = [f"{r:.9g},{z:.9g},{y:.9g},{x:.9g}" for x, y, z, r in points]
    path.write_text("\n".join(["Intensity,z,y,x", *lines]))


WRITERS = {
    "a.bin": lambda path, points: points.tofile(path),
    "a.npy": np.save,
    "a.npz": lambda path, points: np.savez(path, points=points),
    "a.ply": ply,
    "b.ply": lambda path, points: ply(path, points, text=True),
    "a.pcd": pcd,
    "b.pcd": ascii_pcd,
    "a.las": las,
    "a.laz": las,
    "a.txt": np.savetxt,
    "a.xyz": np.savetxt,
    "a.csv": csv,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_reflectance(tmp_path, name):
    points = street()
    WRITERS[name](tmp_path / name, points)
    full = 255.0 if name.endswith(("las", "laz")) else 1.0
    assert np.allclose(read_scan(tmp_path / name, ScanSettings(full=full)), points, atol=2e-6)
    assert {"." + name.split(".")[1] for name in WRITERS} == set(READERS)


def test_axes_height_and_reflectance_as_told(tmp_path):
    points = street()
    x, y, z, _ = points.T
    camera = np.column_stack([-y, -z - 0.5, x])  # right, down, ahead; the ground is 1.23 m below
    np.save(tmp_path / "a.npy", camera.astype(np.float32))
    read = read_scan(tmp_path / "a.npy", ScanSettings("kitti-camera", reflectance=0.25, ground_height=-1.23))
    assert np.allclose(read[:, :3], points[:, :3], atol=1e-5) and (read[:, 3] == 0.25).all()


XYZ = street()[:, :3]
SCALED = street() * np.float32((1, 1, 1, 200))
BAD = {
    "three.npy": (XYZ, " has no reflectance (intensity), which the detectors need: export it too, or give all points "),
    "three.txt": (XYZ, " has no reflectance (intensity), which the detectors need: export it too, or give all points "),
    "five.npy": (np.zeros((9, 5), np.float32), " has shape (9, 5); it must be (n, 3) or (n, 4)"),
    "nan.bin": (np.full((3, 4), np.nan, "<f4"), " has NaN or infinity in 3 of 3 points, the first is point 0: remove"),
    "empty.bin": (np.zeros((0, 4), "<f4"), " is empty"),
    "scale.bin": (SCALED, ": reflectance runs from 0 to 200, and must be from 0 to 1: give --reflectance-max 255"),
    "below.bin": (-SCALED, ": reflectance runs from -200 to -0, and must be from 0 to 1: give another value for all"),
    "cloud.obj": (XYZ, ": unknown ending .obj; the formats are "),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unfit_scan_is_one_line(tmp_path, name):
    points, line = BAD[name]
    writer = {"npy": np.save, "txt": np.savetxt}.get(name[-3:], lambda path, rows: rows.tofile(path))
    writer(tmp_path / name, points)
    with pytest.raises(InputError) as caught:
        read_scan(tmp_path / name, ScanSettings())
    assert str(caught.value).startswith(f"{tmp_path / name}{line}") and "\n" not in str(caught.value)


# ---- does the scan look like one? ----


def test_real_scans_look_right(shared):
    folder = shared / "data/KITTI_object/training/velodyne_reduced"
    heights = []
    for path in sorted(folder.iterdir()):
        scan = read_scan(path, ScanSettings())
        assert check_scan(scan, LIMITS, ScanSettings()) == []
        heights.append(ground_of(scan))
    assert -2.0 < min(heights) and max(heights) < -1.5


def test_what_looks_wrong_is_said():
    scan, settings = street(), ScanSettings()
    assert check_scan(scan, LIMITS, settings) == []
    high = scan + np.float32((0, 0, 0.73, 0))
    (line,) = check_scan(high, LIMITS, settings)
    assert "lie at z = -1.00 m" in line and line.endswith("if the axes are right, give --ground-height -1.0")
    told = ScanSettings(ground_height=-1.0)
    assert check_scan(high - np.float32((0, 0, 0.73, 0)), LIMITS, told) == []
    x, y, z, r = scan.T
    (line,) = check_scan(np.column_stack([-y, -z, x, r]), (-99, -99, -99, 99, 99, 99), settings)
    assert line.endswith(": --axes kitti-camera would put it there")
    with pytest.raises(InputError, match="no point lies where the network looks .*: check axes and units"):
        check_scan(scan * np.float32((-1, 1, 1, 1)), LIMITS, settings)
    lines = check_scan(scan * np.float32((0.01, 0.01, 0.01, 1)), LIMITS, settings)
    assert lines[0].startswith("the median distance from the sensor is 0.1") and "metres" in lines[0]


def test_crop_to_the_cameras_view():
    points = np.float32([[10, 0, 0, 0], [10, 9, 0, 0], [-10, 0, 0, 0], [10, 8.5, 0, 0]])
    view = View(kitti_calibration(), (1200, 360))  # 600 px to either side: 8.57 m at 10 m
    assert crop_to_view(points, view, ScanSettings())[:, 1].tolist() == [0, 8.5]
    lifted = points + np.float32((0, 0, 2.7, 0))  # without lowering it again, 10 m ahead the image ends 2.57 m up
    assert len(crop_to_view(lifted, view, ScanSettings(ground_height=-1.73 - 2.7))) == 2
    with pytest.raises(InputError, match="no point lies in the camera's view: give the scan, --calib and --image of"):
        crop_to_view(points[2:3], view, ScanSettings())


def test_boxes_are_lowered_again():
    class Net(torch.nn.Module):
        range = (0.0, -40.0, -3.0, 70.0, 40.0, 1.0)

        def detect(self, clouds):
            self.seen = clouds
            return [two_boxes()]

    net, settings = Net(), ScanSettings(ground_height=-1.0)
    found, seconds = detect(net, street(), torch.device("cpu"), settings)
    assert seconds >= 0 and net.seen[0].shape == (400, 4)
    assert torch.allclose(found.boxes[:, 2], torch.tensor([-0.17, -0.07])) and found.classes == CLASSES


# ---- files of boxes ----


def test_json_comes_back_and_says_its_convention(tmp_path):
    write_boxes(tmp_path / "a.json", two_boxes(), street(), ScanSettings(), about={"cloud": "a.bin"})
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["names"] == ["Car", "Pedestrian"] and content["cloud"] == "a.bin"
    assert "x ahead, y left, z up" in content["convention"] and content["columns"][-1] == "yaw"
    read = read_boxes(tmp_path / "a.json")
    assert torch.allclose(read.boxes, two_boxes().boxes) and torch.equal(read.labels, two_boxes().labels)
    assert torch.allclose(read.scores, two_boxes().scores) and read.classes == CLASSES
    nothing = Detections(torch.zeros(0, 7), torch.zeros(0), torch.zeros(0, dtype=torch.int64), CLASSES)
    (tmp_path / "b.json").write_bytes(encode_json(nothing, {}))
    assert read_boxes(tmp_path / "b.json").boxes.shape == (0, 7)


@pytest.mark.parametrize("change", [{"labels": [2, 3]}, {"scores": [1]}, {"boxes": [[1]]}, {"classes": None}, None])
def test_unfit_json_is_one_line(tmp_path, change):
    content = json.loads(encode_json(two_boxes(), {}))
    (tmp_path / "a.json").write_text("hello" if change is None else json.dumps(content | change))
    with pytest.raises(InputError, match="is not what predict.py --out FILE.json writes for a detector: run"):
        read_boxes(tmp_path / "a.json")


def test_kitti_lines_read_back(tmp_path):
    """By hand: yaw 0 looks ahead, so rotation_y is -pi/2; the bottom stands h / 2 lower; f / depth px a metre."""
    box = Detections(torch.tensor([[20.0, 2, -1, 4, 2, 2, 0]]), torch.tensor([0.75]), torch.tensor([2]), CLASSES)
    write_boxes(tmp_path / "a.txt", box, street(), ScanSettings(), View(kitti_calibration(), (1200, 360)))
    (label,) = read_labels(tmp_path / "a.txt", scores=True)
    assert label.type == "Car" and label.score == 0.75
    assert np.allclose(label.box3d, (-2, 2, 20, 2, 2, 4, -np.pi / 2), atol=1e-5)
    assert np.allclose(label.box2d, (600 - 3 * 700 / 18, 180, 600 - 1 * 700 / 22, 180 + 2 * 700 / 18), atol=1e-3)
    with pytest.raises(InputError, match=r"b.txt: KITTI's result lines need --calib and --image"):
        write_boxes(tmp_path / "b.txt", box, street(), ScanSettings())
    with pytest.raises(InputError, match=r"b.csv: boxes are written as .json, .txt, .ply"):
        write_boxes(tmp_path / "b.csv", box, street(), ScanSettings())


@pytest.mark.parametrize("count", [0, 2])
def test_ply_holds_points_and_edges_in_the_axes_of_the_input(tmp_path, count):
    settings = ScanSettings("kitti-camera", ground_height=-1.0)
    found = Detections(*(values[:count] for values in two_boxes()[:3]), CLASSES)
    write_boxes(tmp_path / "a.ply", found, street(), settings)
    file = plyfile.PlyData.read(tmp_path / "a.ply")
    vertices, faces = file["vertex"].data, np.stack([*file["face"].data["vertex_indices"], np.zeros(4, int)])[:-1]
    assert len(vertices) == 400 + 96 * count and faces.shape == (72 * count, 4)
    x, y, z = street()[:, :3].T
    xyz = np.stack([vertices[name] for name in "xyz"], axis=1)
    assert np.allclose(xyz[:400], np.column_stack([-y, -(z + 0.73), x]), atol=1e-5)
    assert np.allclose(read_cloud(tmp_path / "a.ply"), xyz)
    if count:
        assert faces.min() == 400 and faces.max() == 400 + 96 * count - 1
        corners = lidar_corners(found.boxes.numpy())[..., [1, 2, 0]] * (-1, -1, 1)  # (2, 8, 3) right, down, ahead
        bars = xyz[400:].reshape(2, 96, 3)
        apart = np.linalg.norm(bars[:, :, None] - corners[:, None], axis=-1)  # (2, 96, 8)
        assert (apart.min(axis=2) < 0.06).all(), "every bar ends at corners"
        assert ((apart < 0.06).sum(axis=1) == 12).all(), "three bars of four vertices meet at each corner"
        car = vertices[400]
        assert tuple(int(car[name]) for name in ("red", "green", "blue")) == (0x00, 0x72, 0xB2)


def test_the_cameras_view(tmp_path, shared):
    folder = shared / "data/KITTI_object/training"
    calib = folder / "calib/000008.txt"
    assert read_view(calib, str(folder / "image_2/000008.png")).size == (1242, 375)
    assert read_view(calib, "1242x375").size == (1242, 375)
    for wrong in ("none.png", "1242", "0x3"):
        with pytest.raises(InputError, match=f"--image {wrong}: no such file; give a PNG, or the image's size as"):
            read_view(calib, wrong)
