"""Online distillation: targets worked out by hand, and what learns from what."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lib.errors import InputError
from lib.losses import ALPHAS, multiscale_loss
from lib.losses.distill import DistillationContext, Setting, parse_distill
from lib.losses.distill.online import (
    TARGETS,
    OnlineDistillation,
    linear_target,
    minerror_target,
    mixture,
    mixture_terms,
    mixture_weight,
    naive_target,
)
from lib.losses.distill.selection import Distillation, OutputDistillation
from tests.distill.steps import nested_sites, normal, outputs, step

RULES = [*TARGETS, "general"]
SIZES = (12, 6, 4, 2)


def cloud(*rows: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float64)


# Two points; the truth is no motion, so that flows are errors.
FIRST = cloud((3, 0, 4), (0, 1, 0))
SECOND = cloud((0, 1, -2), (2, 0, 0.5))
TRUTH = torch.zeros(1, 2, 3, dtype=torch.float64)


def network() -> nn.Module:
    return nn.Linear(1, 1)


def method(target: str = "linear") -> OnlineDistillation:
    return OnlineDistillation(Setting({}, None, 2, lambda name: network(), levels=4), target=target).double()


def context(seed: int = 0, same: bool = False) -> DistillationContext:
    sites = nested_sites(SIZES, 2)
    first = [normal(2, n, 3, seed=seed + n).requires_grad_() for n in SIZES]
    second = (
        [flow.detach().clone().requires_grad_() for flow in first]
        if same
        else [normal(2, n, 3, seed=seed + 50 + n).requires_grad_() for n in SIZES]
    )
    targets = [normal(2, n, 3, seed=seed + 100 + n) for n in SIZES]
    return step(outputs(first, sites), None, targets, peer=outputs(second, sites))


def with_flows(at: DistillationContext, **flows: list[torch.Tensor]) -> DistillationContext:
    """The step with other flows of the student or the peer."""
    sites = at.student.levels.sites
    return replace(at, **{whose: outputs(values, sites) for whose, values in flows.items()})


# --- targets -----------------------------------------------------------------------------------------------------


def test_naive_takes_the_nearer_peer_at_each_point():
    torch.testing.assert_close(naive_target(FIRST, SECOND, TRUTH), cloud((0, 1, -2), (0, 1, 0)))
    shift = torch.full_like(TRUTH, 7)
    torch.testing.assert_close(
        naive_target(FIRST + shift, SECOND + shift, TRUTH + shift), cloud((7, 8, 5), (7, 8, 7)), msg="errors count"
    )


def test_minerror_takes_the_nearer_value_on_each_axis():
    torch.testing.assert_close(minerror_target(FIRST, SECOND, TRUTH), cloud((0, 0, -2), (0, 0, 0)))


def test_linear_is_the_best_mixture_by_hand():
    """e_2 - e_1 = (-3, 1, -6), (2, -1, 0.5): squared norm 46 + 5.25; <e_2, e_2 - e_1> = 1 + 12 + 4 + 0.25."""
    numerator, denominator = mixture_terms(FIRST, SECOND, TRUTH)
    assert (numerator.item(), denominator.item()) == (17.25, 51.25)
    weight = 17.25 / 51.25
    torch.testing.assert_close(linear_target(FIRST, SECOND, TRUTH), weight * FIRST + (1 - weight) * SECOND)
    torch.testing.assert_close(linear_target(FIRST, 4 * FIRST, TRUTH), FIRST, msg="no weight is below 0")
    torch.testing.assert_close(linear_target(4 * FIRST, FIRST, TRUTH), FIRST, msg="no weight is above 1")


def test_linear_is_never_worse_than_the_best_peer_in_any_cloud():
    for seed in range(20):
        scale = 10.0 ** (seed % 5 - 2)
        first, second = normal(4, 30, 3, seed=seed), scale * normal(4, 30, 3, seed=seed + 100)
        truth = normal(4, 30, 3, seed=seed + 200)
        errors = [(f - truth).square().sum((1, 2)) for f in (linear_target(first, second, truth), first, second)]
        assert (errors[0] <= torch.minimum(errors[1], errors[2]) * (1 + 1e-12)).all()
        for share in torch.linspace(0, 1, 11, dtype=torch.float64):
            other = mixture(first, second, share)
            assert (errors[0] <= (other - truth).square().sum((1, 2)) * (1 + 1e-12)).all()


@pytest.mark.parametrize("weight, learns", [(1.0, "peer"), (0.0, "student"), (0.5, "both")])
def test_a_network_that_is_the_whole_target_learns_nothing_from_it(weight, learns):
    """Not even rounding errors, whose direction would be a gradient of full size."""
    for seed in range(5):
        at = context(seed)
        flows = [[f.detach().float().requires_grad_() for f in p.levels.values] for p in (at.student, at.peer)]
        for first, second in zip(*flows, strict=True):
            target = mixture(first, second, torch.tensor(weight))
            for flow, whose in ((first, "student"), (second, "peer")):
                torch.linalg.vector_norm(flow - target, dim=2).sum().backward()
                assert flow.grad.any() == (learns in (whose, "both"))


def test_general_weights_are_those_of_the_inverse_error_matrix():
    first, second, truth = normal(3, 40, 3, seed=1), 2 * normal(3, 40, 3, seed=2), normal(3, 40, 3, seed=3)
    errors = torch.stack([(f - truth).flatten() for f in (first, second)])  # (2, all values)
    inverse = torch.linalg.inv(errors @ errors.T / 120)  # C_jk = mean <e_j, e_k>
    expected = inverse.sum(1) / inverse.sum()
    assert 0 < expected[0] < 1
    numerator, denominator = mixture_terms(first, second, truth)
    torch.testing.assert_close(mixture_weight(numerator.sum(), denominator.sum()), expected[0])


def test_general_clips_a_negative_weight_and_copes_with_equal_peers():
    first, truth = normal(1, 8, 3, seed=1), torch.zeros(1, 8, 3, dtype=torch.float64)
    for second, weight in ((3 * first, 1.0), (first / 3, 0.0), (first, 0.5)):  # C^-1 1 gives (1.5, -0.5) for the first
        numerator, denominator = mixture_terms(first, second, truth)
        assert mixture_weight(numerator.sum(), denominator.sum()).item() == weight


# --- the term ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_identical_peers_have_nothing_to_learn_from_each_other(rule):
    at = context(same=True)
    losses = method(rule)(at)
    assert losses["online"].item() == 0.0 and losses["online_peer_gt"] > 0
    losses["online"].backward()
    assert not any(flow.grad.any() for flow in (*at.student.levels.values, *at.peer.levels.values))


@pytest.mark.parametrize("rule", RULES)
def test_no_gradient_passes_through_the_target(rule):
    """The gradients are those of the distance to a constant."""
    at, online = context(), method(rule)
    online(at)["online"].backward()
    flows = list(zip(at.student.levels.values, at.peer.levels.values, at.truth.values, strict=True))
    with torch.no_grad():
        rule_of = TARGETS.get(rule, lambda first, second, truth: (first + second) / 2)
        targets = [rule_of(*level) for level in flows]
    for network_flows in (at.student.levels.values, at.peer.levels.values):
        free = [flow.detach().clone().requires_grad_() for flow in network_flows]
        multiscale_loss(free, targets).backward()
        for flow, copy in zip(network_flows, free, strict=True):
            torch.testing.assert_close(flow.grad, copy.grad)


def held(rule):
    """The values that ``rule`` gives at first, whatever moves later; any gradient that it lets through stays."""
    kept = {}

    def target(first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        now = rule(first, *others)
        return kept.setdefault(first.shape[1], now.detach()) + (now - now.detach())

    return target


@pytest.mark.parametrize("rule", RULES)
def test_gradcheck(rule, monkeypatch):
    """Both networks' flows move, the target of a step does not. Both parts: in their sum a leak could cancel."""
    if rule == "general":
        monkeypatch.setattr("lib.losses.distill.online.mixture", held(mixture))
    else:
        monkeypatch.setitem(TARGETS, rule, held(TARGETS[rule]))
    at, online = context(), method(rule)
    online(at)

    def parts(*flows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        losses = online(with_flows(at, student=flows[:4], peer=flows[4:]))
        return losses["online_student"], losses["online_peer"]

    assert torch.autograd.gradcheck(parts, (*at.student.levels.values, *at.peer.levels.values))


def test_the_loss_is_that_of_both_networks():
    at, online = context(), method()
    losses = Distillation(OutputDistillation(0.0), [online], [0.7])(at)
    targets = [
        linear_target(*level)
        for level in zip(at.student.levels.values, at.peer.levels.values, at.truth.values, strict=True)
    ]
    expected = sum(
        multiscale_loss(flows, at.truth.values) + 0.7 * multiscale_loss(flows, targets)
        for flows in (at.student.levels.values, at.peer.levels.values)
    )
    torch.testing.assert_close(losses["loss"], expected)
    assert set(losses) == {"loss", "loss_gt", "online", "online_student", "online_peer", "online_peer_gt"}


def test_general_weighs_the_peers_anew_on_held_out_pairs():
    online = method("general")
    assert online.shares.tolist() == [0.5] * len(ALPHAS)
    held_out = context(seed=500)
    online.refresh(held_out)
    for level, share in enumerate(online.shares):
        flows = held_out.student.levels.values[level], held_out.peer.levels.values[level], held_out.truth.values[level]
        numerator, denominator = mixture_terms(*flows)
        assert share == mixture_weight(numerator.sum(), denominator.sum())
    assert 0 < online.shares.max() < 1
    assert "shares" in online.state_dict() and "shares" not in method("linear").state_dict()


def test_output_and_online_go_together():
    setting = Setting({}, {}, 2, lambda name: network(), levels=4)
    loss = parse_distill("output:0.4,online:2").build(setting)
    at = context()
    at.teacher = outputs([normal(2, n, 3, seed=900 + n) for n in SIZES], at.student.levels.sites)
    losses = loss.double()(at)
    expected = 0.4 * losses["loss_kd"] + 0.6 * losses["loss_gt"] + 2 * losses["online"] + losses["online_peer_gt"]
    torch.testing.assert_close(losses["loss"], expected)


def test_online_needs_levels_and_a_peer_network():
    for setting, line in (
        (Setting({}, None, 2, lambda name: network()), "online compares predictions of several levels"),
        (
            Setting({}, None, 2, levels=4),
            "online trains a second network along with the student, and this task builds none",
        ),
    ):
        with pytest.raises(InputError, match=line):
            OnlineDistillation(setting)
    at = context()
    at.peer.levels = None
    with pytest.raises(InputError, match="online compares predictions of several levels"):
        method()(at)
