"""Overlaps of boxes equal hand values and an independent way to compute them."""

from math import pi

import numpy as np
import pytest

from lib.metrics.kitti_overlap import ground_intersection, ground_iou, image_iou, upright_iou


def corners(box: np.ndarray) -> np.ndarray:
    """Corners (4, 2) of one rectangle (5,), counter-clockwise."""
    along = box[2] / 2 * np.array([np.cos(box[4]), np.sin(box[4])])
    across = box[3] / 2 * np.array([-np.sin(box[4]), np.cos(box[4])])
    return box[:2] + np.array([along + across, across - along, -along - across, along - across])


def slow_intersection(box1: np.ndarray, box2: np.ndarray) -> float:
    """Area of the convex hull of: corners inside the other rectangle, and crossings of the edges."""
    points = []
    for this, other in ((box1, box2), (box2, box1)):
        local = corners(this) - other[:2]
        along = local @ [np.cos(other[4]), np.sin(other[4])]
        across = local @ [-np.sin(other[4]), np.cos(other[4])]
        points += list(corners(this)[(np.abs(along) <= other[2] / 2) & (np.abs(across) <= other[3] / 2)])
    for a, b in zip(corners(box1), np.roll(corners(box1), -1, axis=0), strict=True):
        for c, d in zip(corners(box2), np.roll(corners(box2), -1, axis=0), strict=True):
            matrix = np.column_stack([b - a, c - d])
            if abs(np.linalg.det(matrix)) > 1e-12:
                s, t = np.linalg.solve(matrix, c - a)
                if 0 <= s <= 1 and 0 <= t <= 1:
                    points.append(a + s * (b - a))
    if len(points) < 3:
        return 0.0
    centred = np.array(points) - np.mean(points, axis=0)
    x, y = centred[np.argsort(np.arctan2(centred[:, 1], centred[:, 0]))].T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def iou(box1: tuple, box2: tuple) -> float:
    first, second = np.array([box1], np.float64), np.array([box2], np.float64)
    return ground_iou(first, second, ground_intersection(first, second))[0]


LONG = (1.0, 2.0, 4.0, 2.0)


@pytest.mark.parametrize(
    ("box1", "box2", "expected"),
    [
        ((0, 0, 1, 1, 0), (0, 0, 1, 1, pi / 4), 0.5**0.5),
        ((*LONG, 0.3), (*LONG, 0.3 + pi / 2), 1 / 3),
        ((*LONG, 0), (3, 2, 4, 2, 0), 1 / 3),
        ((*LONG, 0.7), (*LONG, 0.7), 1),
        ((*LONG, 0.7), (*LONG, 0.7 + pi), 1),
        ((*LONG, 0), (1.2, 2.1, 2, 1, 0), 0.25),
        ((*LONG, 0.4), (1, 2, 2, 1, 0.4 - pi), 0.25),
        ((0, 0, 3.9, 1.6, 0), (0.5, 0.2, 3.9, 1.6, pi / 6), 0.4922442),
        ((0, 0, 4, 2, 0), (0, 0, 0, 0, 0), 0),  # a box without area
        ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), 0),
    ],
)
def test_hand_values(box1, box2, expected):
    for first, second in ((box1, box2), (box2, box1)):
        assert iou(first, second) == pytest.approx(expected, abs=1e-12 if expected != 0.4922442 else 5e-8)


@pytest.mark.parametrize(
    "other", [(4, 0, 4, 2, 0), (0, -2, 4, 2, 0), (4, 2, 4, 2, pi), (3, 0, 2, 4, 0), (9, 9, 1, 1, 1)]
)
def test_touching_shares_exactly_nothing(other):
    assert iou((0, 0, 4, 2, 0), other) == 0
    assert iou(other, (0, 0, 4, 2, 0)) == pytest.approx(0, abs=1e-15)


def test_random_pairs_equal_the_slow_way():
    rng = np.random.default_rng(5)
    boxes1, boxes2 = (
        np.column_stack([rng.uniform(-2, 2, (400, 2)), rng.uniform(0.3, 5, (400, 2)), rng.uniform(-9, 9, 400)])
        for _ in range(2)
    )
    ours = ground_intersection(boxes1, boxes2)
    slow = [slow_intersection(a, b) for a, b in zip(boxes1, boxes2, strict=True)]
    assert 200 < np.count_nonzero(slow) < 400
    np.testing.assert_allclose(ours, slow, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours, ground_intersection(boxes2, boxes1), rtol=0, atol=1e-12)


def test_far_from_the_origin_loses_little():
    rng = np.random.default_rng(6)
    boxes1 = np.column_stack([rng.uniform(-1, 1, (50, 2)), rng.uniform(1, 5, (50, 2)), rng.uniform(-4, 4, 50)])
    boxes2 = boxes1 + rng.normal(0, 0.1, boxes1.shape)
    away = np.array([1000.0, -1000, 0, 0, 0])
    near, far = ground_intersection(boxes1, boxes2), ground_intersection(boxes1 + away, boxes2 + away)
    np.testing.assert_allclose(near, far, rtol=0, atol=1e-11)


def test_no_pair():
    assert ground_intersection(np.zeros((0, 5)), np.zeros((0, 5))).shape == (0,)


def test_image_boxes():
    box = np.array([[0.0, 0, 10, 10]])
    for other, expected in (((0, 0, 10, 10), 1), ((5, 0, 15, 10), 1 / 3), ((10, 0, 20, 10), 0), ((2, 2, 7, 7), 0.25)):
        assert image_iou(box, np.array([other], np.float64))[0] == pytest.approx(expected, abs=1e-15)


def test_upright_boxes_need_a_shared_height():
    box = np.array([[0.0, 0, 4, 2, 0.3]])
    heights = np.array([[0.0, 2]])
    for low, high, expected in ((0, 2, 1), (1, 3, 1 / 3), (2, 4, 0), (5, 6, 0), (0.5, 1.5, 0.5)):
        other = np.array([[low, high]], np.float64)
        got = upright_iou(box, box, heights, other, ground_intersection(box, box))[0]
        assert got == pytest.approx(expected, abs=1e-14)


def test_a_real_car_and_itself_moved(shared):
    """Frame 000008, line 1 (from 0), and itself moved (0.3, 0.1, 0.2) m and turned by 0.1 rad in the camera frame."""
    (file,) = (shared / "data/KITTI_object").rglob("label_2/000008.txt")
    height, width, length, x, y, z, turn = map(float, file.read_text().splitlines()[1].split()[8:15])
    box1 = np.array([[x, z, length, width, -turn]])
    box2 = box1 + [[0.3, 0.2, 0, 0, -0.1]]
    heights = np.array([[y - height, y]])
    shared_area = ground_intersection(box1, box2)
    assert ground_iou(box1, box2, shared_area)[0] == pytest.approx(0.660653, abs=5e-7)
    assert upright_iou(box1, box2, heights, heights + 0.1, shared_area)[0] == pytest.approx(0.593595, abs=5e-7)
