"""Samples for LiDAR detectors: which points and objects they hold, and that a key alone decides what is drawn."""

import pickle
import re
from collections import Counter

import numpy as np
import pytest
import torch

from lib.datasets.lidar import POINTPILLARS, SECOND, SMALL, LidarScenes, collate, open_database
from lib.errors import InputError
from lib.training.loading import load_batches
from tests.lidar.made import AREA, CALIBRATION, CAR, CLASSES, FAR_CAR, WALKER, Made, frame, label

NEAR = (0.0, -17.92, -3.0, 35.84, 17.92, 1.0)


@pytest.fixture
def frames() -> Made:
    return Made(
        [
            frame("000001", [(label("Car", CAR), 40), (label("Van", (30, 5, -1, 5, 2, 2, 0)), 20)]),
            frame("000002", [(label("Pedestrian", WALKER), 30), (label("Car", FAR_CAR), 25)]),
        ]
    )


# The real frames


def test_points_and_objects_of_the_real_frames(real_frames):
    samples = {sample.name: sample for sample in (LidarScenes(real_frames, CLASSES, AREA)[i] for i in range(22))}
    counts = {name: len(samples[name].points) for name in ("000000", "000008", "000010")}
    assert counts == {"000000": 20237, "000008": 16897, "000010": 15730}
    found = Counter(CLASSES[k] for sample in samples.values() for k in sample.labels.tolist())
    assert found == {"Car": 38, "Pedestrian": 11, "Cyclist": 3}
    box = samples["000008"].boxes[1]  # line 1
    assert box.tolist() == pytest.approx([8.149, 1.186, -0.843, 3.68, 1.5, 1.57, 2.812], abs=1e-3)
    near = [LidarScenes(real_frames, CLASSES, NEAR)[i] for i in range(22)]
    assert Counter(CLASSES[k] for s in near for k in s.labels.tolist()) == {"Car": 21, "Pedestrian": 11, "Cyclist": 1}


# Frames made by hand


def test_a_sample_for_evaluation_keeps_the_order_of_the_files(frames):
    scenes = LidarScenes(frames, CLASSES, AREA)
    sample = scenes[1]
    assert np.array_equal(sample.points, frames[1].points)  # all lie in the range
    assert sample.labels.tolist() == [0, 2] and sample.name == "000002" and sample.frame is frames[1]
    assert sample.boxes.numpy() == pytest.approx(np.array([WALKER, FAR_CAR]), abs=1e-5)
    assert scenes[0].labels.tolist() == [2]  # no van
    assert LidarScenes(frames, ("Car",), AREA)[1].labels.tolist() == [0]
    assert (sample.points.dtype, sample.boxes.dtype, sample.labels.dtype) == (torch.float32, torch.float32, torch.int64)


def test_the_low_side_of_the_range_is_in_and_the_high_side_is_not(frames):
    low, high = np.float32(AREA[:3]), np.float32(AREA[3:])
    corners = [(*low, 0), (low[0], low[1], high[2], 0), (high[0], 0, 0, 0), (5, high[1], 0, 0), (5, 5, 0.9, 0)]
    below = np.nextafter(low, np.float32(-100))
    one = frame("000003", [(label("Car", (0.0, 3, -1, 4, 2, 1.5, 0)), 9), (label("Car", (0.1, 3, 9, 4, 2, 1, 0)), 9)])
    one = one._replace(points=np.array([*corners, (5, below[1], 0, 0)], np.float32))
    sample = LidarScenes(Made([one]), CLASSES, AREA)[0]
    assert np.array_equal(sample.points, np.float32([corners[0], corners[4]]))
    assert sample.boxes[:, 0].tolist() == pytest.approx([0.1])  # strictly inside in x and y; z does not count
    with pytest.raises(InputError, match="frame 000003 has no point in the range"):
        LidarScenes(Made([one]), CLASSES, (10.0, *AREA[1:]))[0]


def test_objects_with_few_points_are_left_out_when_asked():
    objects = [(label("Car", CAR), 4), (label("Car", FAR_CAR), 5), (label("Pedestrian", WALKER), 0)]
    scenes = [LidarScenes(Made([frame("000001", objects)]), CLASSES, AREA, min_points=n) for n in (0, 1, 5)]
    assert [len(s[0].labels) for s in scenes] == [3, 2, 1]
    assert [len(s[0, 0].labels) for s in scenes] == [3, 2, 1]


def test_training_without_augmentation_only_shuffles(frames):
    scenes = LidarScenes(frames, CLASSES, AREA, augment=None)
    sample, plain = scenes[0, 1], scenes[1]
    assert not torch.equal(sample.points, plain.points) and sample.frame is None
    assert sorted(sample.points.tolist()) == sorted(plain.points.tolist())
    assert torch.equal(sample.boxes, plain.boxes)


def same(first, second) -> bool:
    return all(torch.equal(getattr(first, k), getattr(second, k)) for k in ("points", "boxes", "labels"))


@pytest.mark.parametrize("augment", [POINTPILLARS, SECOND, SMALL], ids=["pointpillars", "second", "small"])
def test_a_key_gives_one_sample_in_any_order_and_process(frames, augment):
    def scenes(seed: int = 0) -> LidarScenes:
        return LidarScenes(frames, CLASSES, AREA, augment=augment, database=open_database(frames), seed=seed)

    keys = [(0, 0), (0, 1), (1, 0), (1, 1)]
    first = [scenes()[key] for key in keys]
    ours = scenes()
    again = [ours[key] for key in reversed(keys)][::-1]
    batches = list(load_batches(scenes(), [[key] for key in keys], collate, workers=2))
    for sample, other, batch in zip(first, again, batches, strict=True):
        assert same(sample, other)
        assert torch.equal(sample.points, batch.points[0]) and torch.equal(sample.boxes, batch.boxes[0])
    assert not torch.equal(first[0].points[:50], first[2].points[:50])  # another epoch
    assert not torch.equal(first[0].points[:50], scenes(seed=1)[0, 0].points[:50])
    assert same(LidarScenes(frames, CLASSES, AREA)[1], ours[1])  # evaluation is never augmented


def test_samples_are_collated_into_lists(frames):
    scenes = LidarScenes(frames, CLASSES, AREA)
    batch = collate([scenes[0], scenes[1]])
    assert batch.names == scenes.names == ["000001", "000002"] and len(scenes) == 2
    assert [len(p) for p in batch.points] == [260, 255] and [len(b) for b in batch.boxes] == [1, 2]
    assert batch.frames == [frames[0], frames[1]] and batch.labels[1].tolist() == [0, 2]


def test_scenes_on_the_disk_are_light_to_hand_to_a_process(real_frames, tmp_path):
    database = open_database(real_frames, tmp_path)
    scenes = LidarScenes(real_frames, CLASSES, AREA, augment=POINTPILLARS, database=database)
    handed = pickle.dumps(scenes)
    assert len(handed) < 5000
    assert same(pickle.loads(handed)[3, 7], scenes[3, 7])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ()}, "give at least one"),
        ({"classes": ("Car", "Car")}, "each once"),
        ({"area": (0, 0, 0, 1, 1, 0)}, "give low x, y, z and then high"),
        ({"seed": -1}, "seed is -1"),
        ({"augment": POINTPILLARS}, "give one (open_database)"),
    ],
)
def test_settings_that_cannot_work_are_refused(frames, change, message):
    settings = {"frames": frames, "classes": CLASSES, "area": AREA} | change
    with pytest.raises(InputError, match=re.escape(message)):
        LidarScenes(**settings)


def test_the_frames_made_by_hand_lie_in_view(frames):
    for one in frames:
        assert CALIBRATION.project(CALIBRATION.to_camera(one.points[:, :3]))[1].min() > 0
