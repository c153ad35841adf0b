"""Every unfit cloud, flag and place gets one line that says what is wrong, status 2, and no file is left."""

import os
import pickle

import laspy
import numpy as np
import pypcd4
import pytest

import predict
from lib.cli import run_script
from lib.datasets.scene_flow.synthetic_things import open_part
from tests.runs import save_teacher

GOOD = np.random.default_rng(0).uniform((-8, -1, 4), (8, 4, 30), (200, 3)).astype(np.float32)
FORMATS = ".npy, .npz, .ply, .pcd, .bin, .txt, .csv, .xyz, .las, .laz"
PLY = """ply
format ascii 1.0
element vertex 2
property float x
property float y
property float z
end_header
1 2 3
4 5 6
"""
PCD = """# .PCD v0.7
VERSION 0.7
FIELDS x y z
SIZE 4 4 4
TYPE F F F
COUNT 1 1 1
WIDTH 2
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 2
DATA ascii
1 2 3
4 5 6
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("net") / "narrow.pt")


@pytest.fixture
def message(tmp_path, capsys, checkpoint):
    """message(flags...) -> the one line on standard error of predict.py; SOURCE and TARGET are good unless given."""
    np.save(tmp_path / "target.npy", GOOD + np.float32(0.1))
    np.save(tmp_path / "source.npy", GOOD)

    def call(source="source.npy", target="target.npy", *flags, net=checkpoint):
        before = sorted(path.name for path in tmp_path.iterdir())
        arguments = [tmp_path / source, tmp_path / target, "--checkpoint", net, "--device", "cpu"]
        flags = flags if "--out" in flags else (*flags, "--out", tmp_path / "flow.npz")
        with pytest.raises(SystemExit) as end:
            run_script(lambda: predict.main([str(argument) for argument in (*arguments, *flags)]))
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        return error.removeprefix("error: ").rstrip("\n").replace(f"{tmp_path}/", "")

    return call


FILES = {
    # name: (content, what the line says after the name)
    "empty.txt": (b"", " is empty"),
    "empty.ply": (b"", " is empty"),
    "comments.xyz": (b"# nothing\n\n", " holds no points"),
    "header.csv": (b"x,y,z\n", " holds no points"),
    "two.txt": (b"1 2\n3 4\n", " line 1 has 2 column(s); a point needs x, y and z"),
    "ragged.csv": (b"x,y,z\n1,2,3\n4,5\n", " line 3 has 2 column(s) where 3 are expected"),
    "word.xyz": (b"# c\n1 2 3\n4 five 6\n", " line 3: 'five' is not a number"),
    "gap.csv": (b"1,2,3\n4,,6\n", " line 2: '' is not a number"),
    "binary.txt": (b"\xff\xfe\x00\x01" * 9, " is not a text file; its ending says it is one"),
    "nan.txt": (
        b"1 2 3\n4 nan 6\n7 8 inf\n",
        " has NaN or infinity in 2 of 3 points, the first is point 1: remove them",
    ),
    "text.bin": (b"1 2 3\n" * 8, " holds text; .bin is KITTI's binary format (float32 x y z intensity): call it .txt"),
    "cut.bin": (
        GOOD.tobytes()[:61],
        " has 61 bytes, no multiple of 16: .bin is KITTI's format, float32 x y z intensity for each point",
    ),
    "cloud.obj": (b"v 1 2 3\n", f": unknown ending .obj; the formats are {FORMATS}"),
    "cloud": (b"1 2 3\n", f": unknown ending (none); the formats are {FORMATS}"),
    "text.npy": (b"1 2 3\n", " is not a complete .npy file; save it again with numpy.save as float32 of shape (n, 3)"),
    "text.npz": (b"1 2 3\n", " is damaged or no .npz file of plain arrays: save it again with numpy.savez"),
    "text.las": (b"1 2 3\n" * 99, " is damaged or no LAS file: copy or export it again"),
    "text.laz": (b"1 2 3\n" * 99, " is damaged or no LAS file: copy or export it again"),
    # PLY
    "other.ply": (PCD, " is not a PLY file: it does not begin with the line ply"),
    "header.ply": (PLY[:60], " has no end_header: its header is cut short"),
    "type.ply": (PLY.replace("float y", "half y"), ": unknown PLY property type 'half' in its header"),
    "line.ply": (
        PLY.replace("element vertex 2", "element vertex two"),
        ": its header has the line 'element vertex two', which PLY does not know",
    ),
    "format.ply": (
        PLY.replace("ascii", "utf-8"),
        ": its header has the line 'format utf-8 1.0', which PLY does not know",
    ),
    "noformat.ply": (PLY.replace("format ascii 1.0\n", ""), ": its header has no format line"),
    "twice.ply": (PLY.replace("float y", "float x"), ": its element vertex has a property twice"),
    "flat.ply": (PLY.replace("property float z\n", ""), ": its vertices have x, y, but x, y and z are needed"),
    "faces.ply": (PLY.replace("vertex", "face"), " has no element vertex: it holds no points"),
    "zero.ply": (PLY.replace("vertex 2", "vertex 0"), " holds no points"),
    "more.ply": (PLY.replace("vertex 2", "vertex 3"), " is damaged: its header promises 3 points, 2 lines follow"),
    "fewer.ply": (PLY.replace("vertex 2", "vertex 1"), " is damaged: its header promises 1 points, 2 lines follow"),
    "columns.ply": (PLY.replace("4 5 6", "4 5"), " line 9 has 2 column(s) where 3 are expected"),
    "list.ply": (
        PLY.replace("float z", "float z\nproperty list uchar int n"),
        ": its vertices hold lists, which points do not have: export the points alone",
    ),
    "listed.ply": (
        PLY.replace("ascii", "binary_little_endian").replace("float z", "float z\nproperty list uchar int n"),
        " has a list before the end of its vertices, which makes their place unknown: export the points alone",
    ),
    "lies.ply": (
        PLY.replace("ascii", "binary_big_endian").replace("vertex 2", f"vertex {10**15}"),
        f" is damaged: its header promises {10**15} points of 12 bytes, 12 bytes follow",
    ),
    "not-ascii.ply": (PLY.encode() + b"\xff\xfe", " says it is ASCII, but its body is binary"),
    # PCD
    "other.pcd": (PLY, " is not a PCD file, or its header is damaged: line 'ply'"),
    "header.pcd": (PCD[:60], " is not a PCD file, or its header is cut short: no line DATA"),
    "fields.pcd": (PCD.replace("FIELDS x y z\n", ""), ": its header has no line FIELDS"),
    "flat.pcd": (PCD.replace("x y z", "x y w"), ": its points have x, y, w, but x, y and z are needed, once each"),
    "sizes.pcd": (
        PCD.replace("SIZE 4 4 4", "SIZE 4 4"),
        ": its header has 3 FIELDS, 2 SIZE, 3 TYPE and 3 COUNT entries; they must be as many",
    ),
    "type.pcd": (
        PCD.replace("SIZE 4 4 4", "SIZE 4 4 3"),
        ": its field z has type F, size 3 and count 1, which PCD does not know",
    ),
    "width.pcd": (
        PCD.replace("WIDTH 2", "WIDTH two"),
        ": its header has no whole numbers for WIDTH, HEIGHT and POINTS",
    ),
    "product.pcd": (PCD.replace("POINTS 2", "POINTS 3"), ": its header says 3 POINTS, but WIDTH x HEIGHT is 2"),
    "more.pcd": (
        PCD.replace("POINTS 2", "POINTS 9").replace("WIDTH 2", "WIDTH 9"),
        " is damaged: its header promises 9 points, 2 lines follow",
    ),
    "zero.pcd": (PCD.replace("POINTS 2", "POINTS 0").replace("WIDTH 2", "WIDTH 0"), " holds no points"),
    "data.pcd": (
        PCD.replace("DATA ascii", "DATA zip"),
        ": unknown DATA 'zip'; PCD knows ascii, binary and binary_compressed",
    ),
    "lies.pcd": (
        PCD.replace("DATA ascii", "DATA binary"),
        " is damaged: its header promises 2 points of 12 bytes, 12 bytes follow",
    ),
    "short.pcd": (
        PCD[: PCD.index("1 2 3\n4")].replace("ascii", "binary_compressed"),
        " is cut short: 0 compressed bytes are promised, 0 follow",
    ),
    "word.pcd": (PCD.replace("5", "V"), " line 13: 'V' is not a number"),
}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, message, name):
    content, said = FILES[name]
    if name in ("lies.ply", "listed.ply", "lies.pcd"):
        content = content[: content.index("1 2 3\n4")] + "123456789012"
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert message(name) == name + said
    assert message("source.npy", name) == name + said


def test_damaged_compressed_pcd(tmp_path, message):
    path = tmp_path / "a.pcd"
    points = np.tile(np.float32([[1, 2, 3], [1, 2, 4]]), (200, 1))
    pypcd4.PointCloud.from_xyz_points(points).save(path, encoding=pypcd4.Encoding.BINARY_COMPRESSED)
    content = path.read_bytes()
    start = content.index(b"DATA binary_compressed\n") + 23
    packed = len(content) - start - 8
    path.write_bytes(content[:-10])
    assert message("a.pcd") == f"a.pcd is cut short: {packed} compressed bytes are promised, {packed - 10} follow"
    path.write_bytes(content[: start + 4] + (4801).to_bytes(4, "little") + content[start + 8 :])
    assert message("a.pcd") == "a.pcd is damaged: its header promises 4800 bytes of points, its compressed body 4801"
    path.write_bytes(content[: start + 8] + b"\xff" + content[start + 9 :])
    assert message("a.pcd") == "a.pcd: its compressed body is damaged (a repetition begins before the data)"
    path.write_bytes(content[:start] + (packed - 1).to_bytes(4, "little") + content[start + 4 :])
    assert message("a.pcd").startswith("a.pcd: its compressed body is damaged (")


@pytest.mark.parametrize(
    "name, lost, said",
    [
        ("a.las", 333, ": its header promises 200 points, the file has 183"),
        ("a.las", 340, ": its header promises 200 points, the file has 183"),  # 17 whole points
        ("a.laz", 333, ": its table of chunks is wrong: copy or export it again"),
    ],
)
def test_las_cut_short(tmp_path, message, name, lost, said):
    file = laspy.LasData(laspy.LasHeader(point_format=0, version="1.2"))
    file.xyz = GOOD
    file.write(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-lost])
    assert message(name) == f"{name} is damaged{said}"


@pytest.mark.parametrize(
    "array, said",
    [
        (GOOD[:, :2], " has shape (200, 2); it must be (n, 3)"),
        (GOOD[:0], " holds no points"),
        (GOOD.astype(int), " has dtype int64; save it again as float32"),
        (
            np.where(GOOD == GOOD[7, 1], np.float32(np.nan), GOOD),
            " has NaN or infinity in 1 of 200 points, the first is point 7: remove them",
        ),
    ],
)
def test_arrays(tmp_path, message, array, said):
    np.save(tmp_path / "a.npy", array)
    assert message("a.npy") == f"a.npy{said}"


class Trap:
    """Unpickling it fails the test."""

    def __reduce__(self):
        return pytest.fail, ("the file was unpickled",)


def test_pickles_are_never_loaded(tmp_path, message):
    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    assert message("a.npy") == "a.npy holds pickled objects, which are never loaded; save it again as float32"
    for content in (np.savez, lambda path, **arrays: path.write_bytes(pickle.dumps(Trap()))):
        content(tmp_path / "a.npz", xyz=np.array([Trap()], dtype=object))
        assert message("a.npz") == "a.npz is damaged or no .npz file of plain arrays: save it again with numpy.savez"


def test_npz(tmp_path, message):
    np.savez(tmp_path / "a.npz", before=GOOD, after=GOOD)
    assert message("a.npz") == "a.npz holds 2 arrays (before, after): keep one, or name the points xyz or points"
    np.savez(tmp_path / "a.npz", GOOD[:, :2])
    assert message("a.npz") == "a.npz: array arr_0 is float32 of shape (200, 2); it must be float32 of shape (n, 3)"
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-50])
    assert message("a.npz") == "a.npz is damaged or no .npz file of plain arrays: save it again with numpy.savez"


def test_missing_file_and_folder(tmp_path, message):
    assert message("nowhere.npy") == "no file nowhere.npy"
    (tmp_path / "folder.ply").mkdir()
    assert message("folder.ply") == "no file folder.ply"


@pytest.mark.parametrize("count", [1, 100])
def test_too_few_points(tmp_path, message, count):
    np.save(tmp_path / "a.npy", GOOD[:count])
    assert message("a.npy") == (
        "all points of the source are at one place"
        if count == 1
        else "a.npy: a cloud of 100 points is too small: the four coarser levels need at least 128 points"
    )


def test_too_few_drawn_points(message):
    assert message("source.npy", "target.npy", "--num-points", 100) == (
        "--num-points 100: a cloud of 100 points is too small: the four coarser levels need at least 128 points"
    )


def test_ten_times_the_scale(tmp_path, message):
    np.save(tmp_path / "b.npy", GOOD * 10)
    assert message("source.npy", "b.npy") == "the target is 10 times as large as the source: give both in metres"
    assert message("b.npy", "source.npy") == "the target is 0.1 times as large as the source: give both in metres"


@pytest.mark.parametrize(
    "turn, named", [(lambda p: p * np.float32([-1, -1, 1]), "-x, -y, z"), (lambda p: p[:, [2, 0, 1]], "y, z, x")]
)
def test_different_axes(tmp_path, message, turn, named):
    """A scene of the synthetic set, whose second frame is given in KITTI's camera axes and in the velodyne's."""
    scene = open_part("test", None, 0)[1]
    np.save(tmp_path / "a.npy", scene.pc1 + np.float32([0, 6, 0]))
    np.save(tmp_path / "b.npy", turn(scene.pc2 + np.float32([0, 6, 0])))
    assert message("a.npy", "b.npy") == (
        f"source and target are in different axes: the target's ({named}) fit the "
        "source's (x, y, z); give both in the same"
    )


@pytest.mark.parametrize(
    "out, said",
    [
        ("nowhere/flow.npz", "--out nowhere/flow.npz: its folder does not exist; create it first"),
        ("flow.txt", "--out flow.txt: a flow is written as .npz, .npy, .ply"),
        ("source.npy/flow.npz", "--out source.npy/flow.npz: its folder does not exist; create it first"),
    ],
)
def test_out(tmp_path, message, out, said):
    assert message("source.npy", "target.npy", "--out", tmp_path / out) == said


def test_out_is_a_folder(tmp_path, message):
    (tmp_path / "flow.ply").mkdir()
    assert message("source.npy", "target.npy", "--out", tmp_path / "flow.ply") == (
        "--out flow.ply: cannot be written there"
    )


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere; .ci/container runs this as another user")
def test_out_without_permission(tmp_path, message):
    (tmp_path / "locked").mkdir(mode=0o555)
    assert message("source.npy", "target.npy", "--out", tmp_path / "locked/flow.npz") == (
        "--out locked/flow.npz: cannot be written there"
    )


def test_disk_full(tmp_path, message, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    (tmp_path / "flow.npz").write_bytes(b"an older one")
    assert message() == "cannot write flow.npz: No space left on device"
    assert (tmp_path / "flow.npz").read_bytes() == b"an older one"


def test_flags(message, tmp_path):
    assert message("source.npy", "target.npy", "--axes", "lidar").startswith(
        "argument --axes: invalid choice: 'lidar' (choose from "
    )
    assert message("source.npy", "target.npy", "--num-points", 0) == (
        "argument --num-points: must be a whole number of at least 1, got 0 (see predict.py --help)"
    )
    assert message(net=tmp_path / "nowhere.pt") == "nowhere.pt: no such checkpoint file"
