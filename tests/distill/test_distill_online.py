"""Online distillation: targets worked out by hand, what learns from what, and runs in which a peer trains along."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import train_student
from lib.datasets.scene_flow.pairs import collate
from lib.losses import ALPHAS, multiscale_loss
from lib.losses.distill import DistillationContext, Prediction, Setting
from lib.losses.distill.online import (
    HELD_OUT,
    TARGETS,
    OnlineDistillation,
    linear_target,
    minerror_target,
    mixture,
    mixture_terms,
    mixture_weight,
    naive_target,
)
from lib.losses.distill.selection import Distillation, OutputDistillation, parse_distill
from lib.tasks.scene_flow import open_flow_pairs
from models import build_model
from tests.runs import TINY, assert_same_run, distiller, identical, load, log_lines, setting_for, write_kitti

pytestmark = pytest.mark.filterwarnings("ignore:.*the full set has")

NARROW = {"pyramid": (8, 8, 16, 16, 16), "predictor": (16, 16, 16, 8)}
RULES = [*TARGETS, "general"]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cloud(*rows: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float64)


# Two points; the truth is no motion, so that flows are errors.
FIRST = cloud((3, 0, 4), (0, 1, 0))
SECOND = cloud((0, 1, -2), (2, 0, 0.5))
TRUTH = torch.zeros(1, 2, 3, dtype=torch.float64)


def network() -> nn.Module:
    return nn.Linear(1, 1)


def method(target: str = "linear") -> OnlineDistillation:
    return OnlineDistillation(Setting({}, None, 2, lambda name: network()), target=target).double()


def context(seed: int = 0, same: bool = False) -> DistillationContext:
    sizes = (12, 6, 4, 2)
    first = [normal(2, n, 3, seed=seed + n).requires_grad_() for n in sizes]
    second = (
        [flow.detach().clone().requires_grad_() for flow in first]
        if same
        else [normal(2, n, 3, seed=seed + 50 + n).requires_grad_() for n in sizes]
    )
    targets = [normal(2, n, 3, seed=seed + 100 + n) for n in sizes]
    return DistillationContext(Prediction(first), targets=targets, peer=Prediction(second))


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
        step = context(seed)
        flows = [[f.detach().float().requires_grad_() for f in p.flows] for p in (step.student, step.peer)]
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
    step = context(same=True)
    losses = method(rule)(step)
    assert losses["online"].item() == 0.0 and losses["online_peer_gt"] > 0
    losses["online"].backward()
    assert not any(flow.grad.any() for flow in (*step.student.flows, *step.peer.flows))


@pytest.mark.parametrize("rule", RULES)
def test_no_gradient_passes_through_the_target(rule):
    """The gradients are those of the distance to a constant."""
    step, online = context(), method(rule)
    online(step)["online"].backward()
    flows = list(zip(step.student.flows, step.peer.flows, step.targets, strict=True))
    with torch.no_grad():
        rule_of = TARGETS.get(rule, lambda first, second, truth: (first + second) / 2)
        targets = [rule_of(*level) for level in flows]
    for network_flows in (step.student.flows, step.peer.flows):
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
    step, online = context(), method(rule)
    online(step)

    def parts(*flows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        losses = online(replace(step, student=Prediction(flows[:4]), peer=Prediction(flows[4:])))
        return losses["online_student"], losses["online_peer"]

    assert torch.autograd.gradcheck(parts, (*step.student.flows, *step.peer.flows))


def test_the_loss_is_that_of_both_networks():
    step, online = context(), method()
    losses = Distillation(OutputDistillation(0.0), [online], [0.7])(step)
    targets = [linear_target(*level) for level in zip(step.student.flows, step.peer.flows, step.targets, strict=True)]
    expected = sum(
        multiscale_loss(flows, step.targets) + 0.7 * multiscale_loss(flows, targets)
        for flows in (step.student.flows, step.peer.flows)
    )
    torch.testing.assert_close(losses["loss"], expected)
    assert set(losses) == {"loss", "loss_gt", "online", "online_student", "online_peer", "online_peer_gt"}


def test_general_weighs_the_peers_anew_on_held_out_pairs():
    online = method("general")
    assert online.shares.tolist() == [0.5] * len(ALPHAS)
    held_out = context(seed=500)
    online.refresh(held_out)
    for level, share in enumerate(online.shares):
        flows = held_out.student.flows[level], held_out.peer.flows[level], held_out.targets[level]
        numerator, denominator = mixture_terms(*flows)
        assert share == mixture_weight(numerator.sum(), denominator.sum())
    assert 0 < online.shares.max() < 1
    assert "shares" in online.state_dict() and "shares" not in method("linear").state_dict()


# --- with networks -----------------------------------------------------------------------------------------------


def step_of(folder: Path, rule: str, weight: float):
    """A student and a peer that are not alike, two pairs, and the loss with the weight as it is, 0 included."""
    torch.manual_seed(0)
    batch = collate([open_flow_pairs("kitti", "train", folder, "full", None, 128)[0, i] for i in range(2)])
    student = build_model("student-tiny")
    setting = setting_for(student, build_peer=lambda name: build_model("teacher", **NARROW))
    online = OnlineDistillation(setting, target=rule)
    return student, batch, Distillation(OutputDistillation(0.0), [online], [weight])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_kitti(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("rule", RULES)
def test_lambda_0_is_independent_training(data, rule):
    """Both networks get the gradients of their own ground-truth losses, bit for bit."""
    student, batch, loss = step_of(data, rule, 0.0)
    peer = loss.peer
    distiller(loss).step(student, batch)["loss"].backward()
    for net in (student, peer):
        together = [parameter.grad.clone() for parameter in net.parameters()]
        net.zero_grad()
        distiller(OutputDistillation(0.0)).step(net, batch)["loss"].backward()
        assert all(torch.equal(a, p.grad) for a, p in zip(together, net.parameters(), strict=True))


def test_refreshing_uses_running_statistics_and_changes_nothing_else(data):
    student, batch, loss = step_of(data, "general", 1.0)
    distiller(loss).step(student, batch)  # running statistics that are not the initial ones
    nets = (student, loss.peer)
    before = [{name: value.clone() for name, value in net.state_dict().items()} for net in nets]
    distiller(loss).refresh(student, batch)
    assert all(net.training for net in nets) and loss.training
    assert all(identical(state, dict(net.state_dict())) for state, net in zip(before, nets, strict=True))
    shares = loss.methods[0].shares.clone()
    assert not torch.equal(shares, torch.full((4,), 0.5)) and not shares.requires_grad
    student.eval(), loss.peer.eval()
    with torch.no_grad():
        flows = [net(batch.xyz1, batch.xyz2).flows[0] for net in nets]
    numerator, denominator = mixture_terms(*flows, batch.flow)
    torch.testing.assert_close(shares[0], mixture_weight(numerator.sum(), denominator.sum()))


def test_output_and_online_go_together():
    setting = Setting({}, {}, 2, lambda name: network())
    loss = parse_distill("output:0.4,online:2").build(setting)
    step = replace(context(), teacher=Prediction([normal(2, n, 3, seed=900 + n) for n in (12, 6, 4, 2)]))
    losses = loss.double()(step)
    expected = 0.4 * losses["loss_kd"] + 0.6 * losses["loss_gt"] + 2 * losses["online"] + losses["online_peer_gt"]
    torch.testing.assert_close(losses["loss"], expected)


# --- whole runs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flags(data) -> list[str]:
    return [*TINY, "--data-root", str(data), "--student", "tiny", "--batch-size", "2", "--save-every", "1"]


@pytest.mark.parametrize("distill", ["online+peer=half", "online+target=general+peer=quarter:0.5"])
def test_a_stopped_run_with_a_peer_goes_on_bit_for_bit(flags, tmp_path, distill, monkeypatch):
    given = [*flags, "--distill", distill]
    assert train_student.main([*given, "--steps", "5", "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "parts"
    assert train_student.main([*given, "--steps", "3", "--out", str(out)]) == 0
    torch.manual_seed(123)  # what the process did before does not matter
    assert train_student.main(["--steps", "5", "--resume", "--out", str(out)]) == 0
    whole, parts = load(tmp_path / "whole/last.pt"), load(out / "last.pt")
    assert identical(whole["model"], parts["model"]) and identical(
        whole["resume"]["adapters"], parts["resume"]["adapters"]
    )
    assert identical(whole["resume"]["optimizer"], parts["resume"]["optimizer"])


def test_the_peer_trains_along_and_is_in_no_saved_student(flags, tmp_path):
    assert train_student.main([*flags, "--distill", "online+peer=quarter", "--steps", "2", "--out", str(tmp_path)]) == 0
    best, last = load(tmp_path / "best.pt"), load(tmp_path / "last.pt")
    student, peer = build_model("student-tiny"), build_model("student-quarter")
    assert set(best["model"]["state_dict"]) == set(last["model"]["state_dict"]) == set(student.state_dict())
    assert "resume" not in best and best["training"]["distill"] == ["online+peer=quarter:1"]
    assert {name.removeprefix("methods.0.peer.") for name in last["resume"]["adapters"]} == set(peer.state_dict())
    assert len(last["resume"]["optimizer"]["state"]) == len([*student.parameters(), *peer.parameters()])
    tracked = [value for name, value in last["resume"]["adapters"].items() if name.endswith("num_batches_tracked")]
    assert tracked and all(value == 2 for value in tracked), "batch statistics, and one pass a step"


def test_no_weight_is_bit_for_bit_the_scratch_student(flags, tmp_path):
    for name, given in (("scratch", ["--gamma", "0"]), ("zero", ["--distill", "online:0"])):
        assert train_student.main([*flags, *given, "--steps", "3", "--out", str(tmp_path / name)]) == 0
    assert_same_run(tmp_path / "zero", tmp_path / "scratch")


def test_general_is_refreshed_at_every_epoch(flags, tmp_path, monkeypatch):
    """3 training scenes in batches of 2: epochs begin with steps 1, 3 (the second's first new sample), 4, 6."""
    seen = []
    monkeypatch.setattr(OnlineDistillation, "refresh", lambda self, context: seen.append(len(context.truth.values[0])))
    given = ["--distill", "online+target=general+peer=tiny", "--steps", "6", "--out", str(tmp_path)]
    assert train_student.main([*flags, *given]) == 0
    assert seen == [1] * 4 and HELD_OUT > 1, "one validation pair is there"
    assert [line["step"] for line in log_lines(tmp_path)] == [2, 3, 5, 6]
