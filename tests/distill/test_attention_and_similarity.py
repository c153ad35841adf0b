"""Attention transfer and similarity-preserving distillation: by hand, invariances, gradients."""

import pytest
import torch

from lib.errors import InputError
from lib.losses.distill import Setting
from lib.losses.distill.attention import attention_loss, attention_map
from lib.losses.distill.similarity import sample_similarity, similarity_loss
from tests.distill.steps import SETTING, build, context, normal


def test_attention_by_hand():
    """Energies 3 and 4 give (0.6, 0.8); 8 and 6 give (0.8, 0.6). The second sample is equal in both."""
    student = torch.tensor([[[1.0, 1.0, -1.0], [0.0, 2.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    teacher = torch.tensor([[[2.0, 2.0], [6.0**0.5, 0.0]], [[0.0, 9.0], [0.0, 0.0]]])
    torch.testing.assert_close(attention_map(student)[0], torch.tensor([0.6, 0.8]))
    assert attention_loss([student], [teacher]).item() == pytest.approx(2 * 0.2**2 / 4)
    assert attention_loss([student] * 3, [teacher] * 3).item() == pytest.approx(3 * 2 * 0.2**2 / 4)


def test_attention_sees_no_scale_and_needs_several_positions():
    student, teacher = normal(3, 7, 4), normal(3, 7, 5, seed=1)
    loss = attention_loss([student], [teacher])
    torch.testing.assert_close(attention_loss([1e-3 * student], [-50 * teacher]), loss)
    assert loss > 0 and attention_loss([3 * teacher], [teacher]).item() < 1e-25
    assert attention_loss([normal(3, 1, 4)], [normal(3, 1, 5, seed=1)]).item() == pytest.approx(0.0, abs=1e-25)


def test_attention_of_each_sample_is_its_own():
    """A scale for each sample changes nothing; features that change places between positions do."""
    student, teacher = normal(3, 7, 4), normal(3, 7, 5, seed=1)
    scaled = student * torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64).view(3, 1, 1)
    torch.testing.assert_close(attention_loss([scaled], [teacher]), attention_loss([student], [teacher]))
    assert attention_loss([teacher.flip(1)], [teacher]) > 1e-3


def test_similarity_by_hand():
    """G_S = [[4, 0], [0, 9]], by rows the identity. G_T = [[25, 15], [15, 25]], each row divided by 5 sqrt(34)."""
    student = torch.tensor([[[2.0], [0.0]], [[0.0], [3.0]]])
    teacher = torch.tensor([[[3.0, 4.0]], [[5.0, 0.0]]])
    assert sample_similarity(teacher).tolist() == [[25.0, 15.0], [15.0, 25.0]]
    near, far = 5 / 34**0.5, 3 / 34**0.5
    expected = 2 * ((1 - near) ** 2 + far**2) / 4
    assert similarity_loss([student], [teacher]).item() == pytest.approx(expected, rel=1e-5)
    assert similarity_loss([student] * 2, [teacher] * 2).item() == pytest.approx(2 * expected, rel=1e-5)


def test_similarity_sees_neither_scale_nor_an_order_that_both_share():
    student, teacher, order = normal(4, 7, 3), normal(4, 7, 5, seed=1), [2, 0, 3, 1]
    loss = similarity_loss([student], [teacher])
    torch.testing.assert_close(similarity_loss([1e-3 * student], [50 * teacher]), loss)
    torch.testing.assert_close(similarity_loss([student[order]], [teacher[order]]), loss)
    assert similarity_loss([3 * teacher], [teacher]).item() < 1e-25
    assert similarity_loss([teacher[order]], [teacher]) > 1e-3


@pytest.mark.parametrize("loss", [attention_loss, similarity_loss])
def test_gradients(loss):
    teacher = [normal(3, 4, 2, seed=1).requires_grad_(), normal(3, 2, 5, seed=2).requires_grad_()]
    student = (normal(3, 4, 3, seed=3).requires_grad_(), normal(3, 2, 2, seed=4).requires_grad_())
    assert torch.autograd.gradcheck(lambda *s: loss(s, teacher), student)
    loss(student, teacher).backward()
    assert all(t.grad is None for t in teacher)
    with pytest.raises(ValueError):
        loss(student, teacher[:1])
    dead = torch.zeros(3, 4, 3, requires_grad=True)
    loss([dead], [teacher[0].float()]).backward()
    assert dead.grad.isfinite().all()


@pytest.mark.parametrize("name, loss", [("attention", attention_loss), ("similarity", similarity_loss)])
def test_the_method_adds_up_the_levels_and_needs_no_adapter(name, loss):
    method, step = build(name), context()
    assert list(method.parameters()) == [] and method.features == tuple(f"pyramid1/{level}" for level in range(4))
    values = [[net.features[n].values for n in method.features] for net in (step.student, step.teacher)]
    torch.testing.assert_close(method(step)[name], loss(*values))


def test_similarity_needs_two_samples():
    with pytest.raises(InputError, match="similarity compares the samples of a batch: it needs at least 2 a process"):
        build("similarity", Setting(SETTING.student, SETTING.teacher, 1))
