"""The ground-truth database: what it holds, and how it lies on the disk."""

import pickle
import re
import shutil
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lib.datasets.kitti_object import open_frames
from lib.datasets.lidar import database as module
from lib.datasets.lidar import open_database
from lib.errors import InputError
from tests.lidar.made import CAR, FAR_CAR, WALKER, Made, frame, label

TRAINING = [f"{k:06d}" for k in (0, 1, 3, 7, 10, 11, 12, 14, 17, 18, 19, 22, 23, 26, 27, 29)]


@pytest.fixture
def frames() -> Made:
    return Made(
        [
            frame("000001", [(label("Car", CAR), 40), (label("Van", (30, 5, -1, 5, 2, 2, 0)), 20)]),
            frame("000002", [(label("Pedestrian", WALKER), 30), (label("Car", FAR_CAR), 25)]),
        ]
    )


def equal(first: module.Database, second: module.Database) -> bool:
    return all(np.array_equal(getattr(first, k), getattr(second, k)) for k in ("boxes", "types", "starts", "points"))


# The real frames


def test_objects_of_the_real_training_frames(real_frames):
    database = open_database(Made(frame for frame in real_frames if frame.name in TRAINING))
    assert Counter(database.types.tolist()) == {"Car": 15, "Pedestrian": 6, "Cyclist": 1}
    assert len(database.points_of(0)) == pytest.approx(377, abs=1)  # 000000, line 0
    assert database.boxes[0, :3].tolist() == pytest.approx([8.731, -1.856, -0.655], abs=1e-3)
    assert {tuple(p) for p in database.points_of(0).round(3).tolist()} <= {
        tuple(p) for p in real_frames[0].points.round(3).tolist()
    }


def test_a_changed_label_or_list_gives_another_database(real_frames, shared, tmp_path, monkeypatch):
    root = tmp_path / "kitti"
    for folder in ("image_2", "calib", "label_2", "velodyne_reduced"):
        for name in ("000000", "000010"):
            source = next((shared / "data/KITTI_object/training" / folder).glob(f"{name}.*"))
            (root / folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, root / folder / source.name)
    first = open_database(open_frames(root), root)
    with monkeypatch.context() as no_scans:
        no_scans.setattr(module, "build_database", None)  # is not called a second time
        assert equal(open_database(open_frames(root), root), first)
    labels = root / "label_2/000000.txt"
    labels.write_text(labels.read_text().replace("Pedestrian", "Person_sitting"))
    second = open_database(open_frames(root), root)
    assert len(second) == len(first) - 1 and second.folder != first.folder
    short = open_frames(root)
    short.names = ["000010"]
    assert open_database(short, root).folder not in (first.folder, second.folder)
    assert len(list((root / module.FOLDER).iterdir())) == 3


# Frames made by hand


def test_only_objects_that_can_be_seen_are_taken():
    objects = [
        (label("Car", CAR), 5),
        (label("Car", FAR_CAR), 4),  # too few points
        (label("Van", (30, 5, -1, 5, 2, 2, 0)), 20),
        (label("Pedestrian", WALKER, occluded=2), 9),
        (label("Pedestrian", (20, 6, -0.8, 0.8, 0.6, 1.8, 0), occluded=3), 9),
        (label("Cyclist", (15, -9, -0.8, 1.8, 0.6, 1.8, 0), height=25.0), 9),  # higher than 25 px are easy enough
        (label("Cyclist", (15, 9, -0.8, 1.8, 0.6, 1.8, 0), height=25.1), 9),
        (label("Car", (50, 9, -0.8, 4, 2, 1.8, 0))._replace(truncated=0.51), 9),
    ]
    database = open_database(Made([frame("000001", objects)]))
    assert database.types.tolist() == ["Car", "Pedestrian", "Cyclist"]
    assert np.diff(database.starts).tolist() == [5, 9, 9] and database.boxes[2, 1] == pytest.approx(9)
    assert database.rows("Car").tolist() == [0] and database.rows("Car", 6).tolist() == []
    assert np.abs(database.points[:5, :3]).max() < 2.1  # from the centre
    with pytest.raises(InputError, match="none of the 1 training frames has an object"):
        open_database(Made([frame("000001", objects[1:3])]))


def test_the_disk_holds_what_the_memory_does(frames, tmp_path):
    memory, disk = open_database(frames), open_database(frames, tmp_path)
    assert equal(memory, disk) and memory.folder is None and disk.folder.parent == tmp_path / "ground_truth_database"
    assert isinstance(disk.points, np.memmap) and not list(disk.folder.parent.glob(".*"))
    for k in range(3):
        assert np.array_equal(memory.points_of(k), disk.points_of(k))
    assert len(pickle.dumps(disk)) < 500
    assert equal(pickle.loads(pickle.dumps(disk)), disk) and equal(pickle.loads(pickle.dumps(memory)), memory)


def test_several_may_build_it_at_once(frames, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: open_database(frames, tmp_path), range(8)))
    assert all(equal(result, results[0]) for result in results)
    module._write(results[0], results[0].folder)  # what a process does that comes too late
    assert [path.name for path in (tmp_path / module.FOLDER).iterdir()] == [results[0].folder.name]


@pytest.mark.parametrize("where", ["data", "cache"])
def test_a_folder_that_cannot_be_written_to(frames, tmp_path, monkeypatch, where):
    def refuse(*args, **kwargs):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(*((Path, "mkdir") if where == "data" else (tempfile, "mkdtemp")), refuse)
    with pytest.raises(InputError) as error:
        open_database(frames, tmp_path / "data")
    assert re.fullmatch(
        r"cannot write .*ground_truth_database \(Read-only file system\): give a folder .*", str(error.value)
    )


def overwrite_points(path: Path, value: float) -> None:
    points = np.load(path, allow_pickle=False)
    points[3, 1] = value
    np.save(path, points)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "points.npy").write_bytes((folder / "points.npy").read_bytes()[:-8]),
        lambda folder: (folder / "points.npy").write_bytes(b""),
        lambda folder: (folder / "points.npy").unlink(),
        lambda folder: overwrite_points(folder / "points.npy", np.nan),
        lambda folder: np.save(folder / "points.npy", np.zeros((3, 4), np.float32)),
        lambda folder: (folder / "objects.npz").write_bytes(b"PK" + bytes(50)),
        lambda folder: np.savez(folder / "objects.npz", boxes=np.zeros((1, 7))),
        lambda folder: np.savez(folder / "objects.npz", boxes=np.array({}), types=np.array({}), starts=np.array({})),
    ],
    ids=["cut off", "empty", "missing", "nan", "too few points", "no zip", "parts missing", "pickled"],
)
def test_a_damaged_database_is_reported_with_the_fix(frames, tmp_path, damage):
    folder = open_database(frames, tmp_path).folder
    damage(folder)
    with pytest.raises(InputError) as error:
        open_database(frames, tmp_path)
    assert str(error.value) == (
        f"the ground-truth database {folder} is damaged: remove that folder, the next run builds it again"
    )
    shutil.rmtree(folder)
    assert equal(open_database(frames, tmp_path), open_database(frames))
