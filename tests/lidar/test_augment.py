"""Augmentation of clouds with boxes: values by hand, points that stay in their boxes, and boxes that do not collide."""

import math

import numpy as np
import pytest
import torch

from lib.datasets.lidar import POINTPILLARS, POINTRCNN, SECOND, SMALL, open_database
from lib.datasets.lidar.augment import (
    OTHER,
    Augmentation,
    Scene,
    add_objects,
    augment_scene,
    crop,
    flip,
    move_objects,
    scale,
    turn,
)
from lib.datasets.lidar.scenes import scene_of
from lib.ops import bev_iou
from tests.lidar.made import AREA, CAR, CLASSES, FAR_CAR, WALKER, Made, frame, held, label, points_inside

PRESETS = {"pointpillars": POINTPILLARS, "second": SECOND, "pointrcnn": POINTRCNN, "small": SMALL}


def one_point(point=(3.0, 1.0, 0.5, 0.7), box=(2.0, 1.0, 0.0, 4.0, 2.0, 1.5, 0.5)) -> Scene:
    return Scene(np.array([point], np.float32), np.array([box]), np.array([2]))


def collisions(boxes: np.ndarray) -> int:
    """How many pairs of boxes share ground."""
    table = bev_iou(torch.as_tensor(boxes), torch.as_tensor(boxes))
    return int((table.triu(1) > 0).sum())


@pytest.fixture(scope="module")
def database():
    cars = [(label("Car", (8 + 6 * k, 0, -1, 4, 1.6, 1.5, 0)), 10 + k) for k in range(6)]
    return open_database(Made([frame("000009", [*cars, (label("Pedestrian", WALKER), 7)])]))


# One step


@pytest.mark.parametrize(
    ("change", "point", "box"),
    [
        (flip, (3, -1, 0.5), (2, -1, 0, 4, 2, 1.5, -0.5)),
        (lambda s: turn(s, math.pi / 2), (-1, 3, 0.5), (-1, 2, 0, 4, 2, 1.5, 0.5 + math.pi / 2)),
        (lambda s: turn(s, math.pi), (-3, -1, 0.5), (-2, -1, 0, 4, 2, 1.5, 0.5 - math.pi)),
        (lambda s: scale(s, 1.05), (3.15, 1.05, 0.525), (2.1, 1.05, 0, 4.2, 2.1, 1.575, 0.5)),
    ],
    ids=["flip", "quarter turn", "half turn", "scale"],
)
def test_values_by_hand(change, point, box):
    before = one_point()
    after = change(before)
    assert after.boxes[0].tolist() == pytest.approx(box, abs=1e-12)
    assert after.points[0, :3].tolist() == pytest.approx(point, abs=1e-6)
    assert after.points[0, 3] == np.float32(0.7) and after.points.dtype == np.float32
    assert np.array_equal(before.points, one_point().points) and np.array_equal(before.boxes, one_point().boxes)


@pytest.mark.parametrize(
    "change",
    [flip, lambda s: turn(s, 0.7), lambda s: turn(s, -0.4), lambda s: scale(s, 0.95), lambda s: scale(s, 1.05)],
    ids=["flip", "left", "right", "shrink", "grow"],
)
def test_boxes_keep_their_points_on_real_frames(real_frames, change):
    for one in list(real_frames)[:8]:
        scene = scene_of(one, CLASSES)
        after = change(scene)
        assert np.abs(np.array(held(*scene[:2])) - held(*after[:2])).max() <= 1  # a point on a face may change sides
        assert sum(held(*after[:2])) > 20


def test_crop_keeps_other_objects_as_obstacles():
    boxes = np.array([CAR, (-1.0, 0, 0, 4, 2, 1.5, 0), (80.0, 0, 0, 4, 2, 1.5, 0)])
    scene = Scene(np.array([[5, 0, 0, 0], [-1, 0, 0, 0]], np.float32), boxes, np.array([2, 2, OTHER]))
    after = crop(scene, AREA)
    assert after.labels.tolist() == [2, OTHER] and after.points[:, 0].tolist() == [5]


# Noise of objects


def in_own_frame(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    shifted = points[:, :3] - box[:3]
    cos, sin = math.cos(box[6]), math.sin(box[6])
    return np.column_stack((shifted @ [cos, sin, 0], shifted @ [-sin, cos, 0], shifted[:, 2], points[:, 3]))


def test_noise_moves_each_object_with_its_points_and_nothing_else():
    one = frame("000001", [(label("Car", CAR), 40), (label("Pedestrian", WALKER), 30), (label("Van", FAR_CAR), 20)])
    before = scene_of(one, CLASSES)
    after = move_objects(before, SECOND, np.random.default_rng(0))
    floor, car, walker, van = slice(0, 200), slice(200, 240), slice(240, 270), slice(270, 290)
    for rows, k in ((car, 0), (walker, 1)):
        assert np.abs(after.boxes[k, :3] - before.boxes[k, :3]).min() > 1e-3
        assert 1e-3 < abs(after.boxes[k, 6] - before.boxes[k, 6]) <= math.pi / 4
        own = in_own_frame(after.points[rows], after.boxes[k])
        assert own == pytest.approx(in_own_frame(before.points[rows], before.boxes[k]), abs=1e-5)
    for rows in (floor, van):
        assert np.array_equal(after.points[rows], before.points[rows])
    assert np.array_equal(after.boxes[2], before.boxes[2]) and np.array_equal(after.boxes[:, 3:6], before.boxes[:, 3:6])


def test_noise_has_the_spread_it_is_given():
    boxes = np.tile(CAR, (1000, 1))
    boxes[:, 0] = 40 * np.arange(1000)  # far apart: the first try is free
    scene = Scene(np.zeros((1, 4), np.float32), boxes, np.full(1000, 2))
    moved = move_objects(scene, SECOND._replace(tries=1), np.random.default_rng(0)).boxes - boxes
    assert moved[:, :3].std(0) == pytest.approx([1, 1, 0.5], rel=0.08) and np.abs(moved[:, :3].mean(0)).max() < 0.12
    assert moved[:, 6].std() == pytest.approx(math.pi / 2 / math.sqrt(12), rel=0.08)


def test_noise_takes_the_first_free_place_or_none():
    row = np.array([(10.0 + 4.2 * k, 0, -1, 4, 1.6, 1.5, 0) for k in range(6)])  # close together
    wall = np.array([(20.0, side, -1, 60, 1, 1, 0) for side in (-1.5, 1.5)])
    labels = np.array([2] * 6 + [OTHER] * 2)
    scene = Scene(np.zeros((1, 4), np.float32), np.concatenate((row, wall)), labels)
    for seed in range(5):
        after = move_objects(scene, SECOND, np.random.default_rng(seed))
        assert collisions(after.boxes[:6]) == 0
    tight = scene._replace(boxes=np.concatenate((row, wall * [1, 0.7, 1, 1, 1, 1, 1])))  # 5 cm beside the cars
    stuck = move_objects(tight, SECOND._replace(tries=3), np.random.default_rng(0))
    assert np.array_equal(stuck.boxes, tight.boxes)

    # One car beside an obstacle: of the tries that are drawn, the first free one.
    pair = Scene(scene.points, np.array([CAR, (10.0, 4.0, -1, 4, 1.6, 1.5, 0.3)]), np.array([2, OTHER]))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shifts, angles = rng.normal(0, (1, 1, 0.5), (2, 100, 3)), rng.uniform(-math.pi / 4, math.pi / 4, (2, 100))
        places = np.tile(CAR, (100, 1))
        places[:, :3] += shifts[0]
        places[:, 6] += angles[0]
        free = (bev_iou(torch.from_numpy(places), torch.from_numpy(pair.boxes[1:]))[:, 0] == 0).nonzero()[0, 0]
        moved = move_objects(pair, SECOND, np.random.default_rng(seed)).boxes[0]
        assert moved.tolist() == pytest.approx(places[free].tolist(), abs=1e-12)


def test_a_point_in_two_boxes_goes_with_the_first():
    scene = one_point((2.0, 1.0, 0.0, 0.0))._replace(boxes=np.array([[2.0, 1, 0, 4, 2, 1.5, 0]] * 2))
    scene = scene._replace(labels=np.array([2, 2]))
    after = move_objects(scene, SECOND._replace(shift=(9, 9, 1)), np.random.default_rng(1))
    assert after.points[0, :3].tolist() == pytest.approx(after.boxes[0, :3].tolist(), abs=1e-5)


# Objects of a database


def added(scene: Scene, database, seed: int = 0, **changes) -> Scene:
    settings = Augmentation(("database",), **changes)
    return add_objects(scene, settings, CLASSES, database, np.random.default_rng(seed))


def test_objects_are_added_up_to_the_counts(database):
    empty = Scene(np.zeros((1, 4), np.float32), np.zeros((0, 7)), np.zeros(0, np.int64))
    after = added(empty, database, fill={"Car": 4, "Pedestrian": 3})
    assert sorted(after.labels.tolist()) == [0, 2, 2, 2, 2]  # there is one pedestrian only
    assert len(after.points) == 1 + sum(held(after.points, after.boxes)) and collisions(after.boxes) == 0
    for box, label_, count in zip(after.boxes, after.labels, held(after.points, after.boxes), strict=True):
        row = int(np.flatnonzero((database.boxes == box).all(1))[0])
        assert count == np.diff(database.starts)[row] and database.types[row] == CLASSES[label_]
    assert len(added(empty, database, fill={"Car": 9}, fewest={"Car": 13}).labels) == 3
    cars = Scene(empty.points, np.array([(60.0, 9, 0, 4, 2, 1, 0)] * 3), np.full(3, 2))
    assert [len(added(cars, database, fill={"Car": n}).labels) for n in (2, 3, 4)] == [3, 3, 4]
    first = {tuple(added(empty, database, seed, fill={"Car": 1}).boxes[0]) for seed in range(40)}
    assert len(first) == 6  # each car is chosen at times


@pytest.mark.parametrize("other", [2, OTHER], ids=["object", "obstacle"])
def test_nothing_is_put_onto_an_object(database, other):
    wall = Scene(np.zeros((1, 4), np.float32), np.array([(20.0, 0, -1, 19, 1, 1, 0.1)]), np.array([other]))
    after = added(wall, database, fill={"Car": 10})
    assert sorted(after.boxes[1:, 0]) == pytest.approx([8, 32, 38])  # the cars at 14, 20 and 26 m would meet it


def test_points_under_an_added_object_are_removed(database):
    inside, outside = points_inside(database.boxes[0], 8), np.array([[8, 0, 5, 0.0], [50, 9, 0, 0]], np.float32)
    scene = Scene(np.concatenate((inside, outside)), np.zeros((0, 7)), np.zeros(0, np.int64))
    after = added(scene, database, fill={"Car": 9})
    assert np.array_equal(after.points[:2], outside) and len(after.points) == 2 + np.diff(database.starts)[:6].sum()


def test_a_network_without_a_class_gets_none_of_it(database):
    empty = Scene(np.zeros((1, 4), np.float32), np.zeros((0, 7)), np.zeros(0, np.int64))
    after = add_objects(empty, POINTPILLARS, ("Car",), database, np.random.default_rng(0))
    assert after.labels.tolist() == [0] * 6


# All steps


@pytest.mark.parametrize("name", PRESETS)
def test_presets_on_real_frames(real_frames, name):
    settings, database = PRESETS[name], open_database(Made(list(real_frames)[:8]))
    for i in (5, 10):
        scene = scene_of(real_frames[i], CLASSES)
        after = augment_scene(scene, settings, CLASSES, AREA, database, np.random.default_rng(i))
        ours = after.labels != OTHER
        more = (ours.sum() > (scene.labels != OTHER).sum()) if settings.fill else True
        assert more and collisions(after.boxes) <= collisions(scene.boxes)
        inside = crop(after, AREA)
        if name == "pointrcnn":  # the range comes first, so the scene may reach beyond it
            assert len(inside.points) < len(after.points)
        else:
            assert len(inside.points) == len(after.points) and len(inside.boxes) == len(after.boxes)
        assert np.abs(after.boxes[:, 6]).max() <= math.pi


def test_steps_come_in_the_order_they_are_listed():
    scene = one_point((69.0, 0, 0, 0), (69.0, 0, 0, 4, 2, 1.5, 0))
    grown = [
        augment_scene(scene, Augmentation(steps, scale=(1.05, 1.05)), CLASSES, AREA, rng=np.random.default_rng(0))
        for steps in (("scale", "range"), ("range", "scale"))
    ]
    assert [len(s.points) for s in grown] == [0, 1] and [len(s.boxes) for s in grown] == [0, 1]
    flips = [
        augment_scene(one_point(), SMALL, CLASSES, AREA, rng=np.random.default_rng(seed)).boxes[0, 6] < 0.5 - 0.41
        for seed in range(400)
    ]
    assert 150 < sum(flips) < 250  # half of them; turns of up to 0.39 rad do not hide it
    with pytest.raises(ValueError, match="no step 'jump'"):
        augment_scene(scene, Augmentation(("jump",)), CLASSES, AREA)
