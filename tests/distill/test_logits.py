"""Distillation of logits against values worked out by hand."""

import math

import pytest
import torch

from lib.errors import InputError
from lib.features import Outputs
from lib.losses.distill import DistillationContext, Setting, parse_distill
from lib.losses.distill.logits import LogitsDistillation, as_two_classes, logits_loss
from tests.distill.steps import never, normal

SETTING = Setting({}, {}, 1, logits={"roi": 3, "anchors": 1})


def step(student: torch.Tensor, teacher: torch.Tensor, name: str = "roi") -> DistillationContext:
    return DistillationContext(
        student=Outputs(None, logits={name: student}),
        teacher=Outputs(None, logits={name: teacher}),
        task_loss=never,
        distance=never,
    )


def test_by_hand():
    """Row 1: (3/4, 1/4) of the teacher against (1/2, 1/2). Row 2: both are (1/2, 1/2)."""
    teacher = torch.tensor([[math.log(3.0), 0.0], [5.0, 5.0]])
    student = torch.tensor([[7.0, 7.0], [0.0, 0.0]])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert logits_loss(student, teacher, 1.0).item() == pytest.approx(divergence / 2)
    # temperature 2: the teacher's (log 9, 0) / 2 is (log 3, 0), so the probabilities are those from above
    assert logits_loss(student, 2 * teacher, 2.0).item() == pytest.approx(4 * divergence / 2)
    backwards = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert logits_loss(teacher, student, 1.0).item() == pytest.approx(backwards / 2) and backwards != divergence


def test_a_constant_added_to_a_row_changes_nothing():
    student, teacher, shift = normal(5, 4), normal(5, 4, seed=1), 10 * normal(5, 1, seed=2)
    torch.testing.assert_close(logits_loss(student + shift, teacher), logits_loss(student, teacher))
    assert logits_loss(teacher + shift, teacher).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_the_difference_of_the_probabilities(temperature):
    student, teacher = normal(5, 4).requires_grad_(), normal(5, 4, seed=1).requires_grad_()
    logits_loss(student, teacher, temperature).backward()
    soft = [torch.softmax(z.detach() / temperature, 1) for z in (student, teacher)]
    torch.testing.assert_close(student.grad, temperature * (soft[0] - soft[1]) / 5)
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda s: logits_loss(s, teacher, temperature), student)


def test_extreme_logits_and_no_rows_stay_finite():
    student = torch.tensor([[1e4, -1e4, 0.0]]).requires_grad_()
    loss = logits_loss(student, torch.tensor([[-1e4, 1e4, 0.0]]))
    loss.backward()
    assert loss.isfinite() and loss > 0 and student.grad.isfinite().all()
    assert logits_loss(torch.zeros(0, 3), torch.zeros(0, 3)).item() == 0.0


def test_yes_or_no_heads_are_rows_of_two_classes():
    z = normal(3, 2)
    pairs = torch.softmax(as_two_classes(z), 1)
    torch.testing.assert_close(pairs[:, 0], z.sigmoid().flatten())
    student, teacher = normal(3, 1), normal(3, 1, seed=1)
    loss = LogitsDistillation(SETTING, "anchors", temperature=1.0, sigmoid=True)(step(student, teacher, "anchors"))
    p, q = teacher.sigmoid(), student.sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(loss["logits"], expected)


def test_the_options_reach_the_loss():
    student, teacher = normal(4, 3), normal(4, 3, seed=1)
    method = parse_distill("logits@roi+temperature=2").build(SETTING).methods[0]
    assert (method.features, method.logits, list(method.parameters())) == ((), ("roi",), [])
    torch.testing.assert_close(method(step(student, teacher))["logits"], logits_loss(student, teacher, 2.0))
    plain = LogitsDistillation(SETTING, "roi", temperature=2.0, scaled=False)(step(student, teacher))
    torch.testing.assert_close(plain["logits"], logits_loss(student, teacher, 2.0) / 4)
    whole = parse_distill("logits@roi").build(SETTING)
    assert whole.logits == ("roi",) and whole.needs_teacher


@pytest.mark.parametrize(
    "setting, place, line",
    [
        (Setting({}, {}, 1), "logits", "logits compares class scores, and the networks of this task give none"),
        (SETTING, "logits", "logits@logits: the networks have no such logits: choose of roi, anchors"),
        (SETTING, "anchors", "logits@anchors has one class, whose probability is always 1: add +sigmoid=on"),
    ],
)
def test_what_it_cannot_serve_is_one_line(setting, place, line):
    with pytest.raises(InputError) as caught:
        LogitsDistillation(setting, place)
    assert str(caught.value) == line


def test_logits_of_other_proposals_are_refused():
    with pytest.raises(InputError, match=r"logits roi: the student's are \(4, 3\) and the teacher's \(5, 3\)"):
        LogitsDistillation(SETTING, "roi")(step(normal(4, 3), normal(5, 3)))
