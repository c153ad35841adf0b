"""benchmark.py from end to end on tiny clouds, and the plain network that it compares with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import benchmark
from benchmarks import measure, suite_ops
from benchmarks.plain import PlainBiPointFlowNet
from lib.losses.distill import METHODS
from lib.ops import InputError
from models import build_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def measured(tmp_path, capsys):
    def run(suite: str, points: int) -> dict:
        path = tmp_path / "new" / f"{suite}.json"
        assert benchmark.main([suite, "--num-points", str(points), "--repeats", "1", "--json", str(path)]) == 0
        result = json.loads(path.read_text())
        assert result["num_points"] == points and result["provenance"]["versions"]["torch"] == torch.__version__
        assert f"suite: {suite}" in capsys.readouterr().out
        return result

    return run


def test_ops(measured, monkeypatch):
    monkeypatch.setattr(suite_ops, "_package", lambda name: None)
    monkeypatch.setattr(suite_ops, "NEIGHBOURS", (3, 9, 32))
    rows = measured("ops", 128)
    searches = {name: row for name, row in rows.items() if name.startswith("knn")}
    assert len(searches) == 3
    for row in searches.values():
        assert row["ours"]["median_seconds"] > 0 and row["plain torch"]["median_seconds"] > 0
        assert row["pykdtree"] == row["torch-cluster"] == "not installed"


def test_model(measured):
    result = measured("model", 256)
    assert set(result["times"]) == set(result["peak_bytes"]) == {"teacher", "student", "plain teacher"}
    assert result["flow_difference_m"]["max"] < 1e-4
    teacher = result["arithmetic"]["teacher"]
    assert teacher["parameters"] == 7_956_876 and teacher["flop"] == sum(teacher["flop_by_part"].values())
    assert 0 < result["share_of_best_rate"]["teacher"] < 1
    assert result["teacher_over_plain"] > 0 and result["student_over_teacher"] > 0
    assert all(10**8 < size < 10**10 for size in result["peak_bytes"].values())
    for profile in result["seconds_on_one_thread"].values():
        assert all(0 < seconds < profile["total"] for name, seconds in profile.items() if name != "total")


def test_train(measured):
    result = measured("train", 128)
    assert set(result["extra_training_time"]) == {"none", *METHODS}
    assert {"teacher", "plain teacher", "student step, gamma 0", "student step, gamma 0.3"} == set(result["times"])
    assert result["distillation_over_gamma_0"] > 0 and result["peak_memory_over_plain"] > 0


def test_scaling(measured, monkeypatch):
    """Time and memory of every size go into the fit; the sizes run in processes of their own in the other tests."""

    def made_up(points: int, **_: object) -> dict:
        seconds = 1e-6 * points**1.1
        return measure.spread([seconds]) | {"peak_bytes": 4 * 10**8 + 1000 * points, "peak_bytes_before": 4 * 10**8}

    monkeypatch.setattr("benchmarks.suite_networks.in_fresh_process", made_up)
    result = measured("scaling", 256)
    assert result["points"] == [256, 512, 1024, 2048, 4096]
    assert result["time_exponent"] == pytest.approx(1.1) and result["memory_exponent"] == pytest.approx(1.0)


def test_a_process_that_fails_is_named():
    with pytest.raises(InputError, match="^measuring inference of nothing at 256 points failed: KeyError: 'nothing'$"):
        task = {"work": "inference", "network": "nothing", "points": 256, "batch": 1, "device": "cpu", "repeats": 1}
        measure.in_fresh_process(**task)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["everything"], "error: argument suite: invalid choice: 'everything'"),
        (["ops", "--num-points", "5"], "error: argument --num-points: must be a whole number of at least 128, got 5"),
        (["ops", "--repeats", "0"], "error: argument --repeats: must be a whole number of at least 1, got 0"),
        (["ops", "--device", "tpu"], "error: --device must be auto, cpu, cuda or cuda:N, got tpu"),
    ],
)
def test_bad_flags(flags, message):
    done = subprocess.run([sys.executable, "benchmark.py", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(message) and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_the_plain_network_gives_the_same(small_pair, name):
    """Flows, sampling indices and gradients, in float64 and in training mode."""
    xyz1, xyz2 = (cloud.double() for cloud in small_pair)
    ours = build_model(name).double().train()
    plain = PlainBiPointFlowNet(name, **ours.options).double().train()
    plain.load_state_dict(ours.state_dict())
    outputs = [net(xyz1, xyz2) for net in (ours, plain)]
    for one, other in zip(outputs[0].flows, outputs[1].flows, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    for one, other in zip(outputs[0].indices2[1:], outputs[1].indices2[1:], strict=True):
        assert torch.equal(one, other)
    for output in outputs:
        sum(flow.square().sum() for flow in output.flows).backward()
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-6)
