"""convert_checkpoint.py: there and back without a changed bit, and one line for what has no other form."""

import json
import shutil

import pytest
import torch

import convert_checkpoint
from lib.cli import run_script
from lib.training.checkpoint import training_facts
from models import build_model, load_model
from tests.runs import load, save_teacher


def convert(source, out):
    assert convert_checkpoint.main([str(source), str(out)]) == 0


def message(capsys, source, out) -> str:
    before = sorted(out.parent.iterdir()) if out.parent.is_dir() else None
    with pytest.raises(SystemExit) as end:
        run_script(lambda: convert_checkpoint.main([str(source), str(out)]))
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert before is None or sorted(out.parent.iterdir()) == before
    return error.removeprefix("error: ").rstrip("\n")


def test_there_and_back(tmp_path, shared, published_state):
    torch.save(published_state, tmp_path / "published.pth")
    convert(tmp_path / "published.pth", tmp_path / "ours.pt")
    direct, converted = (load_model(tmp_path / name).state_dict() for name in ("published.pth", "ours.pt"))
    assert all(torch.equal(direct[name], converted[name]) for name in direct)
    origin = training_facts(tmp_path / "ours.pt")["converted_from"]
    assert origin["file"] == "published.pth" and len(origin["sha256"]) == 64

    convert(tmp_path / "ours.pt", tmp_path / "again.pth")
    again = load(tmp_path / "again.pth")
    shapes = dict(json.loads((shared / "golden/published_state_keys.json").read_text()))
    assert {name: list(value.shape) for name, value in again.items()} == shapes
    back = load_model(tmp_path / "again.pth").state_dict()
    assert all(torch.equal(direct[name], back[name]) for name in direct)


def test_unused_tensors_are_neutral(tmp_path):
    convert(
        save_teacher(
            tmp_path / "ours.pt",
            pyramid=build_model("teacher").options["pyramid"],
            predictor=build_model("teacher").options["predictor"],
        ),
        tmp_path / "out.pth",
    )
    state = load(tmp_path / "out.pth")
    assert not state["cross2.bias1"].any() and state["cross2.bias1"].shape == (1, 128, 1, 1)
    norm = "level1.weightnet.mlp_bns.2."
    assert state[norm + "weight"].eq(1).all() and state[norm + "running_var"].eq(1).all()
    assert not state[norm + "bias"].any() and state[norm + "num_batches_tracked"] == 0


def test_only_the_published_widths_go_back(tmp_path, capsys):
    path = save_teacher(tmp_path / "narrow.pt")
    assert message(capsys, path, tmp_path / "out.pth") == (
        f"{path}: only the teacher of the published widths has a published form, not this teacher"
    )


def test_bad_paths(tmp_path, capsys):
    path = save_teacher(tmp_path / "narrow.pt")
    assert message(capsys, path, path) == f"{path} is the file to be read: give another name to write to"
    assert message(capsys, path, tmp_path) == f"{tmp_path}: give a file in a folder that exists"
    assert message(capsys, path, tmp_path / "a/b.pt") == f"{tmp_path / 'a/b.pt'}: give a file in a folder that exists"
    assert message(capsys, tmp_path / "no.pt", tmp_path / "b.pt") == f"{tmp_path / 'no.pt'}: no such checkpoint file"
    shutil.copy(path, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:5000])
    assert "damaged or cut short" in message(capsys, tmp_path / "cut.pt", tmp_path / "b.pt")
