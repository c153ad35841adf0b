"""Overlaps of boxes in torch equal hand values and the NumPy functions of the KITTI score."""

from math import pi

import numpy as np
import pytest
import torch

from lib.errors import InputError
from lib.metrics.kitti_overlap import ground_intersection, ground_iou, upright_iou
from lib.ops import box_overlap
from lib.ops.box_overlap import BEV, bev_overlap, iou_3d, iou_bev


def random_boxes(count: int, seed: int) -> torch.Tensor:
    """LiDAR boxes (count, 7) within 4 m of the origin."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0.3, 5, (count, 3))
    return torch.from_numpy(np.column_stack([rng.uniform(-4, 4, (count, 3)), sides, rng.uniform(-9, 9, count)]))


@pytest.mark.parametrize(
    ("box1", "box2", "expected"),
    [
        ((0, 0, 1, 1, 0), (0, 0, 1, 1, pi / 4), 0.5**0.5),
        ((1, 2, 4, 2, 0.3), (1, 2, 4, 2, 0.3 + pi / 2), 1 / 3),
        ((1, 2, 4, 2, 0), (3, 2, 4, 2, 0), 1 / 3),
        ((1, 2, 4, 2, 0.7), (1, 2, 4, 2, 0.7 + pi), 1),
        ((1, 2, 4, 2, 0), (1.2, 2.1, 2, 1, 0), 0.25),
        ((0, 0, 4, 2, 0), (4, 0, 4, 2, 0), 0),
        ((0, 0, 4, 2, 0), (3, 2, 2, 2, pi / 2), 0),
        ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), 0),
    ],
)
def test_hand_values(box1, box2, expected):
    first, second = (torch.tensor([box], dtype=torch.float64) for box in (box1, box2))
    assert iou_bev(first, second).item() == pytest.approx(expected, abs=1e-12)
    assert iou_bev(second, first).item() == pytest.approx(expected, abs=1e-12)


def test_shared_height():
    low = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0.3]])
    for z, height, expected in ((0, 2, 1), (1, 2, 1 / 3), (2, 2, 0), (7, 2, 0), (0, 1, 0.5)):
        other = torch.tensor([[0.0, 0, z, 4, 2, height, 0.3]])
        assert iou_3d(low, other).item() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("chunk", [box_overlap.CHUNK, 7])
def test_equals_the_functions_of_the_kitti_score(monkeypatch, chunk):
    monkeypatch.setattr(box_overlap, "CHUNK", chunk)
    boxes1, boxes2 = random_boxes(20, 1), random_boxes(30, 2)
    first = boxes1.numpy().repeat(30, axis=0)  # (600, 7): every pair
    second = np.tile(boxes2.numpy(), (20, 1))
    heights1, heights2 = (np.stack([b[:, 2] - b[:, 5] / 2, b[:, 2] + b[:, 5] / 2], axis=1) for b in (first, second))
    first, second = first[:, BEV], second[:, BEV]
    shared = ground_intersection(first, second)
    assert 100 < np.count_nonzero(shared) < 600
    for ours, expected in (
        (bev_overlap(boxes1[:, BEV], boxes2[:, BEV]), shared),
        (iou_bev(boxes1[:, BEV], boxes2[:, BEV]), ground_iou(first, second, shared)),
        (iou_3d(boxes1, boxes2), upright_iou(first, second, heights1, heights2, shared)),
    ):
        assert ours.shape == (20, 30) and ours.dtype == torch.float64
        np.testing.assert_allclose(ours.numpy().ravel(), expected, rtol=0, atol=1e-12)


def test_boxes_in_float32_are_computed_in_float64():
    boxes = random_boxes(5, 3).float()
    assert torch.equal(iou_3d(boxes, boxes), iou_3d(boxes.double(), boxes.double()))
    assert torch.equal(iou_3d(boxes, boxes).diagonal(), torch.ones(5, dtype=torch.float64))


def test_no_box():
    boxes = random_boxes(3, 4)
    assert iou_3d(boxes[:0], boxes).shape == (0, 3)
    assert iou_3d(boxes, boxes[:0]).shape == (3, 0)


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        (torch.zeros(3, 7), r"boxes2 must be \(N, 5\), got \(3, 7\)"),
        (torch.zeros(5), "boxes2 must be"),
        (torch.zeros(3, 5, dtype=torch.int64), "floating-point"),
        (torch.full((1, 5), torch.nan), "not finite"),
        (torch.tensor([[0.0, 0, 1, -1, 0]]), "negative size"),
    ],
)
def test_mistakes_are_one_line(boxes, words):
    for function in (bev_overlap, iou_bev):
        with pytest.raises(InputError, match=words):
            function(torch.zeros(1, 5), boxes)


def test_negative_height_is_refused():
    with pytest.raises(InputError, match="negative size"):
        iou_3d(torch.tensor([[0.0, 0, 0, 1, 1, -1, 0]]), torch.zeros(1, 7))


@pytest.mark.cuda
def test_gpu_equals_cpu():
    boxes1, boxes2 = random_boxes(200, 5), random_boxes(300, 6)
    gpu = iou_3d(boxes1.cuda(), boxes2.cuda()).cpu()
    torch.testing.assert_close(gpu, iou_3d(boxes1, boxes2), rtol=0, atol=1e-12)
