"""prepare_data.py: exact formulas, resumable, atomic, flat in memory. Unfit input is in test_prepare_bad_input.py."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import prepare_data
from lib.datasets.prepare.images import read_flo, read_pfm, read_png
from lib.datasets.scene_flow import open_scenes
from lib.datasets.scene_flow.transforms import drop_ground, within_depth
from tests.runs import ROOT, environment, launch, run
from tests.scene_flow.raw_files import (
    ft3d_clouds,
    ft3d_files,
    write_flo,
    write_ft3d_frame,
    write_kitti_frame,
    write_pfm,
    write_png,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*the full set has")
FT3D, KITTI = "FlyingThings3D_subset_processed_35m", "KITTI_processed_occ_final"


def clouds(folder):
    return tuple(np.load(folder / name) for name in ("pc1.npy", "pc2.npy"))


def tree(folder):
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def prepare(*arguments):
    assert prepare_data.main([str(argument) for argument in arguments]) == 0


# ---- formulas ----


def test_kitti_gives_the_published_clouds(shared, tmp_path, capsys):
    prepare("kitti", shared / "data/KITTI_scene_flow_2015_raw", tmp_path)
    for frame in ("000002", "000003"):
        made, known = (clouds(base / KITTI / frame) for base in (tmp_path, shared / "data"))
        assert all(cloud.dtype == np.float32 for cloud in made)
        kept = [drop_ground(*pair) & within_depth(*pair, 35.0) for pair in (made, known)]
        assert np.array_equal(*kept)
        for ours, theirs in zip(made, known, strict=True):
            assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1e-5
    assert "points    195,088 in 2 frames, 94,608 to 100,480 a frame" in capsys.readouterr().out
    assert open_scenes("kitti", "all", tmp_path).names == ["kitti/000002", "kitti/000003"]


def test_ft3d_inverse_formulas_come_back(tmp_path):
    raw, pairs = tmp_path / "raw", {name: ft3d_clouds(k) for k, name in enumerate(("train/0000003", "val/0000001"))}
    for name, pair in pairs.items():
        write_ft3d_frame(raw, name, *pair)
    prepare("ft3d", raw, tmp_path / "out")
    for name, pair in pairs.items():
        near = (pair[0][:, 2] > -35) & (pair[1][:, 2] > -35)
        for made, written in zip(clouds(tmp_path / "out" / FT3D / name), pair, strict=True):
            assert made.dtype == np.float32 and made.shape == written[near].shape
            assert np.abs(made - written[near]).max() <= 1e-5
    scene = open_scenes("ft3d", "test", tmp_path / "out")[0]
    assert (scene.pc1[:, 2] > 0).all()


def test_ft3d_real_frames_come_back(shared, tmp_path):
    """Processed frames of the real data set, turned into raw files and prepared again."""
    frames = sorted((shared / "data" / FT3D / "train").iterdir())[:2]
    for k, folder in enumerate(frames):
        write_ft3d_frame(tmp_path / "FlyingThings3D_subset", f"{('train', 'val')[k]}/{folder.name}", *clouds(folder))
    prepare("ft3d", tmp_path, tmp_path / "out")
    for k, folder in enumerate(frames):
        for made, known in zip(
            clouds(tmp_path / "out" / FT3D / ("train", "val")[k] / folder.name), clouds(folder), strict=True
        ):
            assert made.shape == known.shape and np.abs(made - known).max() <= 1e-5


def test_pixels_without_depth_or_too_far_are_left_out(tmp_path):
    pc1, pc2 = ft3d_clouds(4, 50)
    pc1[3], pc2[5, 2] = pc1[3] * (36 / -pc1[3, 2]), -35.5  # beyond 35 m in one of the frames
    for name in ("train/0000000", "val/0000000"):
        write_ft3d_frame(tmp_path, name, pc1, pc2)
    files = ft3d_files(tmp_path, "train/0000000")
    disparity, change, flow = (
        reader(files[piece])
        for reader, piece in ((read_pfm, "disparity"), (read_pfm, "disparity_change"), (read_flo, "flow"))
    )
    d = 1050 / pc1[:, 2].astype(np.float64)
    u, v = np.rint(479.5 - pc1[:, 0] * d).astype(int), np.rint(269.5 + pc1[:, 1] * d).astype(int)
    disparity[v[7], u[7]], change[v[9], u[9]], flow[v[11], u[11]] = 0.0, 1000.0, np.nan
    write_pfm(files["disparity"], disparity)
    write_pfm(files["disparity_change"], change)
    write_flo(files["flow"], flow)
    prepare("ft3d", tmp_path, tmp_path / "out")
    made, _ = clouds(tmp_path / "out" / FT3D / "train/0000000")
    assert np.abs(made - np.delete(pc1, [3, 5, 7, 9, 11], axis=0)).max() <= 1e-5


def test_sixteen_bits_stay_sixteen(tmp_path):
    image = np.random.default_rng(1).integers(0, 2**16, (7, 9, 3)).astype(np.uint16)
    write_png(tmp_path / "rgb.png", image)
    read = read_png(tmp_path / "rgb.png", bits=(16,), channels=3)
    assert read.dtype == np.uint16 and np.array_equal(read, image)


@pytest.mark.parametrize("order", ["<", ">"])
def test_pfm_is_stored_bottom_row_first(tmp_path, order):
    image = np.arange(12, dtype=np.float32).reshape(3, 4) - 5.5
    write_pfm(tmp_path / "d.pfm", image, order)
    assert np.array_equal(read_pfm(tmp_path / "d.pfm"), image)
    assert (tmp_path / "d.pfm").read_bytes()[-16:] == image[0].astype(f"{order}f4").tobytes()


@pytest.mark.parametrize(
    "dataset, reader, folders",
    [
        ("synthetic-things", ("ft3d", "test"), ["train/0000000", "train/0000001", "val/0000000", "val/0000001"]),
        ("synthetic-drive", ("kitti", "all"), ["000000", "000001", "000002"]),
    ],
)
def test_synthetic_sets_are_the_computed_ones(tmp_path, dataset, reader, folders):
    prepare("synthetic", tmp_path, "--dataset", dataset, "--scenes", 3 if "drive" in dataset else 2)
    assert sorted(tree(tmp_path)) == [f"{dataset}/{name}/pc{k}.npy" for name in folders for k in (1, 2)]
    read = open_scenes(*reader, tmp_path / dataset)
    computed = open_scenes(dataset, "train" if reader[0] == "kitti" else "test", num_scenes=3)
    for i in range(len(read)):
        k = int(read.names[i][-6:])
        assert np.array_equal(read[i].pc1, computed[k].pc1) and np.array_equal(read[i].pc2, computed[k].pc2)


# ---- going on, and what is left behind ----


def test_finished_frames_are_checked_and_left(tmp_path, capsys):
    raw, out = tmp_path / "training", tmp_path / "out"
    for k in range(4):
        write_kitti_frame(raw, f"{k:06d}", k)
    prepare("kitti", tmp_path, out)
    whole = tree(out)
    capsys.readouterr()
    damaged = out / KITTI / "000002"
    (damaged / "pc2.npy").write_bytes((damaged / "pc2.npy").read_bytes()[:-5])
    (out / KITTI / "000003/pc1.npy").unlink()
    partial = out / KITTI / ".000003.partial"
    partial.mkdir()
    (partial / "pc1.npy").write_bytes(b"half")
    before = (out / KITTI / "000001/pc1.npy").stat().st_mtime_ns
    prepare("kitti", tmp_path, out)
    assert tree(out) == whole and not partial.exists()
    assert (out / KITTI / "000001/pc1.npy").stat().st_mtime_ns == before
    assert "prepared  2 frames\nskipped   2 finished before," in capsys.readouterr().out


def test_killed_and_started_again_gives_the_same_bytes(tmp_path):
    raw, whole, killed = tmp_path / "training", tmp_path / "whole", tmp_path / "killed"
    for k in range(200):
        write_kitti_frame(raw, f"{k:06d}", k)
    prepare("kitti", raw, whole, "--workers", 2)
    process = launch("prepare_data.py", "kitti", raw, killed, "--workers", 2)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(killed.glob(f"{KITTI}/0*"))) < 20:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = {path.name for path in killed.glob(f"{KITTI}/0*")}
    assert 20 <= len(finished) < 200
    for name in finished:  # whatever the moment, a frame that is there is whole
        assert tree(killed / KITTI / name) == tree(whole / KITTI / name)
    again = run("prepare_data.py", "kitti", raw, killed, "--workers", 2)
    assert again.returncode == 0, again.stderr
    assert f"prepared  {200 - len(finished)} frames\nskipped   {len(finished)} finished before" in again.stdout
    assert tree(killed) == tree(whole)


def test_interrupted(tmp_path):
    """Ctrl-C: the frames begun are finished, no other is started, no part of one is left."""
    raw, out = tmp_path / "training", tmp_path / "out"
    for k in range(200):
        write_kitti_frame(raw, f"{k:06d}", k)
    process = launch("prepare_data.py", "kitti", raw, out, "--workers", 2)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(out.glob(f"{KITTI}/0*"))) < 20:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error == "interrupted\n"
    assert 20 <= len(list(out.glob(f"{KITTI}/0*"))) < 200
    assert not list(out.rglob("*.partial"))


def test_memory_is_flat(tmp_path):
    """Full-size frames: the peak of 200 is that of 20, but for a margin far below what one frame in ten would take."""
    write_ft3d_frame(tmp_path / "one", "train/0000000", *ft3d_clouds(0, 100_000))
    peaks = []
    for count in (20, 200):
        raw = tmp_path / f"raw{count}"
        for split in ("train", "val"):
            for k in range(count if split == "train" else 1):
                for piece, path in ft3d_files(raw, f"{split}/{k:07d}").items():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    os.link(ft3d_files(tmp_path / "one", "train/0000000")[piece], path)
        code = (
            f"import prepare_data, resource; prepare_data.main(['ft3d', {str(raw)!r}, {str(raw / 'out')!r}, "
            f"'--workers', '2']); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        assert f"prepared  {count + 1} frames" in made.stdout
        peaks.append(int(made.stdout.split()[-1]) / 1024)  # MiB
    assert peaks[1] < peaks[0] + 40


def test_incomplete_frames_are_named_and_left_out(tmp_path, capsys):
    for k in range(3):
        write_kitti_frame(tmp_path / "training", f"{k:06d}", k)
    missing = tmp_path / "training/disp_occ_1/000001_10.png"
    missing.unlink()
    with pytest.warns(UserWarning) as caught:
        prepare("kitti", tmp_path, tmp_path / "out")
    assert [str(warning.message) for warning in caught] == [
        f"{missing.parent} lacks 1 of 3 frames, the first is {missing.name}: these are left out; "
        "extract data_scene_flow.zip again to have them"
    ]
    assert "skipped   0 finished before, 1 with pieces missing from the download, 0 unfit" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out" / KITTI).iterdir()) == ["000000", "000002"]
