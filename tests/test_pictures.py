"""visualize.py end to end on tiny data."""

import struct

import pytest
import torch

import visualize
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
