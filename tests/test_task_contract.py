"""The toy task of tests/toy.py through the scripts: nothing but the contract is needed to train, distil and score."""

import json

import pytest
import torch

import evaluate
import predict
import train_student
import train_teacher
import visualize
from experiments import make_tables
from lib.errors import InputError
from lib.tasks import TASKS
from lib.training.engine import Trainer
from models import MODELS, load_model
from tests import toy
from tests.runs import SCENE_FLOW, assert_same_run, load, log_lines, save_teacher

FLAGS = ["--task", "toy", "--device", "cpu", "--workers", "0", "--save-every", "1"]


@pytest.fixture(autouse=True)
def toy_task(monkeypatch):
    monkeypatch.setitem(TASKS, "toy", toy.TOY)
    for name, entry in toy.MODELS.items():
        monkeypatch.setitem(MODELS, name, entry)


@pytest.fixture
def teacher(tmp_path):
    assert train_teacher.main([*FLAGS, "--out", str(tmp_path / "teacher")]) == 0
    return tmp_path / "teacher/best.pt"


def test_a_teacher_learns_and_the_best_is_the_highest(teacher):
    lines = log_lines(teacher.parent)
    assert lines[-1]["train"]["loss"] < 0.7 * lines[0]["train"]["loss"]
    best = max(line["validation"]["accuracy"] for line in lines)
    assert load(teacher)["training"]["validation"]["accuracy"] == best > 0.7
    assert load(teacher)["training"]["num_rows"] == 24


@pytest.mark.parametrize("distill", ["output:0.3", "output:0.3,hint,pkd,logits"])
def test_methods_go_on_exactly_after_a_stop(teacher, tmp_path, distill, monkeypatch):
    given = [*FLAGS, "--teacher", str(teacher), "--distill", distill]
    assert train_student.main([*given, "--out", str(tmp_path / "whole")]) == 0
    names = set(log_lines(tmp_path / "whole")[0]["train"])
    assert names == {"loss", "loss_gt", "loss_kd", *(["hint", "pkd", "logits"] if "hint" in distill else [])}

    save = Trainer._save

    def save_and_stop(trainer):
        save(trainer)
        if trainer.progress.step == 10:
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", save_and_stop)
        with pytest.raises(InterruptedError):
            train_student.main([*given, "--out", str(tmp_path / "parts")])
    torch.manual_seed(5)
    # --task is read from the run's own config
    assert train_student.main(["--resume", "--out", str(tmp_path / "parts")]) == 0
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    assert load_model(tmp_path / "parts/best.pt").name == "toy-narrow"


def test_places_of_the_task_and_refusals(teacher, tmp_path):
    given = [*FLAGS, "--teacher", str(teacher), "--out", str(tmp_path / "run")]
    for distill, words in (("self", "levels|level"), ("similarity@hidden", "rows"), ("hint@nowhere", "nowhere")):
        with pytest.raises(InputError, match=words) as caught:
            train_student.main([*given, "--distill", distill])
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_only_the_headline_is_printed_and_files_hold_every_metric(tmp_path, capsys):
    run, scores = tmp_path / "run", tmp_path / "scores.json"
    assert train_teacher.main([*FLAGS, "--out", str(run)]) == 0
    assert evaluate.main(["--checkpoint", str(run / "best.pt"), "--device", "cpu", "--json", str(scores)]) == 0
    assert evaluate.main(["--table", str(run / "best.pt"), "--device", "cpu"]) == 0
    assert make_tables.main([str(scores)]) == 0
    shown = capsys.readouterr().out
    assert "24 training rows" in shown and "time per row" in shown and "s/row" in shown and "scene" not in shown
    page = (run / "report.html").read_text()
    assert "accuracy" in shown and "accuracy" in page
    assert " nat" not in shown and "(nat)" not in page, "the unit of the metric that is not in the headline"
    result = json.loads(scores.read_text())
    assert result["headline"] == ["accuracy"] and result["units"] == {"accuracy": "", "loss": "nat"}
    for metrics in (result["metrics"], *(line["validation"] for line in log_lines(run))):
        assert set(metrics) == {"accuracy", "loss"}
    best = max(log_lines(run), key=lambda line: line["validation"]["accuracy"])
    assert f"Best checkpoint, step {best['step']}" in page, "here the best is the highest"


@pytest.mark.parametrize("flags", [["--augment", "off"], ["--split", "all"]])
def test_flags_that_the_task_does_not_have(flags, capsys):
    script, needed = (train_teacher, []) if flags[0] == "--augment" else (evaluate, ["--baseline", "zero"])
    with pytest.raises(SystemExit):
        script.main(["--task", "toy", *needed, *flags])
    assert flags[0] in capsys.readouterr().err


def test_scores_say_their_task_and_what_is_better(teacher, tmp_path, capsys):
    out = tmp_path / "score.json"
    assert evaluate.main(["--checkpoint", str(teacher), "--device", "cpu", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["task"] == "toy" and result["best_metric"] == {"name": "accuracy", "better": "higher"}
    assert set(result["metrics"]) == {"accuracy", "loss"} and len(result["scenes"]) == 24
    assert "rows test, 24 rows\n" in capsys.readouterr().out
    assert evaluate.main(["--baseline", "zero", "--task", "toy", "--device", "cpu"]) == 0
    with pytest.raises(InputError, match="--html is not there for toy"):
        evaluate.main(["--checkpoint", str(teacher), "--html", str(tmp_path / "page.html")])
    flow = save_teacher(tmp_path / "flow.pt")
    with pytest.raises(InputError, match="one table, one task"):
        evaluate.main(["--table", str(teacher), str(flow), "--device", "cpu"])
    for script, given in ((predict, ["a.ply", "b.ply"]), (visualize, ["--out", "a.png"])):
        with pytest.raises(InputError, match="serves scene-flow and lidar-detection, and this is a network for toy"):
            script.main([*given, "--checkpoint", str(teacher)])
    assert SCENE_FLOW.lower_is_better and not toy.TOY.lower_is_better
