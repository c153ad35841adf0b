"""predict.py on every format, with files that other libraries wrote. Unfit input is in test_predict_bad_input.py."""

import re

import laspy
import numpy as np
import pypcd4
import pytest
import torch
import trimesh

import predict
from lib.clouds.axes import AXES, from_project, to_project
from lib.clouds.files import READERS, encode_flow, read_cloud
from lib.clouds.pcd import decompress_lzf
from lib.errors import InputError
from tests.runs import run, save_teacher

POINTS = 300


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("net") / "narrow.pt")


def cloud(seed=0, points=POINTS):
    """Points in front of the camera, metres, x left, y up, z forward."""
    return np.random.default_rng(seed).uniform((-8, -1, 4), (8, 4, 30), (points, 3)).astype(np.float32)


def call(*arguments):
    assert predict.main([*map(str, arguments), "--device", "cpu"]) == 0


# ---- readers: each writer puts a cloud into a file, which must come back ----


def ply(order):
    """By hand: a comment that names the end, a camera element before the vertices, a colour after z, faces behind."""

    def write(path, points):
        rows = np.zeros(len(points), [(name, f"{order}f4") for name in "xyz"] + [("red", "u1")])
        for k, name in enumerate("xyz"):
            rows[name] = points[:, k]
        header = (
            f"ply\nformat binary_{'little' if order == '<' else 'big'}_endian 1.0\ncomment no end_header\n"
            f"element camera 1\nproperty double time\nelement vertex {len(points)}\nproperty float x\n"
            "property float32 y\nproperty float z\nproperty uchar red\nelement face 1\n"
            "property list uchar int vertex_indices\nend_header\n"
        )
        face = np.uint8(3).tobytes() + np.arange(3, dtype=f"{order}i4").tobytes()
        path.write_bytes(header.encode() + np.array(7.0, f"{order}f8").tobytes() + rows.tobytes() + face)

    return write


def trimesh_ply(encoding):
    def write(path, points):
        path.write_bytes(trimesh.exchange.ply.export_ply(trimesh.PointCloud(points), encoding=encoding))

    return write


def pcd(encoding):
    def write(path, points):
        made = pypcd4.PointCloud.from_xyzi_points(np.column_stack([points, np.arange(len(points))]).astype(np.float32))
        made.save(path, encoding=encoding)

    return write


def las(path, points):
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.scales, header.offsets = np.full(3, 1e-6), np.zeros(3)
    file = laspy.LasData(header)
    file.xyz = points
    file.write(path)


def text(separator, header="", extra=()):
    def write(path, points):
        lines = [separator.join([*(f"{value:.9g}" for value in row), *extra]) for row in points]
        path.write_text(header + "\n".join(lines) + "\n\n")

    return write


def named_columns(path, points):
    rows = "\n".join(f"{k},{z:.9g},{y:.9g},{x:.9g}" for k, (x, y, z) in enumerate(points))
    path.write_text(f"\ufeffid,Z,Y,X\n{rows}", encoding="utf-8")


def windows_ply(path, points):
    lines = ["ply", "format ascii 1.0", f"element vertex {len(points)}"]
    lines += [f"property double {name}" for name in "zyx"] + ["end_header"]
    lines += [f"{z:.9g}  {y:.9g} {x:.9g} " for x, y, z in points]
    path.write_bytes("\r\n".join([*lines, ""]).encode())


WRITERS = {
    "numpy.npy": np.save,
    "double.npy": lambda path, points: np.save(path, points.astype(np.float64)),
    "one.npz": lambda path, points: np.savez(path, anything=points),
    "several.npz": lambda path, points: np.savez_compressed(path, xyz=points, colour=points[:, 0]),
    "little.ply": ply("<"),
    "big.ply": ply(">"),
    "windows.ply": windows_ply,
    "trimesh.ply": trimesh_ply("binary"),
    "trimesh-ascii.ply": trimesh_ply("ascii"),
    "ascii.pcd": pcd(pypcd4.Encoding.ASCII),
    "binary.pcd": pcd(pypcd4.Encoding.BINARY),
    "compressed.pcd": pcd(pypcd4.Encoding.BINARY_COMPRESSED),
    "velodyne.bin": lambda path, points: np.column_stack([points, points[:, :1]]).astype("<f4").tofile(path),
    "plain.las": las,
    "packed.laz": las,
    "savetxt.txt": np.savetxt,
    "space.txt": text(" ", header="# x y z\n// made by a test\n"),
    "tab.xyz": text("\t", extra=("255", "0", "0")),
    "comma.csv": text(", "),
    "semicolon.CSV": text(";", header="east;north;up\n"),
    "named.csv": named_columns,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_comes_back(tmp_path, name):
    points = cloud()
    WRITERS[name](tmp_path / name, points)
    read = read_cloud(tmp_path / name)
    assert read.dtype in (np.float32, np.float64) and read.shape == points.shape
    rounded = name.endswith(("las", "laz")) or "ascii" in name  # what their writers do
    assert np.abs(read.astype(np.float32) - points).max() <= (2e-6 if rounded else 0.0)


@pytest.mark.parametrize("order, name", [("<", "little"), (">", "big")])
def test_both_byte_orders_as_another_library_reads_them(tmp_path, order, name):
    header = f"ply\nformat binary_{name}_endian 1.0\nelement vertex {POINTS}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    (tmp_path / "a.ply").write_bytes(header.encode() + cloud().astype(f"{order}f4").tobytes())
    assert np.array_equal(np.asarray(trimesh.load(tmp_path / "a.ply").vertices, np.float32), cloud())
    assert np.array_equal(read_cloud(tmp_path / "a.ply"), cloud())


def test_no_format_is_forgotten():
    assert {"." + name.rsplit(".", 1)[1].lower() for name in WRITERS} == set(READERS)


def test_lzf_of_repeated_data(tmp_path):
    """Long and overlapping repetitions, which random coordinates do not have."""
    points = np.tile(np.float32([[1, 2, 3], [1, 2, 4]]), (5000, 1))
    made = pypcd4.PointCloud.from_xyz_points(points)
    made.save(tmp_path / "a.pcd", encoding=pypcd4.Encoding.BINARY_COMPRESSED)
    assert (tmp_path / "a.pcd").stat().st_size < 0.05 * points.nbytes
    assert np.array_equal(read_cloud(tmp_path / "a.pcd"), points)
    assert decompress_lzf(bytes([1, 65, 66, 0xE0, 3, 1]), 14) == b"AB" * 7  # 2 literals, then 12 bytes from 2 back


# ---- why PLY and PCD are read by our own code: what the packages do that we need otherwise ----

ASCII_PLY = "ply\nformat ascii 1.0\nelement vertex 2\n" + "".join(f"property float {name}\n" for name in "xyz")


def test_plyfile_overlooks_points_and_stops_at_an_empty_line(tmp_path):
    plyfile = pytest.importorskip("plyfile", reason="plyfile is not installed: pip install -r requirements.txt")
    path = tmp_path / "a.ply"
    WRITERS["trimesh.ply"](path, cloud())
    path.write_bytes(path.read_bytes().replace(b"element vertex 300", b"element vertex 299"))
    assert len(plyfile.PlyData.read(path)["vertex"].data) == 299  # the last point is lost without a word
    with pytest.raises(InputError, match="is damaged: its header promises 299 points"):
        read_cloud(path)
    path.write_text(ASCII_PLY + "end_header\n1 2 3\n\n4 5 6\n")
    with pytest.raises(plyfile.PlyElementParseError):
        plyfile.PlyData.read(path)
    assert np.array_equal(read_cloud(path), [[1, 2, 3], [4, 5, 6]])


def test_trimesh_overlooks_missing_points_and_refuses_elements_before_them(tmp_path):
    path = tmp_path / "a.ply"
    path.write_text(ASCII_PLY + "end_header\n1 2 3\n")
    assert len(trimesh.load(path).vertices) == 1  # of the two that the header promises
    with pytest.raises(InputError, match="is damaged: its header promises 2 points"):
        read_cloud(path)
    WRITERS["little.ply"](path, cloud())
    with pytest.raises(ValueError, match="unexpected length"):
        trimesh.load(path)
    assert np.array_equal(read_cloud(path), cloud())


def test_pypcd4_overlooks_missing_points_and_needs_a_count(tmp_path):
    path = tmp_path / "a.pcd"
    WRITERS["binary.pcd"](path, cloud())
    whole = path.read_bytes()
    path.write_bytes(whole[: -2 * 16])  # two points of x, y, z and intensity
    assert pypcd4.PointCloud.from_path(path).points == 300 and len(pypcd4.PointCloud.from_path(path).pc_data) == 298
    with pytest.raises(InputError, match="is damaged: its header promises 300 points"):
        read_cloud(path)
    path.write_bytes(whole.replace(b"COUNT 1 1 1 1\n", b""))  # which means once each
    with pytest.raises(ValueError, match="count"):
        pypcd4.PointCloud.from_path(path)
    assert np.array_equal(read_cloud(path), cloud())


# ---- writers ----


def test_flow_files(tmp_path):
    source, flow = cloud(), cloud(1) - cloud()
    for suffix in (".npz", ".npy", ".ply"):
        (tmp_path / f"flow{suffix}").write_bytes(encode_flow(suffix, source, flow))
    with np.load(tmp_path / "flow.npz") as file:
        assert np.array_equal(file["source"], source) and np.array_equal(file["flow"], flow)
    assert np.array_equal(np.load(tmp_path / "flow.npy"), flow)
    assert np.array_equal(read_cloud(tmp_path / "flow.ply"), source)
    with open(tmp_path / "flow.ply", "rb") as file:  # as another program reads it
        vertex = trimesh.exchange.ply.load_ply(file)["metadata"]["_ply_raw"]["vertex"]["data"]
    assert np.array_equal(np.stack([vertex[name] for name in ("nx", "ny", "nz")], axis=1), flow)
    assert np.allclose(vertex["quality"], np.linalg.norm(flow, axis=1))


def test_double_coordinates_stay_double(tmp_path):
    source = cloud().astype(np.float64) + 1e-9
    (tmp_path / "flow.ply").write_bytes(encode_flow(".ply", source, cloud(1)))
    assert np.array_equal(read_cloud(tmp_path / "flow.ply"), source)


# ---- axes ----


@pytest.mark.parametrize(
    "axes, left, up, forward",
    [
        ("as-is", (1, 0, 0), (0, 1, 0), (0, 0, 1)),
        ("kitti-camera", (-1, 0, 0), (0, -1, 0), (0, 0, 1)),
        ("velodyne", (0, 1, 0), (0, 0, 1), (1, 0, 0)),
    ],
)
def test_axes(axes, left, up, forward):
    """Where each of the project's directions points in the named axes."""
    directions = np.array([left, up, forward], dtype=np.float32)
    assert np.array_equal(to_project(directions, axes), np.eye(3))
    assert np.array_equal(from_project(np.eye(3, dtype=np.float32), axes), directions)
    assert np.linalg.det(AXES[axes][1]) == 1.0  # no mirror


def test_the_flow_comes_back_in_the_axes_of_the_input(tmp_path, checkpoint):
    flows = {}
    for axes in AXES:
        for name, seed in (("a", 0), ("b", 1)):
            np.save(tmp_path / f"{name}.npy", from_project(cloud(seed), axes))
        call(
            tmp_path / "a.npy",
            tmp_path / "b.npy",
            "--checkpoint",
            checkpoint,
            "--axes",
            axes,
            "--out",
            tmp_path / "flow.npy",
        )
        flows[axes] = to_project(np.load(tmp_path / "flow.npy"), axes)
    assert np.array_equal(flows["kitti-camera"], flows["as-is"])
    assert np.array_equal(flows["velodyne"], flows["as-is"])


# ---- the script ----


def test_golden_pair(tmp_path, shared, published_state):
    torch.save(published_state, tmp_path / "published.pth")
    with np.load(shared / "golden/forward_eval.npz") as file:
        np.save(tmp_path / "a.npy", file["pc1"].astype(np.float32))
        np.save(tmp_path / "b.npy", file["pc2"].astype(np.float32))
        expected = file["pred_flow_l0"]
    made = run(
        "predict.py",
        tmp_path / "a.npy",
        tmp_path / "b.npy",
        "--checkpoint",
        tmp_path / "published.pth",
        "--out",
        tmp_path / "flow.npz",
        "--device",
        "cpu",
    )
    assert made.returncode == 0 and made.stderr == "", made.stderr
    with np.load(tmp_path / "flow.npz") as file:
        error = np.linalg.norm(file["flow"] - expected, axis=1)
        assert np.array_equal(file["source"], np.load(tmp_path / "a.npy"))
    assert np.median(error) <= 1e-6
    assert (error > 1e-4).mean() <= 0.003
    assert re.search(r"^time +\d+\.\d{3} s for this pair", made.stdout, flags=re.MULTILINE)
    assert "axes     as-is (x left, y up, z forward)\npoints   8192 source, 8192 target\n" in made.stdout


def test_drawn_points_and_interpolation(tmp_path, checkpoint):
    """Every point gets a flow; the drawn ones have the network's own, and a second call gives the same."""
    np.save(tmp_path / "a.npy", cloud(0, 900))
    np.save(tmp_path / "b.npy", cloud(1, 200))
    flags = ["--checkpoint", checkpoint, "--num-points", 256]
    for out in ("first.npy", "second.npy"):
        call(tmp_path / "a.npy", tmp_path / "b.npy", *flags, "--out", tmp_path / out)
    flow = np.load(tmp_path / "first.npy")
    assert flow.shape == (900, 3) and np.array_equal(flow, np.load(tmp_path / "second.npy"))
    drawn = np.random.default_rng(0).choice(900, 256, replace=False)
    np.save(tmp_path / "drawn.npy", cloud(0, 900)[drawn])
    call(tmp_path / "drawn.npy", tmp_path / "b.npy", "--checkpoint", checkpoint, "--out", tmp_path / "own.npy")
    assert np.abs(flow[drawn] - np.load(tmp_path / "own.npy")).max() < 1e-5
    others = np.setdiff1d(np.arange(900), drawn)
    low, high = np.load(tmp_path / "own.npy").min(axis=0), np.load(tmp_path / "own.npy").max(axis=0)
    assert (flow[others] >= low - 1e-5).all() and (flow[others] <= high + 1e-5).all()


def test_clouds_of_different_formats_and_sizes(tmp_path, checkpoint):
    WRITERS["compressed.pcd"](tmp_path / "a.pcd", cloud(0, 257))
    WRITERS["comma.csv"](tmp_path / "b.csv", cloud(1, 131))
    call(tmp_path / "a.pcd", tmp_path / "b.csv", "--checkpoint", checkpoint, "--out", tmp_path / "flow.ply")
    assert np.array_equal(read_cloud(tmp_path / "flow.ply"), cloud(0, 257))


def turned(points):
    return points[:, [2, 0, 1]]  # the velodyne axes


FAR = "median distance from the sensor is"
BEHIND = "have a depth of 0 or less with --axes as-is"


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda points: points, []),
        (lambda points: points * 1000, [f"the source's {FAR} 1.783e+04: this", f"the target's {FAR} "]),
        (lambda points: points / 100, [f"the source's {FAR} 0.1783: this", f"the target's {FAR} "]),
        (
            lambda points: points * (1, 1, -1),
            [f"100 % of the source's points {BEHIND}: the networks know points in front only", "100 % of the target's"],
        ),
        (turned, [f"50 % of the source's points {BEHIND}: --axes velodyne would put them in front", ""]),
    ],
)
def test_warnings(tmp_path, checkpoint, capsys, change, said):
    for name, seed in (("a", 0), ("b", 1)):
        centred = cloud(seed) * (1, 1, 1) - (0, 1.5, 0)
        np.save(tmp_path / f"{name}.npy", change(centred).astype(np.float32))
    call(tmp_path / "a.npy", tmp_path / "b.npy", "--checkpoint", checkpoint, "--out", tmp_path / "flow.npy")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said)
    for line, start in zip(lines, said, strict=True):
        line = re.sub(r"4\d %|5\d %", "50 %", line)
        assert line.startswith(f"warning: {start}"), line


def test_clouds_far_apart(tmp_path, checkpoint, capsys):
    np.save(tmp_path / "a.npy", cloud(0))
    np.save(tmp_path / "b.npy", cloud(1) + np.float32([0, 0, 60]))
    call(tmp_path / "a.npy", tmp_path / "b.npy", "--checkpoint", checkpoint, "--out", tmp_path / "flow.npy")
    assert re.fullmatch(
        r"warning: the clouds' centres are [56]\d(\.\d)? apart, more than the source is large: are "
        r"both in the frame of the sensor\?\n",
        capsys.readouterr().err,
    )
