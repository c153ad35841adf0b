"""visualize.py and experiments/make_tables.py, end to end on tiny data."""

import json
import struct

import pytest
import torch

import evaluate
import visualize
from experiments import make_tables
from models import CHECKPOINT_FORMAT, build_model, model_record


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "student.pt"
    torch.save({"format": CHECKPOINT_FORMAT, "model": model_record(build_model("student")), "training": {}}, path)
    return path


DATA = ["--dataset", "synthetic-drive", "--num-points", "256"]


def test_picture(checkpoint, tmp_path, capsys):
    out = tmp_path / "flow.png"
    assert visualize.main(["--checkpoint", str(checkpoint), *DATA, "--scene", "1", "--out", str(out)]) == 0
    content = out.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 1000 and height > 300
    assert "synthetic-drive/test/000001, EPE3D" in capsys.readouterr().out


def test_table(tmp_path, monkeypatch, capsys):
    files = []
    for baseline in ("zero", "nearest"):
        files.append(str(tmp_path / f"{baseline}.json"))
        assert evaluate.main(["--baseline", baseline, *DATA, "--json", files[-1]]) == 0
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["make_tables.py", *files])
    assert make_tables.main() == 0
    lines = capsys.readouterr().out.splitlines()
    epe = json.loads((tmp_path / "nearest.json").read_text())["metrics"]["EPE3D"]
    assert lines[0].startswith("| row | scored on | parameters | EPE3D (m) | ACC3DS |")
    assert lines[3].startswith(f"| nearest | synthetic-drive test, 64 scenes, 256 points |  | {epe:.4f} |")


def test_a_missing_result_is_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["make_tables.py", "nowhere.json"])
    assert make_tables.main() == 2
    assert capsys.readouterr().err == "error: no such result: nowhere.json: evaluate.py --json writes them\n"
