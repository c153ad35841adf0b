"""LiDAR detection through the scripts: from the teacher to the student and the table, on a street and on real scans."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import evaluate
import train_student
import train_teacher
from lib.datasets.lidar import LidarBatch
from lib.tasks import TASKS
from lib.tasks.kitti_scores import AVERAGE_PRECISIONS, HEADLINE
from lib.training.engine import seed_everything
from lib.training.loading import SampleStream
from models import build_model
from tests.lidar.detectors import save_detector
from tests.runs import TORCHRUN, assert_same_run, load, log_lines, start

LIDAR = TASKS["lidar-detection"]
CPU = ["--device", "cpu", "--workers", "0"]
DATA = ["--task", "lidar-detection", "--dataset", "synthetic-lidar", "--num-scenes", "4", *CPU]
STREET = [*DATA, "--batch-size", "2"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """The folder of checkpoints, with the teacher where train_teacher.py puts it by itself."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_teacher, "CHECKPOINTS", folder)
        assert train_teacher.main([*STREET, "--steps", "3"]) == 0
    return folder


@pytest.fixture(scope="module")
def teacher(checkpoints) -> Path:
    return checkpoints / "lidar-detection/synthetic/best.pt"


def train(*flags: object) -> Path:
    """Trains a student of the street. Returns the folder of the run, which the flags end with."""
    assert train_student.main([*STREET, *map(str, flags)]) == 0
    return flags[-1]


def test_the_teacher_is_the_small_network_by_the_small_recipe(teacher):
    content = load(teacher)
    assert content["model"]["name"] == "pointpillars-small"
    config = json.loads((teacher.parent / "config.json").read_text())["flags"]
    expected = {"ground": "near", "lr": 3e-4, "optimizer": "adamw", "schedule": "one-cycle", "clip_norm": 35.0}
    assert expected.items() <= config.items() and config["task"] == "lidar-detection"
    (line,) = log_lines(teacher.parent)
    assert line["step"] == 3 and set(line["train"]) == {"loss", "loss_gt", "class", "box", "direction"}
    assert line["train"]["loss"] == pytest.approx(sum(line["train"][part] for part in ("class", "box", "direction")))
    assert set(line["validation"]) == set(AVERAGE_PRECISIONS)


def test_a_student_finds_the_teacher_by_its_name(checkpoints, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_student, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(train_student.resolve_teacher, "__defaults__", (checkpoints, ""))
    assert train_student.main([*STREET, "--steps", "1", "--teacher", "synthetic", "--gamma", "0.3"]) == 0
    run = tmp_path / "runs/student_small-4x-synthetic-lidar-synthetic-gamma0.3-seed0"
    assert load(run / "best.pt")["model"]["name"] == "pointpillars-small-4x"
    said = capsys.readouterr().out
    assert "baseline nothing on the validation part: Car/3d/moderate/R40 0.0000 %" in said
    *_, last = said.splitlines()
    words = last.split("score it with: python evaluate.py ")[1].split()
    assert evaluate.main([*words, "--split", "train", "--num-scenes", "2", *CPU]) == 0  # the task is the checkpoint's
    captured = capsys.readouterr()
    assert "data                       synthetic-lidar train, 2 scans" in captured.out
    assert "warning: the network was trained on 2 of these 2 scans" in captured.err


@pytest.mark.parametrize(
    "methods, losses",
    [
        ("output:0.3", {"loss_kd", "class_distance", "box_distance"}),
        ("pointdistiller", {"pointdistiller"}),
        ("pointdistiller+mode=reference", {"pointdistiller"}),
        ("logits", {"logits"}),
        ("hint,pkd,attention", {"hint", "pkd", "attention"}),
    ],
)
def test_methods_teach_a_detector(teacher, tmp_path, methods, losses):
    run = train("--steps", 2, "--teacher", teacher, "--distill", methods, "--out", tmp_path / "run")
    (line,) = log_lines(run)
    assert set(line["train"]) == losses | {"loss", "loss_gt", "class", "box", "direction"}
    assert all(line["train"][name] > 0 for name in losses - {"box_distance"})  # 0 while the teacher is sure of nothing


def test_a_resumed_student_is_the_uninterrupted_one(teacher, tmp_path):
    """Bit for bit, with augmentation, the weights of pointdistiller and the state of the optimizer."""
    flags = ["--teacher", teacher, "--distill", "pointdistiller:0.5", "--eval-every", "1", "--save-every", "1"]
    whole = train(*flags, "--steps", 3, "--out", tmp_path / "whole")
    parts = tmp_path / "parts"
    step = train_student.Trainer._step

    def stopped(trainer, batch):
        if trainer.progress.step == 1:
            raise KeyboardInterrupt
        return step(trainer, batch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_student.Trainer, "_step", stopped)
        train(*flags, "--steps", 3, "--out", parts)
    assert load(parts / "last.pt")["training"]["step"] == 1 and not log_lines(parts)
    assert train_student.main(["--resume", "--out", str(parts)]) == 0  # the task is that of the run
    assert_same_run(whole, parts)
    adapters = load(whole / "last.pt")["resume"]["adapters"]
    assert adapters and [line["step"] for line in log_lines(whole)] == [2, 3]


def test_a_score_is_the_same_alone_and_in_a_table(teacher, tmp_path, capsys):
    detector = save_detector(tmp_path / "net.pt")
    flags = [*DATA, "--split", "validation"]
    assert evaluate.main([*flags, "--table", str(teacher), str(detector), "--json", str(tmp_path / "table.json")]) == 0
    head, *rows, about = capsys.readouterr().out.splitlines()[-4:]
    assert all(name in head for name in HEADLINE) and "s/scan" in head and about.startswith("synthetic-lidar val")
    results = json.loads((tmp_path / "table.json").read_text())
    assert [row["network"] for row in results] == ["pointpillars-small", "pointpillars-small-16x"]
    for path, line, row in zip((teacher, detector), rows, results, strict=True):
        assert evaluate.main([*flags, "--checkpoint", str(path), "--json", "-"]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert alone["metrics"] == row["metrics"] and alone["scenes"] == row["scenes"]
        assert line.split()[0] == str(path) and line.split()[2] == f"{row['parameters']:,}"
        assert line.split()[-len(HEADLINE) :] == [f"{row['metrics'][name]:.4f}" for name in HEADLINE]
        assert row["protocol"]["ground"] == "near" and set(row["metrics"]) == set(AVERAGE_PRECISIONS)
    assert len(results[1]["scenes"]) == 4 and sum(scene["detections"] for scene in results[1]["scenes"]) > 0


# The real frames


@pytest.fixture(scope="module")
def kitti(real_frames, tmp_path_factory) -> list[str]:
    """Flags for the 22 real frames: 18 to learn from, of which one is held out, and 4 to test on."""
    folder = tmp_path_factory.mktemp("kitti")
    names = real_frames.names
    (folder / "learn.txt").write_text("".join(name + "\n" for name in names[:18]))
    (folder / "score.txt").write_text("".join(name + "\n" for name in names[18:]))
    lists = ["--train-frames", str(folder / "learn.txt"), "--test-frames", str(folder / "score.txt")]
    return ["--task", "lidar-detection", "--dataset", "kitti", "--data-root", str(real_frames.base.parent), *lists]


def test_real_scans_train_and_score(kitti, real_frames, tmp_path, capsys):
    flags = [*kitti, "--ground", "near", *CPU]
    out = tmp_path / "run"
    training = ["--batch-size", "2", "--steps", "2", "--out", str(out)]
    assert train_student.main([*flags, "--student", "small-16x", "--gamma", "0", *training]) == 0
    assert "kitti: 17 training scans, 1 held out for validation; 2 steps" in capsys.readouterr().out
    assert load(out / "best.pt")["training"]["scenes"] == real_frames.names[:17]
    for split, count in (("test", 4), ("all", 22)):
        assert evaluate.main([*flags, "--checkpoint", str(out / "best.pt"), "--split", split, "--json", "-"]) == 0
        captured = capsys.readouterr()
        assert len(json.loads(captured.out)["scenes"]) == count
        assert ("was trained on 17 of these 22" in captured.err) == (split == "all")
    assert not (real_frames.base.parent / "ground_truth_database").exists()  # --ground near needs none


def test_the_database_of_real_objects_fills_the_scans(kitti, real_frames, tmp_path):
    """As the published recipe does, on the full range; the full network is too slow to train here."""
    parser = argparse.ArgumentParser()
    for flag in ("--task", "--dataset"):
        parser.add_argument(flag)
    parser.add_argument("--data-root", type=Path)
    LIDAR.add_flags(parser)
    args = parser.parse_args([*kitti, "--database", str(tmp_path)])
    args.seed, args.augment = 0, "auto"
    LIDAR.complete(args)
    assert args.ground == "kitti"
    scenes = LIDAR.open("kitti", "train", args)
    (built,) = (tmp_path / "ground_truth_database").iterdir()
    before = {path: path.stat().st_mtime_ns for path in built.iterdir()}
    assert len(LIDAR.open("kitti", "train", args).database) == len(scenes.database) > 0
    assert before == {path: path.stat().st_mtime_ns for path in built.iterdir()}  # read, not built again
    for i in range(3):
        plain, filled = scenes[i], scenes[0, i]
        assert len(filled.boxes) > len(plain.boxes) and len(filled.boxes) == len(filled.labels)
        assert torch.equal(filled.points, scenes[0, i].points) and not torch.equal(filled.boxes, scenes[1, i].boxes)
    args.augment = "off"
    assert LIDAR.open("kitti", "train", args).database is None
    validation = LIDAR.open("kitti", "validation", args)
    assert validation.names == real_frames.names[17:18] and validation.augment is None


# Two processes


def expected_step(flags: list[str], processes: int) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and the gradient of the first step of training: the mean over processes, each with its share."""
    args = train_teacher.parse(LIDAR, flags)
    deterministic = torch.are_deterministic_algorithms_enabled()
    seed_everything(0, torch.device("cpu"))
    net = build_model("pointpillars-small").train()
    samples = LIDAR.open(args.dataset, "train", args)
    (keys,) = SampleStream(len(samples), args.batch_size, args.seed, 0, 1)
    batch = LIDAR.collate([samples[key] for key in keys])
    found = LIDAR.forward(net, batch).prediction  # the statistics of batch normalisation are those of the whole batch
    losses = []
    for process in range(processes):
        own = slice(process * len(keys) // processes, (process + 1) * len(keys) // processes)
        output = found.output
        share = replace(
            output,
            class_logits=output.class_logits[own],
            box_codes=output.box_codes[own],
            direction_logits=output.direction_logits[own],
        )
        outputs = SimpleNamespace(prediction=found._replace(output=share))
        losses.append(sum(LIDAR.loss(outputs, LidarBatch(*(values[own] for values in batch))).values()))
    loss = sum(losses) / processes
    loss.backward()
    torch.use_deterministic_algorithms(deterministic)
    return loss.item(), {name: parameter.grad for name, parameter in net.named_parameters()}


def test_a_step_of_two_processes_is_the_mean_of_their_losses(tmp_path):
    """Each process divides by the count of its own positive anchors, as in the published recipe.

    The gradient is read off the weights after one step of SGD. The loss must be right to a hundredth of the distance
    between the two ways to divide, the gradient to a twentieth: rounding errors turn some ReLUs off.
    """
    flags = [*DATA, "--batch-size", "4", "--steps", "1", "--clip-norm", "0", "--weight-decay", "0"]
    flags += ["--optimizer", "sgd", "--schedule", "step", "--lr", "0.5"]
    seed_everything(0, torch.device("cpu"))
    before = build_model("pointpillars-small").state_dict()
    torch.use_deterministic_algorithms(False)
    assert train_teacher.main([*flags, "--out", str(tmp_path / "1")]) == 0
    result = start(TORCHRUN, "train_teacher.py", *flags, "--out", tmp_path / "2")
    assert result.returncode == 0, result.stderr
    expected = {processes: expected_step(flags, processes) for processes in (1, 2)}
    apart = abs(expected[1][0] - expected[2][0])
    assert apart > 0.002, "the shares have different counts of positives, else nothing is tested"

    def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
        return sum((first[name] - second[name]).square().sum() for name in first).sqrt().item()

    between = distance(expected[1][1], expected[2][1])
    for processes, (loss, gradient) in expected.items():
        out = tmp_path / str(processes)
        after = load(out / "last.pt")["model"]["state_dict"]
        found = {name: (before[name] - after[name]) / 0.5 for name in gradient}
        assert log_lines(out)[0]["train"]["loss"] == pytest.approx(loss, abs=apart / 100)
        assert distance(found, gradient) < between / 20
