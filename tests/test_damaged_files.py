"""Files damaged at random: each reads, or is refused in one line that names it. No other exception, and no hang."""

import tokenize
from collections.abc import Callable
from pathlib import Path

import laspy
import numpy as np
import pypcd4
import pytest
import trimesh

from lib.clouds.files import encode_flow, read_cloud, read_flow
from lib.datasets.prepare.images import read_flo, read_pfm, read_png
from lib.datasets.prepare.kitti import read_calibration
from lib.datasets.scene_flow import processed
from lib.errors import InputError
from models import load_model
from models.files import read_checkpoint
from tests.runs import save_teacher
from tests.scene_flow.raw_files import P_RECT_02, write_flo, write_pfm, write_png

CASES = 30  # of each sort of file
POINTS = 60
HEADER = 200  # bytes; half of the damage is done in them, since a header is where a reader goes astray

Writer = Callable[[Path], object]
Reader = Callable[[Path], object]


def cloud() -> np.ndarray:
    return np.random.default_rng(0).uniform((-8, -1, 4), (8, 4, 30), (POINTS, 3)).astype(np.float32)


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 200, shape)


def ply(encoding: str) -> Writer:
    return lambda path: path.write_bytes(trimesh.exchange.ply.export_ply(trimesh.PointCloud(cloud()), encoding))


def pcd(encoding: pypcd4.Encoding) -> Writer:
    return lambda path: pypcd4.PointCloud.from_xyz_points(np.tile(cloud()[:20], (3, 1))).save(path, encoding=encoding)


def las(path: Path) -> None:
    file = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
    file.xyz = cloud()
    file.write(path)


def table(separator: str, header: str) -> Writer:
    return lambda path: np.savetxt(path, cloud(), delimiter=separator, header=header, comments="")


FILES: dict[str, tuple[Writer, Reader]] = {
    "scene.npy": (lambda path: np.save(path, cloud()), processed.read_cloud),
    "cloud.npy": (lambda path: np.save(path, cloud().astype(np.float64)), read_cloud),
    "cloud.npz": (lambda path: np.savez(path, xyz=cloud(), more=cloud()), read_cloud),
    "packed.npz": (lambda path: np.savez_compressed(path, cloud()), read_cloud),
    "flow.npz": (lambda path: path.write_bytes(encode_flow(".npz", cloud(), cloud())), read_flow),
    "ascii.ply": (ply("ascii"), read_cloud),
    "binary.ply": (ply("binary"), read_cloud),
    "flow.ply": (lambda path: path.write_bytes(encode_flow(".ply", cloud(), cloud())), read_cloud),
    "ascii.pcd": (pcd(pypcd4.Encoding.ASCII), read_cloud),
    "binary.pcd": (pcd(pypcd4.Encoding.BINARY), read_cloud),
    "compressed.pcd": (pcd(pypcd4.Encoding.BINARY_COMPRESSED), read_cloud),
    "cloud.las": (las, read_cloud),
    "cloud.laz": (las, read_cloud),
    "cloud.txt": (table(" ", "# metres"), read_cloud),
    "cloud.xyz": (table("\t", ""), read_cloud),
    "cloud.csv": (table(",", "x,y,z"), read_cloud),
    "cloud.bin": (lambda path: np.pad(cloud(), ((0, 0), (0, 1))).tofile(path), read_cloud),
    "disparity.pfm": (lambda path: write_pfm(path, image(9, 7)), read_pfm),
    "flow.flo": (lambda path: write_flo(path, image(9, 7, 2)), read_flo),
    "hidden.png": (
        lambda path: write_png(path, image(9, 7).astype(np.uint8)),
        lambda path: read_png(path, bits=(1, 8), channels=1),
    ),
    "flow.png": (
        lambda path: write_png(path, image(9, 7, 3).astype(np.uint16)),
        lambda path: read_png(path, bits=(16,), channels=3),
    ),
    "calibration.txt": (
        lambda path: path.write_text(f"calib_time: 09-Jan-2012 13:57:47\n{P_RECT_02}\n"),
        read_calibration,
    ),
    "checkpoint.pt": (save_teacher, read_checkpoint),
    "network.pt": (save_teacher, load_model),
}


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """The content with a few bytes replaced, turned, left out or put in, or cut short."""
    changed = bytearray(content)
    end = len(changed) if rng.random() < 0.5 else min(HEADER, len(changed))
    place, count, kind = int(rng.integers(end)), int(rng.integers(1, 9)), rng.integers(5)
    if kind == 0:
        for k in rng.integers(end, size=count):
            changed[k] = rng.integers(256)
    elif kind == 1:
        for k in rng.integers(end, size=count):
            changed[k] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del changed[place:]
    elif kind == 3:
        del changed[place : place + count]
    else:
        changed[place:place] = rng.bytes(count)
    return bytes(changed)


def refusal(path: Path, read: Reader) -> str | None:
    """The line that refuses a file, None for one that reads. Fails on any other exception, and on another message."""
    try:
        read(path)
    except InputError as error:
        line = str(error)
        assert str(path) in line and line.isprintable(), f"not one line that names the file: {line!r}"
        return line
    return None


@pytest.mark.filterwarnings("ignore")  # numpy and torch speak of what they find in such files
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_reads_or_is_refused_in_one_line(tmp_path, name):
    write, read = FILES[name]
    path = tmp_path / name
    write(path)
    assert refusal(path, read) is None
    content = path.read_bytes()
    rng = np.random.default_rng([8, *name.encode()])
    refused = 0
    for _ in range(CASES):
        path.write_bytes(damaged(rng, content))
        refused += refusal(path, read) is not None
    assert refused > CASES // 4  # the damage is no formality


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("read", [processed.read_cloud, read_cloud])
def test_numpy_header_that_cannot_be_mended(tmp_path, read):
    """numpy takes such a header for one of Python 2, and its attempt to mend it raises TokenError."""
    path = tmp_path / "cloud.npy"
    np.save(path, cloud())
    path.write_bytes(path.read_bytes().replace(b"(60, 3)", b"(60, 3 "))
    with pytest.raises(tokenize.TokenError):
        np.load(path, allow_pickle=False)
    assert refusal(path, read) == (
        f"{path} is not a complete .npy file; save it again with numpy.save as float32 of shape (n, 3)"
    )


@pytest.mark.parametrize(
    "suffix, place, value, said",
    [
        ("las", 100, 2**32 - 1, " or no LAS file: copy or export it again"),  # records: laspy would read for hours
        ("laz", 96, 2**31, " or no LAS file: copy or export it again"),  # where the points begin
        ("laz", 107, 2**32 - 1, " or no LAS file: copy or export it again"),  # points, 86 GB of them
        ("las", 107, 2**32 - 1, ": its header promises 4294967295 points, the file has 60"),
    ],
)
def test_las_header_that_promises_too_much(tmp_path, suffix, place, value, said):
    path = tmp_path / f"cloud.{suffix}"
    las(path)
    content = bytearray(path.read_bytes())
    content[place : place + 4] = value.to_bytes(4, "little")
    path.write_bytes(content)
    assert refusal(path, read_cloud) == f"{path} is damaged{said}"


def test_laz_table_and_items_are_checked(tmp_path):
    """lazrs would end the process: for want of memory for the table, or in a panic over items of another size."""
    path = tmp_path / "cloud.laz"
    las(path)
    content = path.read_bytes()
    start = int.from_bytes(content[96:100], "little")
    table = int.from_bytes(content[start : start + 8], "little")
    chunks = content[: table + 4] + (2**31).to_bytes(4, "little") + content[table + 8 :]
    items = content.replace(bytes((6, 0, 20, 0)), bytes((6, 0, 19, 0)))
    assert items != content
    for changed, said in ((chunks, "its table of chunks is wrong"), (items, "what it packs is not its point format")):
        path.write_bytes(changed)
        assert refusal(path, read_cloud) == f"{path} is damaged: {said}: copy or export it again"


def test_a_message_repeats_no_control_characters(tmp_path):
    path = tmp_path / "cloud.pcd"
    pcd(pypcd4.Encoding.BINARY)(path)
    path.write_bytes(path.read_bytes().replace(b"TYPE F F", b"TYPE F \x1b\x07"))
    assert refusal(path, read_cloud) == (
        f"{path}: its field y has type ??, size 4 and count 1, which PCD does not know"
    )
