"""predict.py with a LiDAR detector: one scan, a folder, and one line for every mistake."""

import json

import numpy as np
import pytest
import torch

from lib.datasets.kitti_object import read_labels
from lib.datasets.kitti_object.frames import write_calibration
from lib.datasets.synthetic_street import SyntheticStreet
from lib.predict.box_files import read_boxes
from lib.training.checkpoint import save_checkpoint
from models import load_model
from tests.lidar.detectors import save_detector
from tests.predicting import call, message


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_detector(tmp_path_factory.mktemp("net") / "net.pt")


@pytest.fixture(scope="module")
def frames():
    return SyntheticStreet("test", 2)


@pytest.fixture
def scan(tmp_path, frames):
    frames[0].points.tofile(tmp_path / "scan.bin")
    return tmp_path / "scan.bin"


@pytest.fixture
def calib(tmp_path, frames):
    write_calibration(tmp_path / "calib.txt", frames[0].calibration)
    return tmp_path / "calib.txt"


def test_one_scan_in_every_format(scan, calib, checkpoint, tmp_path, capsys):
    call(scan, "--checkpoint", checkpoint, "--out", tmp_path / "a.json")
    said = capsys.readouterr()
    assert said.err == "" and "axes     velodyne (x forward, y left, z up)\n" in said.out
    content, found = json.loads((tmp_path / "a.json").read_text()), read_boxes(tmp_path / "a.json")
    assert content["cloud"] == "scan.bin" and content["network"] == "pointpillars-small-16x" and len(found.scores) > 3
    assert f"{len(found.scores)} Car; best score {found.scores[0]:.2f}" in said.out

    view = ["--calib", calib, "--image", "1242x375"]
    call(scan, "--checkpoint", checkpoint, "--out", tmp_path / "a.txt", *view)
    lines = read_labels(tmp_path / "a.txt", scores=True)
    assert 0 < len(lines) <= len(found.scores) and {line.type for line in lines} == {"Car"}
    call(scan, "--checkpoint", checkpoint, "--out", tmp_path / "a.ply")
    assert (tmp_path / "a.ply").read_bytes().startswith(b"ply\n")

    middle = float(found.scores[len(found.scores) // 2])
    call(scan, "--checkpoint", checkpoint, "--out", tmp_path / "b.json", "--score", middle)
    assert 0 < len(read_boxes(tmp_path / "b.json").scores) < len(found.scores)


def test_a_folder_goes_on_where_it_stopped(frames, checkpoint, tmp_path, capsys):
    folder, calibs, out = tmp_path / "scans", tmp_path / "calib", tmp_path / "out"
    folder.mkdir()
    calibs.mkdir()
    for frame in frames:
        frame.points.tofile(folder / f"{frame.name}.bin")
        write_calibration(calibs / f"{frame.name}.txt", frame.calibration)
    flags = ["--batch", folder, "--checkpoint", checkpoint, "--out", out, "--calib", calibs, "--image", "1242x375"]
    call(*flags, "--format", "txt")
    assert "scans    2 predicted, 0 finished before\n" in capsys.readouterr().out
    files = sorted(out.glob("*.txt"))
    assert [file.stem for file in files] == frames.names and all(read_labels(file, scores=True) for file in files)
    files[1].unlink()
    call(*flags, "--format", "txt")
    assert f"{frames.names[0]}.bin: finished before\n{frames.names[1]}.bin: " in capsys.readouterr().out
    assert files[1].exists()
    said = message(capsys, *flags, "--format", "txt", "--score", 0.9)
    assert said == f"--out {out}: its boxes were made with another score; choose another folder"
    (folder / f"{frames.names[1]}.bin").write_bytes(b"\0" * 15)
    said = message(capsys, *flags[:-6], "--out", tmp_path / "other")
    assert said.startswith(f"{folder}/{frames.names[1]}.bin has 15 bytes, no multiple of 16")


def test_what_looks_wrong_is_said(frames, checkpoint, tmp_path, capsys):
    high = frames[0].points + np.float32((0, 0, 0.9, 0))
    np.save(tmp_path / "high.npy", high)
    call(tmp_path / "high.npy", "--checkpoint", checkpoint, "--out", tmp_path / "a.json")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the ground seems to lie at z = -0.8") and line.endswith("--ground-height -0.8")
    call(tmp_path / "high.npy", "--checkpoint", checkpoint, "--out", tmp_path / "b.json", "--ground-height", -0.83)
    assert capsys.readouterr().err == ""
    np.save(tmp_path / "low.npy", frames[0].points)
    call(tmp_path / "low.npy", "--checkpoint", checkpoint, "--out", tmp_path / "c.json")
    raised, plain = read_boxes(tmp_path / "b.json"), read_boxes(tmp_path / "c.json")
    assert raised.boxes[0, 2] - plain.boxes[0, 2] == pytest.approx(0.9, abs=0.01)


MISTAKES = {
    "": "give SCAN, or a folder of frames with --batch",
    "{scan} --batch {tmp}": "--batch takes the frames from its folder: leave out SCAN",
    "{scan} --out {tmp}/a.npz": "--out {tmp}/a.npz: boxes are written as .json, .txt, .ply",
    "{scan} --out {tmp}/no/a.json": "--out {tmp}/no/a.json: its folder does not exist; create it first",
    "{scan} --out {tmp}/a.txt": "KITTI's result lines (.txt) need --calib and --image",
    "--batch {tmp} --format txt --out {tmp}/out": "KITTI's result lines (.txt) need --calib and --image",
    "{scan} --out {tmp}/a.txt --calib {tmp}/c.txt": "--calib and --image belong together: give both or neither",
    "{scan} --format ply": "--format is for --batch: the ending of --out says the format of one file",
    "{scan} --out {tmp}/a.txt --calib {tmp}/c.txt --image 1242x375": "{tmp}/c.txt cannot be read (No such file or dir",
    "{tmp}/none.bin": "no file {tmp}/none.bin",
    "{tmp}/three.npy": "{tmp}/three.npy has no reflectance (intensity), which the detectors need: export it too, or",
    "{tmp}/nan.bin": "{tmp}/nan.bin has NaN or infinity in 2 of 9 points, the first is point 3: remove them",
    "{scan} --axes kitti-camera": "no point lies where the network looks (x 0 to 35.84, y -17.92 to 17.92, z -3 to 1",
    "--batch {tmp}/empty --out {tmp}/out": "--batch {tmp}/empty: it holds no cloud; the formats are .npy, .npz,",
    "--batch {tmp}/nowhere --out {tmp}/out": "--batch {tmp}/nowhere: no such folder",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(flags, frames, scan, checkpoint, tmp_path, capsys):
    points = frames[0].points[:9].copy()
    np.save(tmp_path / "three.npy", points[:, :3])
    points[3:5] = np.nan
    points.tofile(tmp_path / "nan.bin")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    places = {"tmp": tmp_path, "scan": scan}
    given = flags.format(**places).split()
    out = [] if "--out" in given or not given else ["--out", tmp_path / "made.json"]
    assert message(capsys, *given, *out, "--checkpoint", checkpoint).startswith(MISTAKES[flags].format(**places))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "spoilt, said", [("boxes", "rotated_nms: boxes"), ("scores", "the network's output is not fi")]
)
def test_unusable_weights_are_said(scan, tmp_path, capsys, spoilt, said):
    """Sizes of e^200 m have no place in float32; a score of nan is not the same as nothing found."""
    net = load_model(save_detector(tmp_path / "bad.pt"), torch.device("cpu"))
    with torch.no_grad():
        net.head.boxes.bias[:] = 200.0
        if spoilt == "scores":
            net.head.scores.weight[:] = 3e38
            net.head.scores.bias[:] = -3e38
    save_checkpoint(tmp_path / "bad.pt", net, {})
    line = message(capsys, scan, "--checkpoint", tmp_path / "bad.pt", "--out", tmp_path / "a.json")
    assert line.startswith(f"{tmp_path}/bad.pt cannot be used on this scan ({said}")
    assert line.endswith("): are its weights finite?") and not (tmp_path / "a.json").exists()
