"""Online distillation with networks: what a step changes, and whole runs in which a peer trains along."""

from pathlib import Path

import pytest
import torch

import train_student
from lib.datasets.scene_flow.pairs import collate
from lib.losses.distill.online import HELD_OUT, TARGETS, OnlineDistillation, mixture_terms, mixture_weight
from lib.losses.distill.selection import Distillation, OutputDistillation
from lib.tasks.scene_flow import open_flow_pairs
from models import build_model
from tests.runs import TINY, assert_same_run, distiller, identical, load, log_lines, setting_for, write_kitti

pytestmark = pytest.mark.filterwarnings("ignore:.*the full set has")

NARROW = {"pyramid": (8, 8, 16, 16, 16), "predictor": (16, 16, 16, 8)}
RULES = [*TARGETS, "general"]


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
