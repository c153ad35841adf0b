"""Recipes: every schedule against values computed by hand, every optimizer, and the clipping of gradients."""

import math

import pytest
import torch
from torch import nn

from lib.training.optim import Rate, Recipe, clip_gradients, learning_rate, make_optimizer, set_rate


def recipe(**options) -> Recipe:
    return Recipe(**{"steps": 100, "batch_size": 1, "lr": 1e-3, "seed": 0, **options})


def test_one_cycle_rises_to_ten_times_and_falls_to_a_ten_thousandth():
    cycle = recipe(schedule="one-cycle", lr_rise=0.4)
    rates = [learning_rate(cycle, step, 0) for step in (0, 20, 40, 70, 100)]
    assert rates == pytest.approx([1e-3, 5.5e-3, 1e-2, (1e-2 + 1e-7) / 2, 1e-7])
    whole = [learning_rate(cycle, step, 0) for step in range(101)]
    assert whole[:41] == sorted(whole[:41]) and whole[40:] == sorted(whole[40:], reverse=True)


def test_momentum_goes_the_other_way():
    for name, read in (("adamw", lambda group: group["betas"]), ("sgd", lambda group: (group["momentum"], 0.99))):
        cycle = recipe(schedule="one-cycle", optimizer=name)
        optimizer = make_optimizer(cycle, [nn.Parameter(torch.zeros(1))])
        seen = []
        for step in (0, 20, 40, 100):
            set_rate(optimizer, cycle, step, 0)
            seen.append(read(optimizer.param_groups[0]))
        assert [momentum for momentum, _ in seen] == pytest.approx([0.95, 0.9, 0.85, 0.95])
        assert {beta for _, beta in seen} == {0.99}


def test_milestones_of_the_published_training():
    """60,000 steps: a tenth at 30, 40 and 50 thousand, after a warm-up over 1000 steps from a thousandth."""
    published = recipe(steps=60_000, lr=0.02, schedule="milestones", warm_up=1000)
    steps = (0, 500, 1000, 29_999, 30_000, 39_999, 40_000, 50_000, 59_999)
    factors = (1e-3, 0.5005, 1, 1, 0.1, 0.1, 1e-2, 1e-3, 1e-3)
    assert [learning_rate(published, step, 0) for step in steps] == pytest.approx([0.02 * f for f in factors])
    assert learning_rate(recipe(schedule="milestones"), 0, 0) == 1e-3, "without a warm-up"


def test_a_schedule_without_momentum_leaves_it():
    step = recipe(optimizer="adam", lr_step=2)
    optimizer = make_optimizer(step, [nn.Parameter(torch.zeros(1))])
    set_rate(optimizer, step, 5, 2)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999) and optimizer.param_groups[0]["lr"] == 5e-4
    assert Rate(1.0).momentum is None


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_weight_decay(name):
    """Of a weight 2 with gradient 0: adam turns the penalty's slope into a whole step, the others shrink the weight."""
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = make_optimizer(recipe(optimizer=name, lr=0.1, weight_decay=0.5), [weight])
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx({"adam": 1.9, "adamw": 1.9, "sgd": 1.9}[name], abs=1e-6)
    weight.grad = torch.ones(1)
    optimizer.step()
    if name == "sgd":
        assert weight.item() == pytest.approx(1.9 - 0.1 * (0.9 * 1.0 + 1.95), abs=1e-6)


def with_gradients(*values: float) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor([value])
    return [*parameters, nn.Parameter(torch.zeros(1))]  # one that has no gradient


def test_clipping():
    for options, expected in (({}, (3, -4)), ({"clip_norm": 1.0}, (0.6, -0.8)), ({"clip_value": 3.5}, (3, -3.5))):
        parameters = with_gradients(3.0, -4.0)
        assert clip_gradients(recipe(**options), parameters).item() == pytest.approx(5.0), "the norm before clipping"
        assert [p.grad.item() for p in parameters[:2]] == pytest.approx(expected, rel=1e-5)
    small = with_gradients(0.3, 0.4)
    clip_gradients(recipe(clip_norm=1.0, clip_value=1.0), small)
    assert [p.grad.item() for p in small[:2]] == pytest.approx((0.3, 0.4))


def test_a_gradient_that_is_not_finite_has_no_finite_norm():
    assert not math.isfinite(clip_gradients(recipe(clip_norm=1.0), with_gradients(math.nan, 1.0)).item())
