"""The count of arithmetic: one layer by hand, every part of a network, growth with the points, and what it leaves."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib.errors import InputError
from lib.ops import use_backend
from lib.tasks.scene_flow import SCENE_FLOW
from models import build_model
from models.scene_flow import arithmetic
from models.scene_flow.arithmetic import count_flops
from models.scene_flow.pointconv import WEIGHTS
from tests.runs import identical


@pytest.mark.parametrize("name", SCENE_FLOW.networks.values())
def test_the_parts_are_all_that_torchs_counter_sees(name):
    net = build_model(name).eval()
    with use_backend("reference"), FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.rand(1, 256, 3), torch.rand(1, 256, 3))
    flops = count_flops(net, 256)
    assert flops.total == counter.get_total_flops()
    assert list(flops.parts) == [part for part, _ in net.named_children()] and min(flops.parts.values()) > 0


def test_one_part_by_hand():
    """The teacher's predictors: two PointConvs of 9 neighbours, a shared MLP of two layers, a head."""
    macs, points = 0, 1024
    widths, pyramid = (128, 128, 128, 64), (32, 64, 128, 256)
    for level, rows in enumerate((points, points // 4, points // 16, points // 32)):
        inputs = 2 * pyramid[level] + (64 if level < 3 else 0)  # embedding, features; the level above's predictor's
        for before, after in ((inputs, widths[0]), (widths[0], widths[1])):
            weight_net = 9 * (3 * 8 + 8 * 8 + 8 * WEIGHTS)
            macs += rows * (weight_net + 9 * (3 + before) * WEIGHTS + (3 + before) * WEIGHTS * after)
        macs += rows * (widths[1] * widths[2] + widths[2] * widths[3] + widths[3] * 3)
    assert count_flops(build_model("teacher"), points).parts["predictor"] == 2 * macs


@pytest.mark.parametrize("name", ["teacher", "student-tiny"])
def test_counts_grow_with_the_points(name, monkeypatch):
    net = build_model(name)
    scaled = count_flops(net, 2048)
    monkeypatch.setattr(arithmetic, "COUNTED_POINTS", 2048)
    assert scaled == count_flops(net, 2048)


def test_sizes_of_its_own_are_counted_as_they_are():
    net = build_model("student-tiny", sizes=(256, 64, 32, 8))
    with use_backend("reference"), FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(torch.rand(1, 1500, 3), torch.rand(1, 1500, 3))
    assert count_flops(net, 1500).total == counter.get_total_flops()


def test_teacher_and_student_at_the_published_size():
    teacher, student = (count_flops(build_model(name), 8192).total for name in ("teacher", "student"))
    assert teacher == pytest.approx(27.1e9, rel=0.01) and student == pytest.approx(15.7e9, rel=0.01)


def test_counting_leaves_the_network_and_the_random_numbers_alone():
    net = build_model("student-tiny")
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    first = count_flops(net, 128)
    assert net.training and identical(before, dict(net.state_dict())) and torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks for module in net.modules())
    assert first == count_flops(net.eval(), 128) and not net.training


def test_too_few_points_are_refused():
    with pytest.raises(InputError, match="a cloud of 100 points is too small"):
        count_flops(build_model("student-tiny"), 100)
