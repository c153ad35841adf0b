"""predict.py --batch on a folder of frames, and --rigid."""

import json
import re
import signal
import time

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tests.predicting import call, message
from tests.runs import launch, save_teacher

FRAMES = 4
POINTS = 200


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("net") / "narrow.pt")


@pytest.fixture
def frames(tmp_path):
    """A folder of velodyne scans whose order by name is not that of writing, beside what is no frame."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for k in reversed(range(FRAMES)):
        np.column_stack([scan(k), np.zeros(POINTS)]).astype("<f4").tofile(folder / f"{k:010d}.bin")
    (folder / ".0000000009.bin").write_bytes(b"hidden")
    (folder / "notes.md").write_text("no cloud\n")
    return folder


def scan(k, points=POINTS):
    """Points in front of the sensor, metres: x forward, y left, z up."""
    return np.random.default_rng(k).uniform((4, -8, -1), (30, 8, 4), (points, 3)).astype(np.float32)


def flags(frames, checkpoint, out):
    return ["--batch", frames, "--checkpoint", checkpoint, "--axes", "velodyne", "--out", out]


# ---- sequences ----


def test_each_frame_to_the_next(frames, checkpoint, tmp_path, capsys):
    """The same flows as pair by pair, a line with the time for each."""
    out = tmp_path / "flows"
    call(*flags(frames, checkpoint, out))
    lines = capsys.readouterr().out.splitlines()
    names = [f"{k:010d}" for k in range(FRAMES)]
    assert sorted(path.name for path in out.iterdir()) == [*(f"{name}.npz" for name in names[:-1]), "settings.json"]
    for k in range(FRAMES - 1):
        assert re.fullmatch(
            rf"{names[k]}\.bin -> {names[k + 1]}\.bin: median \d+\.\d{{4}} m, largest \d+\.\d{{4}} m; "
            r"\d+\.\d{3} s",
            lines[1 + k],
        )
        call(
            frames / f"{names[k]}.bin",
            frames / f"{names[k + 1]}.bin",
            "--checkpoint",
            checkpoint,
            "--axes",
            "velodyne",
            "--out",
            tmp_path / "one.npz",
        )
        with np.load(out / f"{names[k]}.npz") as many, np.load(tmp_path / "one.npz") as one:
            assert many.files == one.files == ["source", "flow"]
            assert all(np.array_equal(many[name], one[name]) for name in one.files)
    assert lines[-3] == "pairs    3 predicted, 0 finished before"
    assert re.fullmatch(r"time     \d+\.\d{3} s a pair, the median \(network and interpolation, cpu\)", lines[-2])


def test_started_again_it_goes_on(frames, checkpoint, tmp_path, capsys):
    """Whole flows of these frames are left; damaged ones, missing ones and those of another source are made."""
    out = tmp_path / "flows"
    call(*flags(frames, checkpoint, out))
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    first, second, third = sorted(out.glob("*.npz"))
    time_before = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:-99])
    with np.load(first) as other:
        np.savez(third, **other)
    capsys.readouterr()
    call(*flags(frames, checkpoint, out))
    printed = capsys.readouterr().out
    assert "0000000000.bin -> 0000000001.bin: finished before\n" in printed
    assert "pairs    2 predicted, 1 finished before\n" in printed
    assert first.stat().st_mtime_ns == time_before
    flows = {name: np.load(out / name)["flow"] for name in whole if name.endswith(".npz")}
    for name, content in whole.items():
        if name.endswith(".npz"):
            (tmp_path / name).write_bytes(content)
            assert np.array_equal(flows[name], np.load(tmp_path / name)["flow"])
    capsys.readouterr()
    call(*flags(frames, checkpoint, out))
    assert "pairs    0 predicted, 3 finished before\nwritten  " in capsys.readouterr().out
    last = frames / f"{FRAMES - 1:010d}.bin"
    last.write_bytes(last.read_bytes())  # newer than its flow
    call(*flags(frames, checkpoint, out))
    assert "pairs    1 predicted, 2 finished before\n" in capsys.readouterr().out


def test_killed_it_leaves_whole_files(checkpoint, tmp_path):
    folder, out = tmp_path / "frames", tmp_path / "flows"
    folder.mkdir()
    for k in range(60):
        np.save(folder / f"{k:03d}.npy", scan(k))
    process = launch("predict.py", *flags(folder, checkpoint, out), "--device", "cpu")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(out.glob("*.npz"))) < 3:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = sorted(out.glob("*.npz"))
    assert 3 <= len(finished) < 59
    for path in finished:
        with np.load(path) as file:
            assert np.array_equal(file["source"], np.load(folder / f"{path.stem}.npy"))
            assert file["flow"].shape == (POINTS, 3)


def test_other_settings_do_not_mix(frames, checkpoint, tmp_path, capsys):
    out = tmp_path / "flows"
    call(*flags(frames, checkpoint, out))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    other = save_teacher(tmp_path / "other.pt", seed=4)
    for changed, named in (
        (["--num-points", 150], "num_points"),
        (["--rigid"], "rigid"),
        (["--checkpoint", other, "--axes", "as-is"], "checkpoint and another axes"),
    ):
        assert message(capsys, *flags(frames, checkpoint, out), *changed) == (
            f"--out {out}: its flows were made with another {named}; choose another folder"
        )
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "settings.json").write_text(json.dumps([1]))
    assert message(capsys, *flags(frames, checkpoint, out)) == (
        f"{out / 'settings.json'} is damaged: choose another folder with --out"
    )


def test_an_unfit_frame_stops_the_sequence_and_is_named(frames, checkpoint, tmp_path, capsys):
    out = tmp_path / "flows"
    bad = frames / "0000000002.bin"
    good = bad.read_bytes()
    bad.write_bytes(good[:-3])
    assert message(capsys, *flags(frames, checkpoint, out)) == (
        f"{bad} has 3197 bytes, no multiple of 16: .bin is KITTI's format, float32 x y z intensity for each point"
    )
    assert sorted(path.name for path in out.iterdir()) == ["0000000000.npz", "settings.json"]
    (10 * np.frombuffer(good, "<f4")).tofile(bad)
    assert message(capsys, *flags(frames, checkpoint, out)) == (
        "0000000001.bin -> 0000000002.bin: the target is 9.96 times as large as the source: give both in metres"
    )
    bad.write_bytes(good)
    call(*flags(frames, checkpoint, out))
    assert "pairs    2 predicted, 1 finished before" in capsys.readouterr().out


def test_warnings_name_the_pair(frames, checkpoint, tmp_path, capsys):
    arguments = flags(frames, checkpoint, tmp_path / "flows")
    call(*arguments, "--axes", "as-is")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 * (FRAMES - 1)
    assert re.fullmatch(
        r"warning: 0000000000\.bin -> 0000000001\.bin: \d+ % of the source's points have a depth of 0 "
        r"or less with --axes as-is: --axes velodyne would put them in front",
        lines[0],
    )


def test_unfit_folders(frames, checkpoint, tmp_path, capsys):
    out = tmp_path / "flows"

    def said(folder, place=out):
        return message(capsys, *flags(folder, checkpoint, place))

    empty = tmp_path / "empty"
    empty.mkdir()
    needed = "a sequence needs at least 2; the formats are .npy, .npz, .ply, .pcd, .bin, .txt, .csv, .xyz, .las, .laz"
    assert said(tmp_path / "nowhere") == f"--batch {tmp_path}/nowhere: no such folder"
    assert said(empty) == f"--batch {empty}: it holds 0 cloud(s), {needed}"
    (empty / "0.bin").write_bytes(b"")
    assert said(empty) == f"--batch {empty}: it holds 1 cloud(s), {needed}"
    (empty / "1.ply").write_bytes(b"")
    assert said(empty) == f"--batch {empty}: it holds .bin, .ply files; a sequence has one ending only"
    assert said(frames, frames) == f"--out {frames}: the flows need a folder of their own, not that of the frames"
    assert said(frames, tmp_path / "a/b") == f"--out {tmp_path}/a/b: its folder does not exist; create it first"
    np.savez(empty / "mine.npz", 1)
    something = "--out {}: it holds something else than flows of --batch; choose another folder"
    assert said(frames, empty) == something.format(empty)
    (tmp_path / "file").write_text("")
    assert said(frames, tmp_path / "file") == something.format(tmp_path / "file")
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "give SOURCE and TARGET, or a folder of frames with --batch"),
        (["a.npy"], "give SOURCE and TARGET, or a folder of frames with --batch"),
        (
            ["a.npy", "b.npy", "--batch", "frames"],
            "--batch takes the frames from its folder: leave out SOURCE and TARGET",
        ),
    ],
)
def test_flags(checkpoint, capsys, arguments, said):
    assert message(capsys, *arguments, "--checkpoint", checkpoint) == said


# ---- the rigid motion ----


def test_rigid_motion_of_the_flow(checkpoint, tmp_path, capsys, monkeypatch):
    """A flow that is a rigid motion but for a tenth of the points is reported, and stored, in the input's axes."""
    turn, shift = Rotation.from_rotvec([0, 0, np.radians(2)]), np.array([-1.0, 0.1, 0])

    def moved(net, source, target, device, num_points, amp):
        flow = (turn.apply(scan(0)) + shift - scan(0))[:, [1, 2, 0]]  # velodyne -> the project's frame
        flow[:20] += 3
        return flow.astype(np.float32), 0.5

    monkeypatch.setattr("lib.predict.scene_flow.predict_flow", moved)
    for k in range(2):
        np.save(tmp_path / f"{k}.npy", scan(k))
    pair = [tmp_path / "0.npy", tmp_path / "1.npy", "--checkpoint", checkpoint, "--axes", "velodyne", "--rigid"]
    call(*pair, "--out", tmp_path / "flow.npz")
    printed = capsys.readouterr().out
    assert (
        "rigid    turn of 2.000 degrees about (0.0000, 0.0000, 1.0000), then by (-1.0000, 0.1000, 0.0000) m\n"
        "follow   90.0 % of the points follow it within 0.1 m\n"
    ) in printed
    with np.load(tmp_path / "flow.npz") as file:
        assert file.files == ["source", "flow", "rotation", "translation", "follows"]
        assert np.abs(file["rotation"] - turn.as_matrix()).max() < 1e-6
        assert np.abs(file["translation"] - shift).max() < 1e-5
        assert np.array_equal(file["follows"], np.arange(POINTS) >= 20)
    call(*pair, "--out", tmp_path / "flow.ply")  # has no place for it, and says it all the same
    assert "rigid    turn of 2.000 degrees" in capsys.readouterr().out


def test_no_rigid_motion(checkpoint, tmp_path, capsys):
    line = np.linspace((0, 1, 4), (0, 1, 30), POINTS).astype(np.float32)
    for k in range(2):
        np.save(tmp_path / f"{k}.npy", line + np.float32([0, 0, k]))
    assert message(
        capsys,
        tmp_path / "0.npy",
        tmp_path / "1.npy",
        "--checkpoint",
        checkpoint,
        "--rigid",
        "--out",
        tmp_path / "flow.npz",
    ) == ("no rigid motion: half of the points or more lie on one line, so any turn about it would do")
    assert not (tmp_path / "flow.npz").exists()


def test_rigid_motion_of_a_sequence(frames, checkpoint, tmp_path, capsys):
    call(*flags(frames, checkpoint, tmp_path / "flows"), "--rigid")
    lines = capsys.readouterr().out.splitlines()[1:FRAMES]
    assert all(
        re.search(
            r" m; turn of \d+\.\d{3} degrees about .*; .* % of the points follow it within 0\.1 m; "
            r"\d+\.\d{3} s$",
            line,
        )
        for line in lines
    )
    with np.load(tmp_path / "flows/0000000000.npz") as file:
        assert file["rotation"].shape == (3, 3) and file["follows"].shape == (POINTS,)
