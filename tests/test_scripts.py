"""The three scripts as a user meets them: end to end on tiny data, and one line for every mistake."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

import evaluate
import train_student
import train_teacher
from lib.cli import run_script
from lib.errors import InputError
from tests.runs import TINY, assert_same_run, load, log_lines, run, save_teacher, write_ft3d, write_kitti

pytestmark = pytest.mark.filterwarnings("ignore:.*the full set has")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_kitti(write_ft3d(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return save_teacher(tmp_path_factory.mktemp("teacher") / "narrow.pt")


def test_from_teacher_to_student_to_table(data, tmp_path):
    """The three commands a user types, each as its own process, as the one before said."""
    flags = [*TINY, "--data-root", data, "--batch-size", "2", "--steps", "2"]
    first = run("train_teacher.py", *flags, "--subset", "full", "--workers", "2", "--out", tmp_path / "teacher")
    assert first.returncode == 0, first.stderr
    assert "ft3d: 7 training scenes, 1 held out for validation; 2 steps" in first.stdout
    config = json.loads((tmp_path / "teacher/config.json").read_text())
    assert config["flags"]["lr"] == 1e-3 and config["flags"]["dataset"] == "ft3d"
    assert config["provenance"]["command"].startswith("python ") and set(config["provenance"]["versions"]) >= {
        "torch",
        "numpy",
        "numba",
        "cuda-core",
        "nvidia-cuda-nvrtc",
    }

    best = tmp_path / "teacher/best.pt"
    second = run("train_student.py", *flags, "--teacher", best, "--gamma", "0.3", "--out", tmp_path / "student")
    assert second.returncode == 0, second.stderr
    lines = second.stdout.splitlines()
    assert [line.startswith(f"teacher {best} on the validation part: EPE3D ") for line in lines].index(True) < [
        line.startswith("step 2") for line in lines
    ].index(True)
    assert {"loss", "loss_gt", "loss_kd"} == set(log_lines(tmp_path / "student")[0]["train"])
    command = lines[-1].split("score it with: python ")[1].split()
    third = run(*command, "--device", "cpu", "--json", tmp_path / "score.json")
    assert third.returncode == 0, third.stderr
    assert [line.split()[0] for line in third.stdout.splitlines()[3:9]] == [
        "EPE3D",
        "ACC3DS",
        "ACC3DR",
        "Outliers3D",
        "EPE2D",
        "ACC2D",
    ]
    assert "kitti test, 2 scenes, 128 points" in third.stdout and "3,712,884" in third.stdout
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["megabytes"] == pytest.approx(14.85, abs=0.01) and len(score["scenes"]) == 2
    assert score["protocol"]["split"] == "test" and score["provenance"]["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("dataset", ["synthetic-things", "synthetic-drive"])
def test_synthetic_sets_need_nothing_but_a_name(dataset, capsys):
    flags = ["--num-points", "256", "--device", "cpu", "--workers", "0", "--dataset", dataset]
    assert evaluate.main([*flags, "--baseline", "nearest", "--split", "train", "--num-scenes", "2"]) == 0
    assert f"{dataset} train, 2 scenes, 256 points" in capsys.readouterr().out


def test_a_score_is_the_same_on_every_run_and_alone_on_stdout(data, teacher, capsys):
    flags = [*TINY, "--data-root", str(data), "--checkpoint", str(teacher), "--json", "-"]
    results = []
    for _ in range(2):
        assert evaluate.main(flags) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0]["metrics"] == results[1]["metrics"] and results[0]["scenes"] == results[1]["scenes"]


def test_a_table_holds_what_each_checkpoint_scores_alone(data, teacher, tmp_path, capsys):
    other = save_teacher(tmp_path / "other.pt", predictor=(16, 16, 16, 12))
    flags = [*TINY, "--data-root", str(data)]
    assert evaluate.main([*flags, "--table", str(teacher), str(other), "--json", str(tmp_path / "table.json")]) == 0
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert lines[0].split() == [
        "checkpoint",
        "network",
        "parameters",
        "MB",
        "file",
        "MB",
        "GFLOP",
        "s/scene",
        "EPE3D",
        "(m)",
        "ACC3DS",
        "ACC3DR",
        "Outliers3D",
        "EPE2D",
        "(px)",
        "ACC2D",
    ]
    assert len({len(line) for line in lines[:3]}) == 1, "aligned"
    assert lines[3].startswith("kitti test, 2 scenes, 128 points, cpu.")
    rows = json.loads((tmp_path / "table.json").read_text())
    for path, line, row in zip((teacher, other), lines[1:3], rows, strict=True):
        capsys.readouterr()
        assert evaluate.main([*flags, "--checkpoint", str(path), "--json", "-"]) == 0
        alone = json.loads(capsys.readouterr().out)
        for result in (row, alone):
            del result["seconds_per_sample"], result["provenance"]
        assert row == alone
        cells = line.split()
        assert cells[0] == str(path) and cells[2] == f"{row['parameters']:,}" and cells[3] == f"{row['megabytes']:.2f}"
        assert cells[4] == f"{path.stat().st_size / 1e6:.2f}" and cells[5] == f"{row['gigaflop']:.2f}"
        assert cells[7:] == [f"{value:.4f}" for value in row["metrics"].values()]
    assert rows[0]["parameters"] < rows[1]["parameters"] and rows[0]["gigaflop"] < rows[1]["gigaflop"]


def test_scoring_scenes_that_were_trained_on_is_said(data, teacher, tmp_path, capsys):
    flags = [*TINY, "--data-root", str(data)]
    out = tmp_path / "run"
    training_flags = ["--teacher", str(teacher), "--steps", "1", "--batch-size", "2", "--out", str(out)]
    assert train_student.main([*flags, *training_flags]) == 0
    for split, warns in (("all", True), ("train", True), ("test", False), ("validation", False)):
        capsys.readouterr()
        assert evaluate.main([*flags, "--checkpoint", str(out / "best.pt"), "--split", split]) == 0
        error = capsys.readouterr().err
        assert ("warning: the network was trained on 3 of these" in error) == warns, split


def test_gamma_0_is_the_scratch_student_with_or_without_a_teacher(data, teacher, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_student, "load_model", lambda *_: pytest.fail("gamma 0 loaded a teacher"))
    flags = [*TINY, "--data-root", str(data), "--gamma", "0", "--steps", "3", "--batch-size", "2"]
    assert train_student.main([*flags, "--out", str(tmp_path / "a")]) == 0
    assert "not used" not in capsys.readouterr().out
    assert train_student.main([*flags, "--teacher", str(teacher), "--out", str(tmp_path / "b")]) == 0
    assert f"gamma is 0: the teacher {teacher} is not used" in capsys.readouterr().out
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert set(log_lines(tmp_path / "a")[0]["train"]) == {"loss", "loss_gt"}


def test_default_folders_and_names(data, teacher, tmp_path, monkeypatch):
    """What train_teacher leaves behind is what --teacher looks for."""
    monkeypatch.setattr(train_teacher, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setattr(train_student, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(train_student.resolve_teacher, "__defaults__", (tmp_path / "checkpoints", ""))
    flags = [*TINY, "--data-root", str(data), "--steps", "1", "--batch-size", "2"]
    assert train_teacher.main([*flags, "--dataset", "kitti"]) == 0
    assert train_student.main([*flags, "--teacher", "kitti", "--gamma", "1"]) == 0
    facts = load(tmp_path / "runs/student-kitti-kitti-gamma1-seed0/best.pt")["training"]
    assert facts["gamma"] == 1 and facts["teacher"]["path"] == str(tmp_path / "checkpoints/kitti/best.pt")
    assert facts["teacher"]["scenes"] == facts["scenes"] and len(facts["scenes"]) == 3


def test_amp_and_reference_ops_run(data, tmp_path):
    flags = [*TINY, "--data-root", str(data), "--gamma", "0", "--steps", "1", "--batch-size", "2"]
    assert train_student.main([*flags, "--amp", "bf16", "--out", str(tmp_path / "amp")]) == 0
    assert train_student.main([*flags, "--ops", "reference", "--out", str(tmp_path / "reference")]) == 0
    assert train_student.main([*flags, "--out", str(tmp_path / "fast")]) == 0
    losses = {name: log_lines(tmp_path / name)[0]["train"]["loss"] for name in ("amp", "reference", "fast")}
    assert losses["reference"] == pytest.approx(losses["fast"], rel=1e-3)
    assert losses["amp"] == pytest.approx(losses["fast"], rel=0.1) and losses["amp"] != losses["fast"]


@pytest.mark.parametrize("script", ["train_teacher.py", "train_student.py", "evaluate.py"])
def test_help_shows_groups_defaults_and_examples(script):
    result = run(script, "--help")
    assert result.returncode == 0 and result.stderr == ""
    assert "examples:\n  python " in result.stdout and "data:\n" in result.stdout
    assert "(default: 8192)" in result.stdout and "None" not in result.stdout


# What a user can get wrong, and the line it earns. {data}, {teacher} and {tmp} stand for paths.
STUDENT_MISTAKES = [
    (["--gamma", "1.5"], "gamma must be in [0, 1] (0: ground truth alone, 1: teacher alone), got 1.5"),
    (["--gamma", "nan"], "gamma must be in [0, 1] (0: ground truth alone, 1: teacher alone), got nan"),
    (["--gamma", "much"], "argument --gamma: invalid float value: 'much'"),
    ([], "--teacher is needed for gamma 0.3: give ft3d, kitti, synthetic or a checkpoint's path"),
    (["--teacher", "{tmp}/none.pt"], "no teacher file {tmp}/none.pt: give a path that exists, or one of ft3d"),
    (["--teacher", "{data}"], "--teacher {data} is a folder: give the file, such as {data}/best.pt"),
    (["--teacher", "{tmp}/short.pt"], "{tmp}/short.pt: damaged or cut short"),
    (["--teacher", "{tmp}/code.pt"], "{tmp}/code.pt: refused, because it holds more than tensors"),
    (["--teacher", "{tmp}/width.pt"], "{tmp}/width.pt: the checkpoint's weights do not fit the teacher"),
    (["--num-points", "0"], "argument --num-points: must be a whole number of at least 1, got 0"),
    (["--num-points", "2.5"], "argument --num-points: must be a whole number of at least 1, got 2.5"),
    (["--gamma", "0", "--num-points", "100"], "a cloud of 100 points is too small"),
    (["--lr", "-1"], "argument --lr: must be a number above 0, got -1"),
    (["--lr", "nan"], "argument --lr: must be a number above 0, got nan"),
    (["--lr-gamma", "2"], "argument --lr-gamma: must be a number above 0 and at most 1, got 2"),
    (["--weight-decay", "-1"], "argument --weight-decay: must be a number of at least 0, got -1"),
    (["--epochs", "3", "--steps", "3"], "argument --steps: not allowed with argument --epochs"),
    (["--steps", "0"], "argument --steps: must be a whole number of at least 1, got 0"),
    (["--seed", "-3"], "argument --seed: must be a whole number of at least 0"),
    (["--dataset", "waymo"], "argument --dataset: invalid choice: 'waymo' (choose from 'ft3d', 'kitti',"),
    (["--amp", "fp16"], "argument --amp: invalid choice: 'fp16' (choose from 'off', 'bf16')"),
    (["--learning-rate", "1"], "unrecognized arguments: --learning-rate 1"),
    (["--gamma", "0", "--device", "tpu"], "--device must be auto, cpu, cuda or cuda:N, got tpu"),
    (["--gamma", "0", "--data-root", "{tmp}"], "no folder KITTI_processed_occ_final or kitti_processed in {tmp}"),
    (["--gamma", "0", "--subset", "quarter"], "data set kitti has no subset 'quarter': choose one of full"),
    (["--gamma", "0", "--num-scenes", "4"], "data set kitti is read from disk: leave --num-scenes out"),
    (["--gamma", "0", "--out", "{tmp}/file/run"], "cannot write {tmp}/file/run: Not a directory"),
]
EVALUATE_MISTAKES = [
    ([], "one of the arguments --checkpoint --table --baseline is required"),
    (["--table"], "argument --table: expected at least one argument"),
    (["--table", "{teacher}", "{tmp}/none.pt"], "{tmp}/none.pt: no such checkpoint file"),
    (["--table", "{teacher}", "--checkpoint", "{teacher}"], "argument --checkpoint: not allowed with argument --table"),
    (["--baseline", "magic"], "argument --baseline: invalid choice: 'magic' (choose from 'zero', 'nearest')"),
    (["--checkpoint", "{tmp}/none.pt"], "{tmp}/none.pt: no such checkpoint file"),
    (["--baseline", "zero", "--dataset", "ft3d", "--split", "all"], "data set ft3d has no part 'all'"),
    (["--baseline", "zero", "--json", "{tmp}/no/score.json"], "--json {tmp}/no/score.json: its folder does not"),
    (["--checkpoint", "{teacher}", "--num-points", "100"], "a cloud of 100 points is too small"),
]
MISTAKES = [(train_student, *case) for case in STUDENT_MISTAKES] + [(evaluate, *case) for case in EVALUATE_MISTAKES]


@pytest.mark.parametrize("script, flags, line", MISTAKES, ids=[" ".join(case[1]) or "nothing" for case in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(script, flags, line, data, teacher, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "short.pt").write_bytes(teacher.read_bytes()[:1000])
    (tmp_path / "code.pt").write_bytes(pickle.dumps(os.getcwd))
    content = load(teacher)
    content["model"]["options"]["pyramid"] = (16, 8, 16, 16, 16)
    torch.save(content, tmp_path / "width.pt")
    before = sorted(tmp_path.rglob("*"))
    places = {"data": data, "teacher": teacher, "tmp": tmp_path}
    given = [flag.format(**places) for flag in flags]
    out = [] if script is evaluate or "--out" in given else ["--steps", "1", "--out", f"{tmp_path}/run"]
    out = out[2:] if "--epochs" in given else out
    with pytest.raises(SystemExit) as caught:
        run_script(lambda: script.main([*TINY, "--data-root", str(data), *out, *given]))
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.startswith(f"error: {line.format(**places)}") and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before, "a refused start leaves nothing behind"


def test_a_missing_gpu_is_said(capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="--device cuda:1: no usable GPU on this machine; use --device cpu"):
        evaluate.main(["--baseline", "zero", "--device", "cuda:1"])


def test_bad_data_met_in_training_is_one_line(data, tmp_path):
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    file = sorted((broken / "KITTI_processed_occ_final").iterdir())[1] / "pc1.npy"
    file.write_bytes(file.read_bytes()[:-8])
    flags = [*TINY, "--data-root", broken, "--gamma", "0", "--steps", "3", "--batch-size", "2", "--workers", "2"]
    result = run("train_student.py", *flags, "--out", tmp_path / "run")
    errors = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert result.returncode == 2 and len(errors) == 1 and errors[0].startswith(f"error: {file} is damaged")
