"""PointPillars: its sizes and anchors, the pillar network against its plain formula, freezing, and wrong input."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib.errors import InputError
from lib.features import Shape
from lib.losses.lidar import assign_targets, detection_loss
from lib.ops import Cells
from models import build_model, count_parameters, frozen, load_model, model_record, restore_model
from models.lidar import published
from models.lidar.arithmetic import count_flops
from models.lidar.pointpillars import PointPillars, decorate
from tests.lidar.formula_weights import fill
from tests.lidar.scenes import NARROW, made_cloud

SIZES = {  # name -> parameters, multiply-adds in G
    "pointpillars": (4_834_888, 34.17),
    "pointpillars-4x": (1_217_352, 8.91),
    "pointpillars-16x": (308_680, 2.41),
    "pointpillars-small": (644_680, 0.291),
    "pointpillars-small-4x": (165_192, 0.0835),
    "pointpillars-small-16x": (43_336, 0.0263),
}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_sizes(name, size):
    net = build_model(name)
    flops = count_flops(net)
    assert count_parameters(net) == size[0]
    assert flops.total / 2e9 == pytest.approx(size[1], rel=0.01)
    assert list(flops.parts) == ["backbone", "neck", "head"]
    assert len(net.anchors) == (18_816 if "small" in name else 321_408)


def test_parts_of_the_teacher_and_one_class_alone():
    net = build_model("pointpillars")
    counts = [count_parameters(part) for part in net.children()]
    assert counts == [768, 4_207_616, 598_784, 27_720]
    assert count_parameters(build_model("pointpillars", classes=("Car",))) == 4_814_868


def test_anchors():
    net = build_model("pointpillars")
    grid = net.anchors.view(248, 216, 3, 2, 7)  # row, column, class, yaw
    car = [3.9, 1.6, 1.56]
    expected = [[0.16, -39.52, -1.0, *car, 0], [0.16, -39.52, -1.0, *car, 1.57], [68.96, 39.52, -1.0, *car, 1.57]]
    found = torch.stack((grid[0, 0, 2, 0], grid[0, 0, 2, 1], grid[-1, -1, 2, 1]))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(grid[3, 5, 1, 0], grid[0, 0, 1, 0] + torch.tensor([1.6, 0.96] + [0.0] * 5).double())
    assert grid[0, 0, :, 0, 2].tolist() == pytest.approx([-0.6 + 1.73 / 2, -0.6 + 1.73 / 2, -1.0])
    small = build_model("pointpillars-small").anchors.view(56, 56, 3, 2, 7)
    assert small[0, 0, 0, 1].tolist() == pytest.approx([0.32, -17.6, 1.73 / 2 - 1.73, 0.8, 0.6, 1.73, math.pi / 2])
    alone = build_model("pointpillars", classes=("Car",)).anchors
    assert torch.equal(alone, grid[:, :, 2].flatten(0, 2)) and len(alone) == 107_136


def test_pillars_of_the_real_frames(shared):
    net = build_model("pointpillars").eval()
    for name, pillars, full in (("000000", 3384, 76), ("000008", 3945, 56), ("000010", 5569, 5)):
        file = shared / f"data/KITTI_object/training/velodyne_reduced/{name}.bin"
        cells = net.cells([torch.from_numpy(np.fromfile(file, "<f4").reshape(-1, 4))])
        assert (len(cells.counts), int((cells.counts == 32).sum())) == (pillars, full)


def plain_pillars(net: PointPillars, cells: Cells) -> torch.Tensor:
    """The pillar network as it is defined, with every slot."""
    slots = cells.points.shape[1]
    there = torch.arange(slots) < cells.counts[:, None]
    features = cells.points.new_zeros(*there.shape, 10)
    features[there] = decorate(cells, net.grid)
    part, norm = net.pillars, net.pillars.norm
    values = part.linear(features).flatten(0, 1)  # (P, S, C) -> (P S, C)
    values = F.batch_norm(
        values, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, norm.momentum, norm.eps
    )
    return values.view(*there.shape, -1).relu().amax(1)


@pytest.mark.parametrize("training", [True, False])
def test_the_pillar_network_is_its_plain_formula(training):
    """Values, gradients and running statistics; max_points is small, so that some pillars are full."""
    net = build_model("pointpillars-small", **NARROW, max_points=3).double().train(training)
    with torch.no_grad():
        net.pillars.norm.weight.normal_()  # some below 0: the least value becomes the highest
        net.pillars.norm.bias.normal_()
        net.pillars.norm.running_mean.normal_()
    twin = build_model("pointpillars-small", **NARROW, max_points=3).double().train(training)
    twin.load_state_dict(net.state_dict())
    cells = net.cells([made_cloud(), made_cloud(seed=1)])
    cells = cells._replace(points=cells.points.double())
    assert 0 < (cells.counts == 3).sum() < len(cells.counts)
    weight = torch.rand(len(cells.counts), 8, dtype=torch.float64)
    found, expected = net.pillars(cells), plain_pillars(twin, cells)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(net.pillars.parameters(), twin.pillars.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    buffers = [dict(one.pillars.norm.named_buffers()) for one in (net, twin)]
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(buffers[0][name], buffers[1][name])


def test_decoration_by_hand():
    net = build_model("pointpillars-small", **NARROW)
    # two points of one pillar: x 0.32 to 0.64, y 0 to 0.32, z -3 to 1
    points = torch.tensor([[0.4, 0.1, -1.0, 0.5], [0.6, 0.3, 0.0, 0.1]])
    rows = decorate(net.cells([points]), net.grid)
    expected = [
        [0.4, 0.1, -1.0, 0.5, -0.1, -0.1, -0.5, -0.08, -0.06, 0.0],
        [0.6, 0.3, 0.0, 0.1, 0.1, 0.1, 0.5, 0.12, 0.14, 1.0],
    ]
    torch.testing.assert_close(rows, torch.tensor(expected))


def shaken(net: PointPillars) -> PointPillars:
    """With the statistics of a training step or two, so that the normalisation does something."""
    torch.manual_seed(0)
    for norm in (m for m in net.modules() if hasattr(m, "running_mean")):
        norm.weight.data.normal_(1, 0.3)
        norm.bias.data.normal_(0, 0.3)
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
    return net


@pytest.mark.parametrize("name", ["pointpillars-small", "pointpillars-small-16x"])
def test_a_frozen_network_folds_its_normalisation(name):
    torch.manual_seed(0)
    net = shaken(build_model(name)).eval()
    clouds = [made_cloud(), made_cloud(seed=1)]
    features = list(net.feature_shapes())
    with torch.no_grad():
        before = net(clouds, features=features)
        calls = []
        net.backbone.stages[0][0].norm.register_forward_hook(lambda *_: calls.append(1))
        after = frozen(net)(clouds, features=features)
        assert not calls
        for one, other in zip(*(outputs_of(o) for o in (before, after)), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)

        weight = net.backbone.stages[0][0].conv.weight  # torch sees the change: folded again
        weight.mul_(0.5)
        changed = net(clouds).class_logits
        assert not torch.allclose(changed, after.class_logits)
        torch.testing.assert_close(restored(net)(clouds).class_logits, changed, rtol=1e-5, atol=1e-5)
    net.train().requires_grad_(True)(clouds).class_logits.sum().backward()
    assert calls and weight.grad.abs().sum() > 0


def outputs_of(output) -> list[torch.Tensor]:
    return [output.class_logits, output.box_codes, output.direction_logits, *output.features.values()]


def restored(net: PointPillars) -> PointPillars:
    return restore_model(model_record(net))


def test_features_have_the_shapes_that_they_are_said_to_have():
    net = build_model("pointpillars-small-16x")
    output = net([made_cloud(), made_cloud(seed=1)], features=list(net.feature_shapes()))
    pillars = len(output.cells.counts)
    expected = {"pillars": (pillars, 8), "bev/0": (2, 8, 56, 56), "bev/1": (2, 16, 28, 28), "bev/2": (2, 32, 14, 14)}
    assert {name: tuple(values.shape) for name, values in output.features.items()} == expected
    assert net.feature_shapes() == {
        name: Shape(shape[1], "map" if name.startswith("bev") else "rows") for name, shape in expected.items()
    }
    assert output.class_logits.shape == (2, 18_816, 3) and output.box_codes.shape == (2, 18_816, 7)
    with pytest.raises(InputError, match="no feature 'bev': choose of pillars, bev/0"):
        net([made_cloud()], features=["bev"])


def test_gradient_reaches_every_parameter():
    net = build_model("pointpillars-small", **NARROW)
    output = net([made_cloud()])
    sum(values.square().sum() for values in outputs_of(output)).backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


def test_clouds_of_a_batch_do_not_touch_each_other():
    net = shaken(build_model("pointpillars-small", **NARROW)).double().eval()
    clouds = [made_cloud(seed=i).double() for i in range(3)]
    together = outputs_of(net(clouds))
    alone = [torch.cat(parts) for parts in zip(*(outputs_of(net([cloud])) for cloud in clouds), strict=True)]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_teacher_and_student_share_cells():
    teacher, student = build_model("pointpillars-small").eval(), build_model("pointpillars-small-16x").eval()
    clouds = [made_cloud()]
    output = student(clouds)
    with torch.no_grad():
        shared = teacher(clouds, output.cells)
        assert shared.cells is output.cells and torch.equal(shared.anchors, output.anchors)
        assert torch.equal(shared.class_logits, teacher(clouds).class_logits)


def test_half_precision_keeps_coordinates_and_types():
    """Under autocast the convolutions run in bfloat16, the pillar network does not, and outputs are float32."""
    net = shaken(build_model("pointpillars-small", **NARROW)).eval()
    whole = net([made_cloud()], features=["pillars"])
    with torch.autocast("cpu", torch.bfloat16):
        half = net([made_cloud()], features=["pillars"])
    assert torch.equal(half.features["pillars"], whole.features["pillars"])
    assert not torch.equal(half.class_logits, whole.class_logits)
    for one, other in zip(outputs_of(half), outputs_of(whole), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.05)
    sum(values.sum() for values in outputs_of(half)).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.cuda
def test_a_gpu_finds_the_same():
    clouds, found, losses = [made_cloud(), made_cloud(seed=1)], [], []
    for device in ("cpu", "cuda"):
        net = shaken(build_model("pointpillars-small", **NARROW)).double().to(device)
        here = [cloud.double().to(device) for cloud in clouds]
        boxes = torch.tensor([[12.0, 2.0, -1.0, 3.9, 1.6, 1.5, 0.3]], device=device)
        targets = assign_targets(net.assignment, [boxes] * 2, [torch.tensor([2], device=device)] * 2)
        output = net(here)
        parts = detection_loss(output.class_logits, output.box_codes, output.direction_logits, targets)
        sum(parts.values()).backward()
        losses.append([*(value.item() for value in parts.values()), *(p.grad.norm().item() for p in net.parameters())])
        found.append(frozen(net).detect(here)[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6, abs=1e-9)
    for one, other in zip(found[0][:3], found[1][:3], strict=True):
        torch.testing.assert_close(other.cpu(), one)


def test_caps_of_training_and_evaluation():
    net = build_model("pointpillars-small", **NARROW, max_cells=(50, 100))
    assert [len(net.train(mode).cells([made_cloud()] * 2).counts) for mode in (True, False)] == [100, 200]


# --- detections ------------------------------------------------------------------------------------------------


def test_detections_by_hand():
    """Codes of zero are the anchors themselves: which stay, which go, and which way they look."""
    net = build_model("pointpillars-small", **NARROW).eval()
    output = net([made_cloud()])
    logits = torch.full_like(output.class_logits, -9.0)
    codes, directions = torch.zeros_like(output.box_codes), torch.zeros_like(output.direction_logits)
    grid = torch.arange(18_816).view(56, 56, 3, 2)  # row, column, class, yaw
    car, beside, pedestrian = grid[20, 20, 2, 0], grid[20, 21, 2, 0], grid[30, 9, 0, 1]
    logits[0, car, 2], logits[0, beside, 2], logits[0, pedestrian, 0] = 2.0, 1.0, 0.5
    logits[0, car, 1] = -1.0  # a second class of the same anchor: suppression is within a class
    directions[0, car, 1] = 1.0  # looks back
    codes[0, pedestrian, 6] = 0.3  # yaw pi/2 + 0.3, looks to the half turn of -pi/2 to pi/2
    output.class_logits, output.box_codes, output.direction_logits = logits, codes, directions
    (found,) = net.decode(output)
    assert found.classes == ("Pedestrian", "Cyclist", "Car") and found.labels.tolist() == [2, 0, 1]
    assert found.scores.tolist() == pytest.approx(torch.tensor([2.0, 0.5, -1.0]).sigmoid().tolist())
    torch.testing.assert_close(found.boxes[:, :6], net.anchors[[car, pedestrian, car], :6].float())
    assert found.boxes[:, 6].tolist() == pytest.approx([math.pi, 0.3 - math.pi / 2, math.pi])


def test_limits_of_detections():
    net = build_model("pointpillars-small", **NARROW, candidates=7, most=3, overlap=1.0).eval()
    output = net([made_cloud()])
    output.class_logits = torch.linspace(-1, 3, output.class_logits.numel()).view_as(output.class_logits)
    assert len(net.decode(output)[0].scores) == 3
    net = build_model("pointpillars-small", **NARROW, candidates=7, overlap=1.0, per_class=False).eval()
    (found,) = net.decode(output)
    assert len(found.scores) == 7 and set(found.labels.tolist()) == {2}


@pytest.mark.parametrize("empty", [torch.zeros(0, 4), torch.tensor([[99.0, 0, 0, 0]])])
def test_nothing_is_found_where_nothing_was_seen(empty):
    net = build_model("pointpillars-small", **NARROW).eval()
    torch.nn.init.constant_(net.head.scores.bias, 3.0)  # sure of objects everywhere
    first, second = net.detect([empty, made_cloud()])
    assert len(first.scores) == 0 and first.boxes.shape == (0, 7) and len(second.scores) > 0
    assert len(net.detect([empty])[0].scores) == 0
    with pytest.raises(InputError, match="holds no point in the network's range"):
        net.train()([empty])


# --- wrong input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clouds", "message"),
    [
        ([torch.zeros(5, 3)], r"clouds\[0\] is \(5, 3\): give rows of x, y, z in m and reflectance"),
        ([torch.zeros(5, 4), torch.zeros(4)], r"clouds\[1\] is \(4,\)"),
        ([torch.full((5, 4), math.nan)], "NaN or infinite"),
        ([torch.tensor([[1.0, 1.0, 0.0, math.inf]])], "NaN or infinite"),
        ([], "no cloud"),
    ],
)
def test_wrong_clouds(clouds, message):
    with pytest.raises(InputError, match=message) as error:
        build_model("pointpillars-small", **NARROW).eval().detect(clouds)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("Car", "Tram")}, "option classes"),
        ({"range": (0, 0, 0, 1, 1)}, "option range"),
        ({"cell": 0.3}, "must extend over multiples of 2.4 m"),
        ({"stages": (8, 8)}, "equally long"),
        ({"pillar": 0}, "whole numbers above 0"),
        ({"max_cells": (6000,)}, "max_cells"),
        ({"most": 0}, "one or more"),
        ({"width": 3}, "unexpected keyword"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        build_model("pointpillars-small", **options)


def test_a_published_state_selects_its_settings(shared, tmp_path):
    state = fill(shared, "pointpillar")
    path = tmp_path / "published.pth"
    torch.save({"model_state": state}, path)
    net = load_model(path)
    assert net.classes == ("Car", "Pedestrian", "Cyclist") and net.range[3] == 69.12
    assert restored(net).options == net.options
    state["dense_head.conv_cls.weight"] = state["dense_head.conv_cls.weight"][:2]
    broken = {"dense_head.conv_cls.weight": r"conv_cls.weight is \(2, 384, 1, 1\), expected \(18, 384, 1, 1\)"}
    broken |= {"vfe.pfn_layers.0.norm.bias": "1 tensors missing"}
    for name, message in broken.items():
        with pytest.raises(InputError, match=message):
            published.from_published({"model_state": state})
        del state[name if name in state else "vfe.pfn_layers.0.norm.bias"]
