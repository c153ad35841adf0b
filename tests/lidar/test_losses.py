"""What anchors are to find, the losses, and the distances of output distillation."""

import math

import numpy as np
import pytest
import torch

from lib.datasets.kitti_object import open_frames
from lib.errors import InputError
from lib.losses.lidar import (
    IGNORED,
    NEGATIVE,
    assign_targets,
    box_distance,
    detection_loss,
    focal_loss,
    output_distance,
)
from models import build_model
from models.lidar.box_code import decode, direction_bin, encode, turn_to_bin
from models.lidar.published import OPENPCDET
from tests.lidar.scenes import NARROW, objects_of

GRID = (56, 56, 3, 2)  # rows, columns, classes, yaws of the small network


@pytest.fixture(scope="module")
def net():
    return build_model("pointpillars-small", **NARROW)


def car(x: float, y: float, yaw: float = 0.0, length: float = 3.9) -> list[float]:
    return [x, y, -0.95, length, 1.6, 1.56, yaw]


def assigned(net, *boxes, label=2):
    return assign_targets(net.assignment, [torch.tensor(boxes).reshape(-1, 7)], [torch.full((len(boxes),), label)])


# --- codes and directions ----------------------------------------------------------------------------------------


def test_code_by_hand():
    anchor = torch.tensor([8.16, 1.28, -1.0, 3.9, 1.6, 1.56, 1.57], dtype=torch.float64)
    box = torch.tensor([8.14944, 1.18638, -0.84260, 3.68, 1.5, 1.57, 2.81239], dtype=torch.float64)
    expected = [-0.00250, -0.02221, 0.10090, -0.05806, -0.06454, 0.00639, 1.24239]
    assert encode(box, anchor).tolist() == pytest.approx(expected, abs=6e-6)
    assert direction_bin(box[6], -math.pi / 2) == 1
    torch.testing.assert_close(decode(encode(box, anchor), anchor), box)


@pytest.mark.parametrize("offset", [-math.pi / 2, 0.78539])
def test_an_angle_comes_back_from_its_half_turn(offset):
    yaw = torch.linspace(-9.7, 9.7, 1001, dtype=torch.float64)
    bins = direction_bin(yaw, offset)
    found = turn_to_bin(yaw + math.pi * torch.arange(1001).double(), bins, offset)  # front and back mixed up
    torch.testing.assert_close(torch.remainder(found - yaw + 1, 2 * math.pi), torch.ones_like(yaw))
    inside = (yaw - offset) % (2 * math.pi) < math.pi
    assert torch.equal(bins == 0, inside)


# --- which anchor finds what -------------------------------------------------------------------------------------


def test_positives_of_real_frames(shared):
    """(positive, ignored) anchors: for the published settings and for those of OpenPCDet, whose counts are stored."""
    frames = {frame.name: frame for frame in open_frames(shared / "data/KITTI_object")}
    net = build_model("pointpillars")
    expected = {"000008": {"Car": (42, 64)}, "000010": {"Car": (65, 90), "Pedestrian": (1, 6)}}
    expected |= {"000007": {"Cyclist": (3, 2)}}
    for name, counts in expected.items():
        targets = assign_targets(net.assignment, *([part] for part in objects_of(frames[name], net)))
        for kind, pair in counts.items():
            own = targets.labels[0, net.assignment.classes[net.classes.index(kind)].rows]
            assert (int((own >= 0).sum()), int((own == IGNORED).sum())) == pair, (name, kind)


def test_counts_of_all_real_frames_with_the_settings_of_openpcdet(shared):
    with np.load(shared / "golden/lidar/pointpillar.npz", allow_pickle=False) as file:
        expected = file["frames_target_counts"]
    frames = {int(frame.name): frame for frame in open_frames(shared / "data/KITTI_object")}
    net = build_model("pointpillars", **OPENPCDET)
    for number, *counts in expected.tolist():
        targets = assign_targets(net.assignment, *([part] for part in objects_of(frames[number], net)))
        found = []
        for anchors in net.assignment.classes:
            own = targets.labels[0, anchors.rows]
            found += [int((own >= 0).sum()), int((own == IGNORED).sum()), int((own == NEGATIVE).sum())]
        assert found == counts, number


def test_thresholds(net):
    """Anchors stand every 0.64 m, the first at 0.32 m. The IoU of a shift s along x is (3.9 - s) / (3.9 + s)."""
    x, y = 0.32 + 0.64 * 20, -17.92 + 0.32 + 0.64 * 30
    targets = assigned(net, car(x, y))
    own = targets.labels[0].view(GRID)[30, :, 2, 0].tolist()  # along the row of the object
    # shifts 0, 0.64, 1.28: IoU 1, 0.72, 0.51 positive; 1.92 (0.34) is negative
    assert own[17:24] == [NEGATIVE, 2, 2, 2, 2, 2, NEGATIVE]
    beside = targets.labels[0].view(GRID)[:, 20, 2, 0].tolist()
    # across: (1.6 - s) / (1.6 + s), 0.43 at 0.64 is ignored, 0.11 at 1.28 negative
    assert beside[28:33] == [NEGATIVE, IGNORED, 2, IGNORED, NEGATIVE]
    assert (targets.labels[0].view(GRID)[:, :, :2] == NEGATIVE).all()
    assert targets.count == len(targets.positives) == 5


def test_the_best_anchor_of_every_object_is_positive(net):
    tiny = [*car(10.0, 3.0)[:3], 0.3, 0.2, 1.0, 0.0]  # in no anchor more than 1 %
    assert assigned(net, tiny).count == len(assigned(net, tiny).positives) > 0
    strict = build_model("pointpillars-small", **NARROW, force_all=False)
    targets = assigned(strict, tiny)
    assert len(targets.positives) == 0 and targets.count == 1
    x, y = 0.32 + 0.64 * 20.5, -17.92 + 0.32 + 0.64 * 30.5  # between four anchors, IoU 0.37 each: above 0.35
    found = assigned(strict, car(x, y)).labels[0].view(GRID)[30:32, 20:22, 2, 0]
    assert (found == 2).all()


def test_an_anchor_finds_the_object_that_it_overlaps_most_or_is_best_for(net):
    x, y = 0.32 + 0.64 * 20, -17.92 + 0.32 + 0.64 * 30
    boxes = torch.tensor([car(x - 0.64, y), car(x + 0.7, y)])
    targets = assigned(net, *boxes.tolist())
    found = decode(targets.codes, net.anchors[targets.positives])
    rows = torch.arange(18_816).view(GRID)[30, :, 2, 0]
    nearest = [found[targets.positives == rows[column]][0, 0].item() for column in (18, 19, 20, 21, 22)]
    assert nearest == pytest.approx([x - 0.64, x - 0.64, x - 0.64, x + 0.7, x + 0.7])

    small = [x + 0.1, y, -0.95, 0.9, 0.4, 1.0, 0.0]  # lies in the other object; its best anchors overlap that one more
    targets = assigned(net, car(x, y), small)
    found = decode(targets.codes, net.anchors[targets.positives])
    assert {round(length, 3) for length in found[:, 3].tolist()} == {3.9, 0.9}


def test_classes_and_clouds_are_apart(net):
    x, y = 0.32 + 0.64 * 20, -17.92 + 0.32 + 0.64 * 30
    boxes = [torch.tensor([car(x, y, 0.1), [x, y, -0.9, 0.8, 0.6, 1.7, 2.0]]), torch.zeros(0, 7)]
    targets = assign_targets(net.assignment, boxes, [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.int64)])
    assert (targets.labels[1] == NEGATIVE).all()
    kinds = torch.arange(3).view(3, 1).expand(GRID).flatten()
    own = targets.labels.flatten()[targets.positives]
    assert torch.equal(own, kinds[targets.positives]) and set(own.tolist()) == {0, 2}
    assert torch.equal(targets.directions, (own == 0).long())  # 2.0 rad lies beyond pi/2
    assert targets.count == len(targets.positives) + 1


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        (torch.zeros(2, 7), torch.zeros(3, dtype=torch.int64), r"boxes\[0\] \(2, 7\) must be"),
        (torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64), r"boxes\[0\] \(2, 8\) must be"),
        (torch.ones(1, 7), torch.tensor([3]), r"labels\[0\] must be 0 to 2"),
    ],
)
def test_wrong_objects(net, boxes, labels, message):
    with pytest.raises(InputError, match=message):
        assign_targets(net.assignment, [boxes], [labels])


# --- losses ------------------------------------------------------------------------------------------------------


def test_focal_loss_by_hand():
    logits = torch.full((2,), -math.log(99.0), dtype=torch.float64)
    negative, positive = focal_loss(logits, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    assert negative == pytest.approx(7.5378e-7, rel=1e-4) and positive == pytest.approx(1.12838, rel=1e-5)


def test_box_distance_by_hand():
    codes, others = torch.zeros(7), torch.zeros(7)
    codes[0], codes[1], codes[6] = 0.05, 1.0, 3 * math.pi / 2
    expected = [0.05**2 / 2 * 9, 1 - 1 / 18, 0, 0, 0, 0, 1 - 1 / 18]
    assert box_distance(codes, others).tolist() == pytest.approx(expected)
    others[6] = codes[6] + math.pi  # front and back are the direction's business
    assert box_distance(codes, others)[6].item() == pytest.approx(0, abs=1e-6)


def test_detection_loss_by_hand(net):
    """Two clouds, one without objects: logits of one value, codes of zeros."""
    targets = assign_targets(
        net.assignment,
        [torch.tensor([car(13.0, 1.0, 2.0)]), torch.zeros(0, 7)],
        [torch.tensor([2]), torch.zeros(0, dtype=torch.int64)],
    )
    positive, ignored = (len(targets.positives), int((targets.labels == IGNORED).sum()))
    logit = -math.log(99.0)
    outputs = [torch.full((2, 18_816, n), value, dtype=torch.float64) for n, value in ((3, logit), (7, 0.0), (2, 0.0))]
    parts = detection_loss(*outputs, targets)
    values = 3 * (2 * 18_816 - ignored) - positive
    assert positive > 0 and ignored > 0 and targets.count == positive + 1
    assert parts["class"].item() * targets.count == pytest.approx(values * 7.5378e-7 + positive * 1.12838, rel=1e-4)
    box = box_distance(torch.zeros_like(targets.codes), targets.codes).sum().item()
    assert parts["box"].item() * targets.count == pytest.approx(2 * box)
    assert parts["direction"].item() * targets.count == pytest.approx(0.2 * positive * math.log(2))
    outputs[2][..., 1] = 50.0  # sure of bin 1, as 2.0 rad is
    assert detection_loss(*outputs, targets)["direction"].item() == pytest.approx(0)


def test_a_batch_without_objects_has_a_loss_and_a_gradient(net):
    targets = assigned(net)
    outputs = [torch.zeros(1, 18_816, n, requires_grad=True) for n in (3, 7, 2)]
    parts = detection_loss(*outputs, targets)
    sum(parts.values()).backward()
    assert parts["class"] > 0 and parts["box"] == parts["direction"] == 0
    assert all(values.grad.isfinite().all() for values in outputs)


def test_a_small_network_learns_one_cloud():
    """Thirty steps on one car: the loss falls to a small part, and the car is found where it stands."""
    torch.manual_seed(0)
    net = build_model("pointpillars-small", **NARROW)
    box = torch.tensor([car(12.3, 2.2, 0.4)])
    turn = torch.tensor([[math.cos(0.4), math.sin(0.4)], [-math.sin(0.4), math.cos(0.4)]])
    on_car = ((torch.rand(400, 2) - 0.5) * torch.tensor([3.9, 1.6])) @ turn + box[0, :2]
    ground = torch.rand(3000, 2) * torch.tensor([35.0, 30.0]) - torch.tensor([0.0, 15.0])
    height = torch.cat((torch.rand(400) - 1.7, torch.full((3000,), -1.73)))
    cloud = torch.cat((torch.cat((on_car, ground)), height[:, None], torch.zeros(3400, 1)), 1)
    targets = assign_targets(net.assignment, [box], [torch.tensor([2])])
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        output = net([cloud])
        loss = sum(detection_loss(output.class_logits, output.box_codes, output.direction_logits, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    (found,) = net.eval().detect([cloud])
    assert found.labels[0] == 2 and (found.boxes[0, :2] - box[0, :2]).norm() < 0.5


# --- output distillation -----------------------------------------------------------------------------------------


def test_output_distance_by_hand():
    teacher = torch.tensor([[[2.0, -3.0], [-4.0, -5.0]]], dtype=torch.float64)  # one cloud, two anchors, two classes
    student = torch.tensor([[[1.0, -2.0], [0.0, -5.0]]], dtype=torch.float64, requires_grad=True)
    codes, teacher_codes = torch.zeros(1, 2, 7, dtype=torch.float64), torch.zeros(1, 2, 7, dtype=torch.float64)
    teacher_codes[0, 0, 0], teacher_codes[0, 1, 0] = 1.0, 9.0  # the second anchor is not confident
    parts = output_distance(student, codes, teacher, teacher_codes)
    p, q = teacher.sigmoid(), student.detach().sigmoid()
    cross, entropy = ((-p * other.log() - (1 - p) * (1 - other).log()).sum(-1) for other in (q, p))
    weight = p.amax(-1)
    expected = (weight * (cross - entropy)).sum() / weight.sum()
    assert parts["class_distance"].item() == pytest.approx(expected.item())
    assert parts["box_distance"].item() == pytest.approx(1 - 1 / 18)
    same = output_distance(teacher, teacher_codes, teacher.requires_grad_(True), teacher_codes)
    assert [value.item() for value in same.values()] == [0, 0]
    parts["class_distance"].backward()
    assert teacher.grad is None and student.grad[0, 1, 0] > 0


def test_output_distance_without_confident_anchors_and_with_other_anchors():
    logits, codes = torch.full((1, 5, 3), -5.0), torch.ones(1, 5, 7, requires_grad=True)
    parts = output_distance(logits, codes, logits, torch.zeros(1, 5, 7))
    sum(parts.values()).backward()
    assert parts["box_distance"] == 0 and not codes.grad.any()
    with pytest.raises(InputError, match="the same anchors and classes"):
        output_distance(logits, codes, logits[:, :4], codes[:, :4])
