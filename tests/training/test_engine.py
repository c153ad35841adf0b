"""The parts of training one by one: sample stream, learning rate, files, evaluation, and what may not change."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lib.datasets.scene_flow.pairs import collate
from lib.errors import InputError
from lib.evaluation import evaluate
from lib.files import write_atomically
from lib.losses.distill import OutputDistillation
from lib.metrics.scene_flow import METRICS
from lib.tasks.scene_flow import nearest_flow, open_flow_pairs, zero_flow
from lib.training.checkpoint import (
    random_state,
    read_resume,
    resolve_teacher,
    restore_random_state,
    save_checkpoint,
)
from lib.training.engine import Interrupted, Trainer
from lib.training.loading import SampleStream, load_batches, steps_for
from lib.training.optim import Recipe, learning_rate
from lib.training.run_folder import RunFolder
from models import FlowOutput, build_model, load_model
from tests.runs import SCENE_FLOW, distiller, environment, identical, load, log_lines, save_teacher, write_ft3d

pytestmark = pytest.mark.filterwarnings("ignore:.*the full set has")

KNOWN = {name: SCENE_FLOW.command_for(name) for name in SCENE_FLOW.known_teachers}
CPU = torch.device("cpu")
NARROW = {"pyramid": (8, 8, 16, 16, 16), "predictor": (16, 16, 16, 8)}
RECIPE = Recipe(steps=6, batch_size=3, lr=1e-3, lr_step=80, lr_gamma=0.5, lr_min=1e-5, weight_decay=1e-4, seed=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_ft3d(tmp_path_factory.mktemp("data"))


def open_part(data: Path, part: str, **options):
    return open_flow_pairs("ft3d", part, data, "full", None, 128, **options)


def score(net, pairs, **options):
    return evaluate(SCENE_FLOW, net, pairs, CPU, **options)


def trainer_for(data: Path, out: Path, recipe: Recipe = RECIPE, gamma: float = 0.0, teacher=None, evaluate_with=None):
    torch.manual_seed(0)
    net = build_model("student", **NARROW)
    out.mkdir(exist_ok=True)
    return Trainer(
        SCENE_FLOW,
        net,
        distiller(OutputDistillation(gamma), teacher).step,
        open_part(data, "train"),
        evaluate_with or (lambda net, interrupted: score(net, open_part(data, "validation")).metrics),
        recipe,
        RunFolder(out),
        CPU,
        {"scenes": []},
    )


# --- the sample stream and the learning rate ---------------------------------------------------------------------


@pytest.mark.parametrize("size, batch", [(10, 4), (3, 8), (8, 8), (1, 2)])
def test_every_epoch_sees_every_sample_once_in_full_batches(size, batch):
    steps = steps_for(6, size, batch)
    batches = list(SampleStream(size, batch, seed=1, start=0, stop=steps))
    assert {len(keys) for keys in batches} == {batch} and len(batches) == steps
    entries = [key for keys in batches for key in keys][: 6 * size]
    for epoch in range(6):
        part = entries[epoch * size : (epoch + 1) * size]
        assert {e for e, _ in part} == {epoch} and sorted(i for _, i in part) == list(range(size))
    assert entries == [(e, i) for e in range(6) for i in np.random.default_rng((1, e)).permutation(size).tolist()]


def test_the_stream_goes_on_in_the_middle_and_splits_over_processes():
    whole = list(SampleStream(7, 4, seed=3, start=0, stop=9))
    assert list(SampleStream(7, 4, seed=3, start=5, stop=9)) == whole[5:]
    halves = [list(SampleStream(7, 4, seed=3, start=0, stop=9, rank=r, world=2)) for r in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    assert whole != list(SampleStream(7, 4, seed=4, start=0, stop=9))


def test_a_batch_that_cannot_be_split_and_an_empty_set_are_refused():
    with pytest.raises(InputError, match="batch size 7 cannot be split evenly over 2 processes"):
        SampleStream(10, 7, 0, 0, 1, world=2)
    with pytest.raises(InputError, match="empty"):
        SampleStream(0, 1, 0, 0, 1)


def test_learning_rate_follows_the_published_schedule():
    recipe = Recipe(steps=1, batch_size=8, lr=1e-3, lr_step=80, lr_gamma=0.5, lr_min=1e-5, weight_decay=0, seed=0)
    values = [learning_rate(recipe, 0, epoch) for epoch in (0, 79, 80, 160, 479, 480, 559, 10_000)]
    assert values == pytest.approx([1e-3, 1e-3, 5e-4, 2.5e-4, 3.125e-5, 1.5625e-5, 1.5625e-5, 1e-5])


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_do_not_depend_on_workers_and_errors_keep_their_line(data, tmp_path, workers):
    pairs = open_part(data, "train", augment="on", seed=4)
    state = torch.get_rng_state()
    batches = list(load_batches(pairs, SampleStream(len(pairs), 3, 4, 0, 4), collate, workers))
    assert torch.equal(torch.get_rng_state(), state), "reading samples must leave the global generator alone"
    expected = [collate([pairs[key] for key in keys]) for keys in SampleStream(len(pairs), 3, 4, 0, 4)]
    for batch, other in zip(batches, expected, strict=True):
        assert batch.names == other.names and identical(list(batch[:3]), list(other[:3]))

    broken = write_ft3d(tmp_path, train=4)
    file = broken / "FlyingThings3D_subset_processed_35m/train/0000001/pc2.npy"
    file.write_bytes(b"no array")
    with pytest.raises(InputError, match=r"pc2\.npy") as caught:
        list(load_batches(open_part(broken, "train"), [[(0, 0)], [(0, 1)]], collate, workers))
    assert "\n" not in str(caught.value)


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, function):
    path = tmp_path / "last.pt"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full)
    with pytest.raises(InputError, match=r"cannot write .*last\.pt: No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_kill_while_writing_leaves_the_old_file(tmp_path, function):
    path = tmp_path / "last.pt"
    write_atomically(path, b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from lib.files import write_atomically\n"
        f"os.{function} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(Path(sys.argv[1]), b'new')"
    )
    status = subprocess.run([sys.executable, "-c", code, str(path)], env=environment(), timeout=120).returncode
    assert status == -9 and path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["last.pt"]


def test_random_generators_come_back():
    import random

    state = random_state()
    drawn = [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]
    restore_random_state(state)
    assert drawn == [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]


def test_the_log_is_cut_back_to_whole_lines(tmp_path):
    run = RunFolder(tmp_path)
    run.log.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"st')
    run.start_logs(4)
    run.append({"step": 5})
    assert [line["step"] for line in log_lines(tmp_path)] == [2, 4, 5]


def test_teacher_names_and_paths(tmp_path):
    for name, command in (("ft3d", "--dataset ft3d"), ("synthetic", "--dataset synthetic-things")):
        with pytest.raises(InputError, match=f"make it with: python train_teacher.py {command}"):
            resolve_teacher(name, KNOWN, tmp_path)
    best, plain = tmp_path / "ft3d/best.pt", tmp_path / "ft3d.pt"
    best.parent.mkdir()
    best.touch()
    assert resolve_teacher("ft3d", KNOWN, tmp_path) == best
    plain.touch()
    with pytest.raises(InputError, match=f"could mean {best} or {plain}: remove one"):
        resolve_teacher("ft3d", KNOWN, tmp_path)
    best.unlink()
    assert resolve_teacher("ft3d", KNOWN, tmp_path) == resolve_teacher(str(plain), KNOWN, tmp_path) == plain
    with pytest.raises(InputError, match="is a folder: give the file"):
        resolve_teacher(str(tmp_path), KNOWN)
    with pytest.raises(InputError, match="no teacher file nowhere.pt"):
        resolve_teacher("nowhere.pt", KNOWN)


# --- evaluation --------------------------------------------------------------------------------------------------


def test_a_score_is_the_same_every_time_and_alone_per_scene(data):
    torch.manual_seed(1)
    net = build_model("student", **NARROW).train()
    pairs = open_part(data, "test")
    first = score(net, pairs)
    torch.rand(7)
    second = score(net, pairs, workers=1)
    assert first.records == second.records and first.metrics == second.metrics and tuple(first.metrics) == METRICS
    assert [record["name"] for record in first.records] == pairs.names
    assert not net.training and first.seconds > 0
    assert first.metrics["EPE3D"] == pytest.approx(sum(record["EPE3D"] for record in first.records) / 2)


def test_baselines():
    xyz1 = torch.tensor([[[0.0, 0.0, 5.0], [1.0, 0.0, 5.0]]])
    xyz2 = torch.tensor([[[0.9, 0.0, 5.0], [0.0, 0.2, 5.0], [9.0, 9.0, 9.0]]])
    assert zero_flow(xyz1, xyz2).flows[0].abs().max() == 0
    assert torch.allclose(nearest_flow(xyz1, xyz2).flows[0], torch.tensor([[[0.0, 0.2, 0.0], [-0.1, 0.0, 0.0]]]))
    assert list(SCENE_FLOW.baselines) == ["zero", "nearest"]


def test_zero_flow_scores_the_mean_length_of_the_flow(data):
    pairs = open_part(data, "test")
    expected = np.mean([pairs[i].flow.double().norm(dim=1).mean().item() for i in range(len(pairs))])
    assert score(zero_flow, pairs).metrics["EPE3D"] == pytest.approx(expected, rel=1e-9)


def test_a_prediction_that_is_not_finite_names_its_scene(data):
    pairs = open_part(data, "test")
    with pytest.raises(InputError, match="flow of scene ft3d/val/0000000 is not finite"):
        score(lambda xyz1, xyz2: FlowOutput([xyz1 * math.nan], [None], [None]), pairs)
    with pytest.raises(Interrupted):
        score(zero_flow, pairs, interrupted=lambda: True)


# --- training ----------------------------------------------------------------------------------------------------


def test_a_run_writes_what_it_says(data, tmp_path):
    trainer = trainer_for(data, tmp_path)
    assert trainer.run() is None and trainer.finished()
    lines = log_lines(tmp_path)
    assert [(line["step"], line["epoch"]) for line in lines] == [(3, 1), (5, 2), (6, 2)]  # 7 scenes, batches of 3
    best = min(lines, key=lambda line: line["validation"]["EPE3D"])
    facts = load(tmp_path / "best.pt")["training"]
    assert facts["step"] == best["step"] and facts["validation"] == best["validation"]
    assert "resume" not in load(tmp_path / "best.pt") and load(tmp_path / "last.pt")["training"]["finished"]
    net = load_model(tmp_path / "best.pt")
    assert score(net, open_part(data, "validation")).metrics == best["validation"]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_training_lowers_the_loss(data, tmp_path):
    recipe = Recipe(**{**vars(RECIPE), "steps": 21, "lr": 3e-3})
    trainer_for(data, tmp_path, recipe).run()
    losses = [line["train"]["loss"] for line in log_lines(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_the_teacher_never_changes(data, tmp_path, gamma):
    teacher = load_model(save_teacher(tmp_path / "teacher.pt"))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    trainer = trainer_for(data, tmp_path / "run", gamma=gamma, teacher=teacher)
    start = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    trainer.run()
    assert identical(before, dict(teacher.state_dict())) and not teacher.training
    assert not identical(start, dict(trainer.net.state_dict()))
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_gamma_1_does_not_look_at_the_ground_truth(data):
    batch = collate([open_part(data, "train")[0, i] for i in range(2)])
    student, teacher = build_model("student", **NARROW), build_model("teacher", **NARROW).eval()
    blind = batch._replace(flow=torch.full_like(batch.flow, math.nan))
    losses = [distiller(OutputDistillation(1.0), teacher).step(student, b)["loss"] for b in (batch, blind)]
    assert torch.equal(*losses) and losses[0].isfinite()


class _Counting(nn.Module):
    """A network that counts how often it computes a geometry of its own."""

    def __init__(self, net):
        super().__init__()
        self.net, self.own = net, 0

    def sizes_for(self, points):
        return self.net.sizes_for(points)

    def geometry(self, xyz1, xyz2):
        self.own += 1
        return self.net.geometry(xyz1, xyz2)

    def forward(self, xyz1, xyz2, geometry=None, return_features=False):
        return self.net(xyz1, xyz2, geometry or self.geometry(xyz1, xyz2), return_features)


def test_teacher_and_student_share_one_geometry_when_their_levels_agree(data):
    batch = collate([open_part(data, "train")[0, i] for i in range(2)])
    student = build_model("student", **NARROW)
    same, other = (_Counting(build_model("teacher", **NARROW, **o).eval()) for o in ({}, {"sizes": (40, 20, 10, 2)}))
    distiller(OutputDistillation(0.5), same).step(student, batch)
    distiller(OutputDistillation(0.5), other, final_only=True).step(student, batch)
    assert (same.own, other.own) == (0, 1)
    with pytest.raises(InputError, match="--final-only"):
        distiller(OutputDistillation(0.5), other).step(student, batch)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_and_names_the_samples(data, tmp_path, kind):
    trainer = trainer_for(data, tmp_path, Recipe(**{**vars(RECIPE), "save_every": 1}))
    plain, steps = trainer.step, []

    def breaks_at_step_5(net, batch, done):
        steps.append(batch.names)
        losses = plain(net, batch, done)
        if len(steps) == 5:
            # sqrt(0) has the value 0 and an infinite slope
            extra = math.inf if kind == "loss" else (next(net.parameters()) * 0).sum().sqrt()
            losses["loss"] = losses["loss"] + extra
        return losses

    trainer.step = breaks_at_step_5
    with pytest.raises(InputError, match="not finite at step 5") as caught:
        trainer.run()
    assert all(name in str(caught.value) for name in steps[4])
    assert load(tmp_path / "last.pt")["training"]["step"] == 4
    assert all(value.isfinite().all() for value in load(tmp_path / "last.pt")["model"]["state_dict"].values())


def test_patience_ends_a_run_that_no_longer_improves(data, tmp_path):
    epes = iter([3.0, 2.0, 2.5, 2.0, 1.0])
    trainer = trainer_for(
        data,
        tmp_path,
        Recipe(**{**vars(RECIPE), "steps": 100, "patience": 2}),
        evaluate_with=lambda net, interrupted: {**dict.fromkeys(SCENE_FLOW.metrics, 0.0), "EPE3D": next(epes)},
    )
    assert trainer.run() is None and trainer.finished()
    assert [line["validation"]["EPE3D"] for line in log_lines(tmp_path)] == [3.0, 2.0, 2.5, 2.0]
    assert load(tmp_path / "best.pt")["training"]["validation"]["EPE3D"] == 2.0


def test_an_interrupted_evaluation_is_made_up_for(data, tmp_path):
    trainer = trainer_for(data, tmp_path / "whole")
    trainer.run()

    def interrupted_at_step_5(net, _):
        if stopped.progress.step == 5:
            stopped.signals.received = 15
            raise Interrupted
        return score(net, open_part(data, "validation")).metrics

    stopped = trainer_for(data, tmp_path / "parts", evaluate_with=interrupted_at_step_5)
    assert stopped.run() == 15 and [line["step"] for line in log_lines(tmp_path / "parts")] == [3]
    resumed = trainer_for(data, tmp_path / "parts")
    resumed.restore()
    assert resumed.run() is None
    assert log_lines(tmp_path / "parts") == log_lines(tmp_path / "whole")
    assert identical(load(tmp_path / "parts/last.pt"), load(tmp_path / "whole/last.pt"))


def test_a_checkpoint_without_training_state_cannot_be_resumed(tmp_path):
    save_checkpoint(tmp_path / "best.pt", build_model("student", **NARROW), {})
    with pytest.raises(InputError, match="no training state"):
        read_resume(tmp_path / "best.pt")
    assert json.dumps(load(tmp_path / "best.pt")["training"]) == "{}"
