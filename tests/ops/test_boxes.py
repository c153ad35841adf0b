"""Operations on boxes: against their twins bit by bit, against the evaluator's overlaps, shapely, and known values."""

import inspect
import math

import numpy as np
import pytest
import torch

from lib import ops
from lib.boxes import camera_to_lidar
from lib.datasets.kitti_object import open_frames
from lib.metrics import kitti_overlap
from lib.ops import InputError
from lib.ops import reference_boxes as reference

generator = torch.Generator().manual_seed(0)
NAN = float("nan")


def box(x=0.0, y=0.0, z=0.0, length=4.0, width=2.0, height=1.0, yaw=0.0) -> torch.Tensor:
    return torch.tensor([[x, y, z, length, width, height, yaw]], dtype=torch.float64)


def any_boxes(count: int) -> torch.Tensor:
    """Of all sizes and angles, crowded."""
    spread = torch.tensor([6.0, 6, 2, 4, 4, 2, 8], dtype=torch.float64)
    low = torch.tensor([50, -3, 0, 0.1, 0.1, 0.1, -4], dtype=torch.float64)
    return torch.rand(count, 7, generator=generator, dtype=torch.float64) * spread + low


def grid_boxes(count: int) -> torch.Tensor:
    """Whole numbers and quarter turns: equal boxes, shared edges, corners on edges, boxes of no size."""
    boxes = torch.randint(0, 4, (count, 7), generator=generator).double()
    boxes[:, 6] *= math.pi / 2
    return boxes


def one_box(count: int) -> torch.Tensor:
    return box(yaw=0.3).repeat(count, 1)


BOXES = [any_boxes, grid_boxes, one_box]
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", BOXES)
def test_overlaps_equal_the_twin_and_the_evaluators(make, dtype):
    boxes1, boxes2 = make(70).to(dtype), make(50).to(dtype)
    bev, volume = ops.bev_iou(boxes1, boxes2), ops.box_iou(boxes1, boxes2)
    assert torch.equal(bev, reference.bev_iou(boxes1, boxes2))
    assert torch.equal(volume, reference.box_iou(boxes1, boxes2))

    one, two = boxes1.double().repeat_interleave(50, 0).numpy(), boxes2.double().repeat(70, 1).numpy()  # pair by pair
    ground1, ground2 = one[:, [0, 1, 3, 4, 6]], two[:, [0, 1, 3, 4, 6]]
    shared = kitti_overlap.ground_intersection(ground1, ground2)
    heights1, heights2 = (np.stack([b[:, 2] - b[:, 5] / 2, b[:, 2] + b[:, 5] / 2], 1) for b in (one, two))
    expected = kitti_overlap.ground_iou(ground1, ground2, shared)
    np.testing.assert_allclose(bev.numpy().ravel(), expected, rtol=0, atol=1e-12)
    expected = kitti_overlap.upright_iou(ground1, ground2, heights1, heights2, shared)
    np.testing.assert_allclose(volume.numpy().ravel(), expected, rtol=0, atol=1e-12)
    assert 0 <= volume.min() and bev.max() <= 1 and volume.max() <= 1
    torch.testing.assert_close(ops.bev_iou(boxes2, boxes1).T, bev, rtol=0, atol=1e-12)


def test_overlaps_equal_shapely():
    geometry = pytest.importorskip("shapely.geometry")
    boxes1, boxes2 = any_boxes(40), any_boxes(30)
    corners = torch.tensor([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]], dtype=torch.float64)

    def polygon(x, y, _z, length, width, _height, yaw):
        turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
        return geometry.Polygon(corners.numpy() * (length, width) @ turn.T + (x, y))

    ones, twos = ([polygon(*row) for row in boxes.tolist()] for boxes in (boxes1, boxes2))
    expected = [[a.intersection(b).area / a.union(b).area for b in twos] for a in ones]
    np.testing.assert_allclose(ops.bev_iou(boxes1, boxes2).numpy(), expected, rtol=0, atol=1e-12)


UNIT = dict(length=1, width=1)
CAR = dict(length=3.9, width=1.6)
KNOWN = [  # two boxes, overlap seen from above, overlap of the volumes
    (box(**UNIT), box(**UNIT, yaw=math.pi / 4), 0.7071068, 0.7071068),
    (box(), box(yaw=math.pi / 2), 1 / 3, 1 / 3),
    (box(), box(2), 1 / 3, 1 / 3),
    (box(), box(yaw=math.pi), 1, 1),
    (box(), box(length=2, width=1), 0.25, 0.25),
    (box(**CAR), box(0.5, 0.2, **CAR, yaw=math.pi / 6), 0.4922442, 0.4922442),
    (box(), box(z=0.5), 1, 1 / 3),
    (box(), box(z=1), 1, 0),
    (box(length=0), box(length=0), 0, 0),
    (box(), box(height=0), 1, 0),
]


@pytest.mark.parametrize(("first", "second", "bev", "volume"), KNOWN)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_known_overlaps(first, second, bev, volume, backend):
    with ops.use_backend(backend):
        for pair in ((first, second), (second, first)):
            assert ops.bev_iou(*pair).item() == pytest.approx(bev, abs=5e-8)
            assert ops.box_iou(*pair).item() == pytest.approx(volume, abs=5e-8)


@pytest.mark.parametrize("moved", [box(4), box(0, 2), box(4, 2), box(3, yaw=math.pi / 2), box(0, 3, yaw=-math.pi / 2)])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_boxes_that_touch_share_nothing_at_all(moved, backend):
    with ops.use_backend(backend):
        assert ops.bev_iou(box(), moved).item() == ops.box_iou(moved, box()).item() == 0
        assert ops.rotated_nms(torch.cat([box(), moved]), torch.ones(2), 0).tolist() == [0, 1]


def test_a_labelled_car_and_itself_moved(shared):
    """lidar_detection.md, 13.5: the move is one of the camera frame."""
    (frame,) = (f for f in open_frames(shared / "data/KITTI_object/training") if f.name == "000008")
    camera = frame.objects[1].camera_box
    level = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # no tilt between the two frames
    move = np.array([0.3, 0.1, 0.2, 0, 0, 0, 0.1])
    first, second = (torch.from_numpy(camera_to_lidar(b, level))[None] for b in (camera, camera + move))
    assert ops.bev_iou(first, second).item() == pytest.approx(0.660653, abs=1e-6)
    assert ops.box_iou(first, second).item() == pytest.approx(0.593595, abs=1e-6)


@pytest.mark.parametrize("threshold", [0, 0.01, 0.3, 0.8, 1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", BOXES)
def test_nms_equals_the_twin_and_its_definition(make, dtype, threshold):
    boxes = make(80).to(dtype)
    scores = torch.randint(0, 40, (80,), generator=generator).to(dtype)  # many equal ones
    kept = ops.rotated_nms(boxes, scores, threshold)
    assert torch.equal(kept, reference.rotated_nms(boxes, scores, threshold))
    assert torch.equal(ops.rotated_nms(boxes, scores, threshold, 7), kept[:7])
    assert torch.equal(reference.rotated_nms(boxes, scores, threshold, 7), kept[:7])

    expected, iou = [], ops.bev_iou(boxes, boxes)
    for i in sorted(range(80), key=lambda i: (-scores[i].item(), i)):
        if all(iou[j, i] <= threshold for j in expected):
            expected.append(i)
    assert kept.tolist() == expected


def test_nms_of_many_boxes_far_and_near():
    """Boxes of very different sizes: a far one with a long reach still counts."""
    boxes = any_boxes(400)
    boxes[:, :2] *= 4
    boxes[::50, 3:5] *= 30
    scores = torch.rand(400, generator=generator)
    for threshold in (0.0, 0.02):
        assert torch.equal(ops.rotated_nms(boxes, scores, threshold), reference.rotated_nms(boxes, scores, threshold))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", BOXES)
def test_points_in_boxes_equal_the_twin(make, dtype):
    boxes = make(40).to(dtype)
    points = torch.cat([boxes[:, :4], boxes[:, :4] + 0.5, (torch.rand(300, 4, generator=generator) * 5).to(dtype)])
    found = ops.points_in_boxes(points, boxes)
    assert found.dtype == torch.bool and torch.equal(found, reference.points_in_boxes(points, boxes))
    assert found[:, :40].diagonal().all()  # the centres


ON, BEYOND = [[2.0, 0, 0], [-2, 1, 0.5], [0, -1, -0.5]], [[2.001, 0, 0], [0, -1.001, 0], [0, 0, -0.501]]


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_points_on_the_faces_are_inside(backend):
    points = torch.tensor(ON + BEYOND)
    turned = torch.stack([1 - points[:, 1], 1 + points[:, 0], 1 + points[:, 2]], 1)  # by a quarter, moved by (1, 1, 1)
    with ops.use_backend(backend):
        assert ops.points_in_boxes(points, box().float()).tolist() == [[True] * 3 + [False] * 3]
        quarter = box(1, 1, 1, length=4.0001, width=2.0001, yaw=math.pi / 2)  # its cosine is not quite 0
        assert ops.points_in_boxes(turned.double(), quarter).tolist() == [[True] * 3 + [False] * 3]


COUNTS = {("000000", 0): 377, ("000003", 0): 674, ("000007", 0): 182, ("000007", 3): 25, ("000008", 1): 1900}


def test_points_in_labelled_boxes(shared):
    """detection_data.md, acceptance value 4."""
    frames = {frame.name: frame for frame in open_frames(shared / "data/KITTI_object/training")}
    for (name, line), expected in COUNTS.items():
        frame = frames[name]
        boxes = camera_to_lidar(frame.objects[line].camera_box, frame.calibration.lidar_to_camera)
        found = ops.points_in_boxes(torch.from_numpy(frame.points), torch.from_numpy(boxes)[None])
        assert abs(found.sum().item() - expected) <= 1, (name, line)


def test_nothing_and_boxes_that_are_not_contiguous():
    boxes, points, none = any_boxes(9), torch.rand(20, 4).double() * 5, torch.zeros(0, 7, dtype=torch.float64)
    turned = boxes.T.contiguous().T
    scores = torch.rand(18)[::2]
    for backend in ("auto", "reference"):
        with ops.use_backend(backend):
            assert ops.bev_iou(none, boxes).shape == (0, 9) and ops.box_iou(boxes, none).shape == (9, 0)
            assert ops.rotated_nms(none, none[:, 0], 0.5).tolist() == []
            assert ops.rotated_nms(boxes, boxes[:, 0], 0.5, 0).tolist() == []
            assert ops.points_in_boxes(points[:0], boxes).shape == (9, 0)
            assert ops.points_in_boxes(points, none).shape == (0, 20)
            torch.testing.assert_close(ops.box_iou(turned, turned), ops.box_iou(boxes, boxes), rtol=0, atol=1e-12)
            assert torch.equal(ops.rotated_nms(turned, scores, 0.1), ops.rotated_nms(boxes, scores.clone(), 0.1))
            assert torch.equal(ops.points_in_boxes(points.T.contiguous().T, turned), ops.points_in_boxes(points, boxes))


GOLDEN = ("rois", "roi_labels", "gt_boxes", "roi_gt_iou", "rcnn_boxes", "rcnn_scores", "pred_boxes", "pred_scores")


def test_golden_overlaps_and_nms(shared):
    """Of a second stage (golden/lidar): 100 regions against the truth of their class; 28 of their boxes are kept."""
    with np.load(shared / "golden/lidar/pointrcnn.npz", allow_pickle=False) as golden:
        values = {name: torch.from_numpy(golden[name]) for name in GOLDEN}
    truth, kinds = values["gt_boxes"].split([7, 1], dim=1)
    iou = ops.box_iou(values["rois"], truth) * (values["roi_labels"][:, None] == kinds.T)
    torch.testing.assert_close(iou.amax(1), values["roi_gt_iou"], rtol=0, atol=1e-12)

    sure = values["rcnn_scores"] >= 0.1
    boxes, scores = values["rcnn_boxes"][sure], values["rcnn_scores"][sure]
    kept = ops.rotated_nms(boxes, scores, 0.1)
    assert torch.equal(boxes[kept], values["pred_boxes"]) and torch.equal(scores[kept], values["pred_scores"])


def test_boxes_and_points_that_are_not_numbers_are_refused_alone():
    """Columns behind x, y, z are not looked at, and gradients do not flow."""
    points = torch.full((3, 5), NAN)
    points[:, :3] = 0
    boxes = box().float().requires_grad_()
    assert ops.points_in_boxes(points, boxes).all()
    assert not ops.bev_iou(boxes, boxes).requires_grad


BOX, POINTS = box(), torch.zeros(4, 3, dtype=torch.float64)
BAD = [
    (lambda: ops.bev_iou(BOX * NAN, BOX), "bev_iou: boxes1 (1, 7) holds NaN or infinite coordinates"),
    (lambda: ops.box_iou(BOX, BOX / 0), "box_iou: boxes2 (1, 7) holds NaN or infinite coordinates"),
    (lambda: ops.bev_iou(BOX[0], BOX), "bev_iou: boxes1 must be floating (N, 7), got torch.float64 of shape (7,)"),
    (lambda: ops.bev_iou(BOX, BOX.long()), "bev_iou: boxes2 must be floating (N, 7), got torch.int64 of shape (1, 7)"),
    (lambda: ops.bev_iou(box(width=-1), BOX), "bev_iou: boxes1 (1, 7) hold a length, width or height below 0"),
    (
        lambda: ops.bev_iou(BOX, BOX.to("meta")),
        "bev_iou: boxes1 (1, 7) is on cpu but boxes2 (1, 7) on meta: move one",
    ),
    (lambda: ops.rotated_nms(BOX, torch.ones(2), 0.5), "rotated_nms: scores (2,) must be (N,) for boxes (1, 7)"),
    (
        lambda: ops.rotated_nms(BOX, torch.tensor([NAN]), 0.5),
        "rotated_nms: scores (1,) holds NaN or infinite coordinates",
    ),
    (
        lambda: ops.rotated_nms(BOX, torch.ones(1), NAN),
        "rotated_nms: the threshold is nan: give an overlap from 0 to 1",
    ),
    (
        lambda: ops.rotated_nms(BOX, torch.ones(1), 0.5, -1),
        "rotated_nms: the limit is -1: give None for no limit, or 0 or more",
    ),
    (
        lambda: ops.points_in_boxes(POINTS * NAN, BOX),
        "points_in_boxes: points (4, 3) holds NaN or infinite coordinates",
    ),
    (lambda: ops.points_in_boxes(POINTS[:, :2], BOX), "points_in_boxes: points (4, 2) must be floating (N, 3 or more)"),
]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("call", "message"), BAD)
def test_wrong_arguments(call, message, backend):
    with ops.use_backend(backend), pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message


def test_data_is_prepared_on_a_cpu_whatever_runs_on_the_gpu():
    with ops.use_backend("cuda"):
        assert ops.bev_iou(BOX, BOX).item() == ops.box_iou(BOX, BOX).item() == 1
        assert ops.rotated_nms(BOX, torch.ones(1), 0.5).tolist() == [0] and ops.points_in_boxes(POINTS, BOX).all()
        assert len(ops.voxelise([POINTS], ops.VoxelGrid((0, 0, 0), (1, 1, 1), (1, 1, 1)), 9, 9).points) == 1


def test_every_operation_has_a_twin_of_the_same_signature():
    for name in ("bev_iou", "box_iou", "rotated_nms", "points_in_boxes"):
        assert inspect.signature(getattr(ops, name)) == inspect.signature(getattr(reference, name))
