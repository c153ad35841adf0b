"""Every unfit download gets one line that names the file and the fix, and leaves no part of a frame behind."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import prepare_data
from lib.cli import run_script
from tests.scene_flow.raw_files import (
    ft3d_clouds,
    ft3d_files,
    write_flo,
    write_ft3d_frame,
    write_kitti_frame,
    write_pfm,
    write_png,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*lacks")
FRAMES = {"kitti": "000000", "ft3d": "train/0000000"}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("raw")
    write_kitti_frame(base / "kitti/training", "000000", 0)
    for name in ("train/0000000", "val/0000000"):
        write_ft3d_frame(base / "ft3d", name, *ft3d_clouds(0))
    return base


@pytest.fixture
def raw(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "raw"))


def message(capsys, *arguments) -> str:
    """The one line on standard error of a script that ends with status 2."""
    with pytest.raises(SystemExit) as end:
        run_script(lambda: prepare_data.main([str(argument) for argument in arguments]))
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    return error.removeprefix("error: ").rstrip("\n")


def unfit(capsys, source: str, raw: Path) -> str:
    """Why the only broken frame was left out, as the last line says; nothing of it may be left."""
    out = raw.parent / "out"
    text = message(capsys, source, raw / source, out)
    assert not list(out.rglob(FRAMES[source])) and not list(out.rglob("*.partial"))
    head, why = text.split(": ", 1)
    assert head == f"1 of {1 if source == 'kitti' else 2} frames could not be prepared, the first is {FRAMES[source]}"
    return why


def kitti_file(raw: Path, folder: str) -> Path:
    return raw / "kitti/training" / folder / ("000000.txt" if folder.startswith("calib") else "000000_10.png")


def ft3d_file(raw: Path, piece: str) -> Path:
    return ft3d_files(raw / "ft3d", "train/0000000")[piece]


# ---- the download as a whole ----


@pytest.mark.parametrize(
    "folder, archive",
    [
        ("disp_occ_0", "data_scene_flow.zip"),
        ("disp_occ_1", "data_scene_flow.zip"),
        ("flow_occ", "data_scene_flow.zip"),
        ("calib_cam_to_cam", "data_scene_flow_calib.zip"),
    ],
)
def test_missing_kitti_archive(raw, tmp_path, capsys, folder, archive):
    shutil.rmtree(raw / "kitti/training" / folder)
    assert message(capsys, "kitti", raw / "kitti", tmp_path / "out") == (
        f"{raw / 'kitti/training'} lacks {folder} (from {archive}): download and extract what is missing there"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("piece", ["disparity", "disparity_occlusions", "disparity_change", "flow", "flow_occlusions"])
def test_missing_ft3d_archive(raw, tmp_path, capsys, piece):
    folder = ft3d_file(raw, piece).parent
    shutil.rmtree(folder)
    assert message(capsys, "ft3d", raw / "ft3d", tmp_path / "out") == (
        f"{raw / 'ft3d/train'} lacks {folder.relative_to(raw / 'ft3d/train')} (from FlyingThings3D_subset_{piece}"
        ".tar.bz2): download and extract what is missing there"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split, other", [("train", "val"), ("val", "train")])
@pytest.mark.parametrize("empty", [False, True])
def test_one_split_is_enough(raw, tmp_path, capsys, split, other, empty):
    shutil.rmtree(raw / "ft3d" / other)
    if empty:
        (raw / "ft3d" / other).mkdir()
    with pytest.warns(UserWarning) as caught:
        assert prepare_data.main(["ft3d", str(raw / "ft3d"), str(tmp_path / "out")]) == 0
    assert [str(warning.message) for warning in caught] == [
        f"{raw / 'ft3d'} holds no frames of {other}: only {split} is prepared; extract the five archives of {other} "
        "there to have both"
    ]
    out = tmp_path / "out/FlyingThings3D_subset_processed_35m"
    assert [str(path.relative_to(out)) for path in out.glob("*/*")] == [f"{split}/0000000"]
    assert "prepared  1 frames\nskipped   0 finished before, 0 with pieces missing" in capsys.readouterr().out


def test_no_split(raw, tmp_path, capsys):
    shutil.rmtree(raw / "ft3d")
    (raw / "ft3d/val").mkdir(parents=True)
    text = message(capsys, "ft3d", raw / "ft3d", tmp_path / "out")
    assert text.startswith(f"{raw / 'ft3d/train'} lacks disparity/left (from FlyingThings3D_subset_disparity.tar.bz2),")
    assert text.count("FlyingThings3D_subset_") == 5


def test_no_frame_is_complete(raw, tmp_path, capsys):
    kitti_file(raw, "calib_cam_to_cam").rename(kitti_file(raw, "calib_cam_to_cam").with_name("000007.txt"))
    assert message(capsys, "kitti", raw / "kitti", tmp_path / "out") == (
        f"{raw / 'kitti/training'}: no frame has all its pieces; extract the archives again"
    )


def test_wrong_folders(raw, tmp_path, capsys):
    assert message(capsys, "kitti", raw / "nowhere", tmp_path) == (
        f"no folder {raw / 'nowhere'}: give the folder that the archives of KITTI Scene Flow 2015 (folder training) "
        "were extracted into"
    )
    assert message(capsys, "ft3d", raw / "kitti", tmp_path) == (
        f"{raw / 'kitti'} does not hold the FlyingThings3D subset (folders train and val): give the folder that its "
        "archives were extracted into"
    )


def test_out_cannot_be_written(raw, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert message(capsys, "kitti", raw / "kitti", tmp_path / "file") == (
        f"cannot make the folder {tmp_path / 'file/KITTI_processed_occ_final'}: Not a directory"
    )


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere; .ci/container runs this as another user")
def test_out_without_permission(raw, tmp_path, capsys):
    (tmp_path / "locked").mkdir(mode=0o555)
    out = tmp_path / "locked/out"
    assert message(capsys, "kitti", raw / "kitti", out) == (
        f"cannot make the folder {out / 'KITTI_processed_occ_final'}: Permission denied"
    )


def test_disk_full(raw, tmp_path, capsys, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lib.datasets.prepare.frames.os.fsync", full)
    frame = tmp_path / "out/KITTI_processed_occ_final/000000"
    assert message(capsys, "kitti", raw / "kitti", tmp_path / "out") == (
        f"cannot write {frame}: No space left on device; what is finished stays, start again to go on"
    )
    assert not list(frame.parent.iterdir())


@pytest.mark.parametrize(
    "arguments, said",
    [
        (
            ("synthetic", "OUT", "--dataset", "synthetic-drive", "--scenes", 201),
            "KITTI's layout has 200 frames: synthetic-drive is written for at most as many scenes, not 201",
        ),
        (
            ("synthetic", "OUT", "--scenes", 0),
            "argument --scenes: must be a whole number of at least 1, got 0 (see prepare_data.py synthetic --help)",
        ),
        (("synthetic", "OUT"), "the following arguments are required: --scenes (see prepare_data.py synthetic --help)"),
        (
            ("kitti", "RAW", "OUT", "--workers", "0"),
            "argument --workers: must be a whole number of at least 1, got 0 (see prepare_data.py kitti --help)",
        ),
    ],
)
def test_flags(tmp_path, capsys, arguments, said):
    assert message(capsys, *arguments) == said


# ---- files of one frame ----


def test_png_of_eight_bits(raw, capsys):
    path = kitti_file(raw, "flow_occ")
    write_png(path, (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) >> 8).astype(np.uint8))
    assert unfit(capsys, "kitti", raw) == (
        f"{path} is a PNG of 8 bits and 3 channel(s), not of 16 bits and 3 "
        "channel(s): it was converted, extract or download it again"
    )


def test_png_of_one_channel(raw, capsys):
    path = kitti_file(raw, "flow_occ")
    write_png(path, np.zeros((40, 120), np.uint16))
    assert unfit(capsys, "kitti", raw) == (
        f"{path} is a PNG of 16 bits and 1 channel(s), not of 16 bits and 3 "
        "channel(s): it was converted, extract or download it again"
    )


def test_png_cut_short(raw, capsys):
    path = kitti_file(raw, "disp_occ_0")
    path.write_bytes(path.read_bytes()[:-40])
    assert unfit(capsys, "kitti", raw) == f"{path} is a PNG cut short: extract or download it again"


def test_png_with_a_flipped_bit(raw, capsys):
    path = kitti_file(raw, "disp_occ_1")
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    assert unfit(capsys, "kitti", raw) == (
        f"{path} is a damaged PNG (the checksum of its part 'IDAT' is wrong): extract or download it again"
    )


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_not_a_png(raw, capsys, content):
    path = kitti_file(raw, "flow_occ")
    path.write_bytes(content)
    assert unfit(capsys, "kitti", raw) == f"{path} is not a PNG file: extract or download it again"


def test_images_of_different_sizes(raw, capsys):
    path = kitti_file(raw, "disp_occ_1")
    write_png(path, np.zeros((40, 121), np.uint16))
    assert unfit(capsys, "kitti", raw) == f"{path} is 121 x 40 px, expected 120 x 40"


def test_no_valid_pixel(raw, capsys):
    write_png(kitti_file(raw, "disp_occ_1"), np.zeros((40, 120), np.uint16))
    assert unfit(capsys, "kitti", raw) == (
        f"{raw / 'kitti/training'} frame 000000: no pixel is valid in both disparities and the flow"
    )


@pytest.mark.parametrize(
    "content",
    [
        "P_rect_00: 1 2 3\n",
        "P_rect_02: 7e2 0 6e2 4e1\n",
        "P_rect_02: a b\n",
        "P_rect_02: nan 0 0 0 0 nan 0 0 0 0 1 0\n",
    ],
)
def test_unfit_calibration(raw, capsys, content):
    path = kitti_file(raw, "calib_cam_to_cam")
    path.write_text(content)
    assert unfit(capsys, "kitti", raw) == (
        f"{path} has no line P_rect_02 of 12 numbers with one focal length: extract data_scene_flow_calib.zip again"
    )


def test_pfm_cut_short(raw, capsys):
    path = ft3d_file(raw, "disparity")
    path.write_bytes(path.read_bytes()[:-7])
    assert unfit(capsys, "ft3d", raw) == (
        f"{path} is damaged: its header says 960 x 540 px, that is 2073600 bytes, "
        "and 2073593 follow: extract or download it again"
    )


@pytest.mark.parametrize(
    "content, said",
    [
        (b"Pf\n960 5", "is not a complete PFM file"),
        (b"Pf\n960 x\n-1\n1234", "is not a complete PFM file"),
        (b"PF\n1 1\n-1\n123412341234", "is not a PFM file of one channel (its first line is not Pf)"),
    ],
)
def test_not_a_pfm(raw, capsys, content, said):
    path = ft3d_file(raw, "disparity_change")
    path.write_bytes(content)
    assert unfit(capsys, "ft3d", raw) == f"{path} {said}: extract or download it again"


def test_not_a_flo(raw, capsys):
    path = ft3d_file(raw, "flow")
    path.write_bytes(b"PIEG" + path.read_bytes()[4:])
    assert unfit(capsys, "ft3d", raw) == (
        f"{path} is not a FLO file (it does not begin with PIEH and a size): extract or download it again"
    )


def test_flo_cut_short(raw, capsys):
    path = ft3d_file(raw, "flow")
    path.write_bytes(path.read_bytes()[:1000])
    assert unfit(capsys, "ft3d", raw) == (
        f"{path} is damaged: its header says 960 x 540 px, that is 4147200 bytes, "
        "and 988 follow: extract or download it again"
    )


def test_another_image_size(raw, capsys):
    path = ft3d_file(raw, "flow")
    write_flo(path, np.zeros((5, 6, 2)))
    assert unfit(capsys, "ft3d", raw) == f"{path} is 6 x 5 px, expected 960 x 540"


def test_disparities_of_another_release(raw, capsys):
    path = ft3d_file(raw, "disparity")
    write_pfm(path, np.full((540, 960), 300.0))
    assert unfit(capsys, "ft3d", raw) == (
        f"{path}: no visible pixel has a negative disparity; the subset's left "
        "disparities are negative, so these files are of another release"
    )


def test_everything_hidden(raw, capsys):
    write_png(ft3d_file(raw, "flow_occlusions"), np.full((540, 960), 255, np.uint8))
    assert unfit(capsys, "ft3d", raw) == (
        f"{raw / 'ft3d/train'} frame 0000000: no pixel is visible in both frames and nearer than 35 m"
    )
