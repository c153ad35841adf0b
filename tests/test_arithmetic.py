"""The count of arithmetic against torch's own counter on the readable twins, where every product is torch's."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib.arithmetic import count_flops
from lib.ops import use_backend
from lib.ops.errors import InputError
from models import MODELS, build_model
from tests.runs import identical


@pytest.mark.parametrize("name", list(MODELS))
def test_the_count_is_that_of_torchs_counter(name):
    net = build_model(name).eval()
    with use_backend("reference"), FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.rand(1, 256, 3), torch.rand(1, 256, 3))
    flops = count_flops(net, 256)
    assert flops.total == counter.get_total_flops() == flops.linear + flops.pointconv + flops.embedding
    assert min(flops.linear, flops.pointconv, flops.embedding) > 0


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
