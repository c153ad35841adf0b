"""benchmark.py from end to end on tiny clouds, and the plain network that it compares with."""

import importlib.metadata
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import benchmark
from benchmarks import measure, suite_networks, suite_ops
from benchmarks.plain import PlainBiPointFlowNet
from benchmarks.workloads import SERVED
from lib.ops import InputError
from lib.training import run_folder as log
from models import build_model

ROOT = Path(__file__).resolve().parents[1]
NOT_NEEDED = ("tqdm", "scipy", "cv2", "laspy", "lazrs", "tensorboardX", "matplotlib", "plotly", "triton", "cuda")


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
    for name in ("pykdtree.kdtree", "torch_cluster", "fpsample"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(suite_ops, "NEIGHBOURS", (3, 9, 32))
    rows = measured("ops", 128)
    searches = [row for name, row in rows.items() if name.startswith("knn 128 x 128")]
    samplings = [rows[f"furthest_point_sample 128 -> 32, {clouds} clouds"] for clouds in (2, 16)]
    detection = [row for name, row in rows.items() if name.startswith("detection: ")]
    assert len(searches) == 3 and len(detection) == 6
    assert all(row["ours"]["median_seconds"] > 0 for row in detection)
    for row in (*searches, *samplings):
        assert row["ours"]["median_seconds"] > 0 and row["plain torch"]["median_seconds"] > 0
        assert row["torch-cluster"] == "not installed"
    assert all(row["pykdtree"] == "not installed" for row in searches)
    assert all(row["scipy"]["median_seconds"] > 0 for row in searches)
    assert set(rows["versions_of_peers"]) == {"scipy", "pykdtree", "fpsample", "torch-cluster"}
    assert rows["versions_of_peers"]["scipy"] == importlib.metadata.version("scipy")


@pytest.mark.parametrize(
    ("source", "row"),
    [
        (
            "raise OSError('_fps_cpu.so: undefined symbol: _ZN5torch')",
            "not usable: OSError: _fps_cpu.so: undefined symbol: _ZN5torch",
        ),
        ("import nothing_of_that_name", "not usable: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        (
            "def sample(): raise RuntimeError('Not compiled with CUDA support\\nException raised from fps')",
            "not usable: RuntimeError: Not compiled with CUDA support",
        ),
        (None, "not installed"),
    ],
)
def test_a_peer_that_cannot_be_used(tmp_path, monkeypatch, source, row):
    """Built for another torch, short of a package, built without CUDA, or not there."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_peer", raising=False)
    if source:
        (tmp_path / "some_peer.py").write_text(source)
    assert suite_ops._peer("some_peer", lambda package: package.sample()) == row


def test_peers_without_a_gpu_say_so_in_a_run_on_one():
    names = [suite_ops._on_cpu("scipy", torch.device(device)) for device in ("cpu", "cuda")]
    assert names == ["scipy", "scipy, on the CPU"]


def test_rows_of_a_gpu():
    rows = suite_ops._ours(torch.device("cuda", 1), max, min)
    assert rows == {"ours": max, "ours, on the GPU alone": min}


def test_the_time_on_the_gpu_is_a_calls_share_of_a_graph(monkeypatch):
    """With a pretended GPU: what is captured, what lies between the events, and the units."""
    happened = []

    class Event:
        def __init__(self, enable_timing: bool):
            assert enable_timing

        def record(self) -> None:
            happened.append("event")

        def synchronize(self) -> None:
            happened.append("wait")

        def elapsed_time(self, end: "Event") -> float:
            return 30.0  # milliseconds

    stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: happened.append("captured next"))
    graph = SimpleNamespace(replay=lambda: happened.append("graph"))
    pretended = {"Stream": lambda device: stream, "CUDAGraph": lambda: graph, "Event": Event, "current_stream": id}
    pretended |= {"stream": lambda stream: nullcontext(), "graph": lambda graph, stream: nullcontext()}
    for name, value in pretended.items():
        monkeypatch.setattr(torch.cuda, name, value)
    times = measure.timed_on_gpu(lambda: happened.append("call"), torch.device("cuda", 0), 2)
    before = happened.index("captured next")
    captured = happened[before + 1 : happened.index("graph")]
    assert before >= 3 and captured == ["call"] * measure.CALLS
    assert happened[before + 1 + len(captured) :] == 2 * ["graph", "event", "graph", "event", "wait"]
    assert times["all"] == pytest.approx([0.03 / measure.CALLS] * 2)


@pytest.mark.cuda
def test_times_on_a_gpu_alone():
    """A kernel that counts cycles takes as long as it counts, with less around it than a call has."""
    device = torch.device("cuda", torch.cuda.current_device())
    short, long = (
        measure.timed_on_gpu(lambda cycles=cycles: torch.cuda._sleep(cycles), device, 5)["median_seconds"]
        for cycles in (10**5, 10**6)
    )
    assert 5 < long / short < 20
    assert long < 1.2 * measure.timed(lambda: torch.cuda._sleep(10**6), device, 5)["median_seconds"]


@pytest.mark.cuda
def test_ops_on_a_gpu():
    rows = suite_ops.run(512, 1, torch.device("cuda", torch.cuda.current_device()), 3)
    del rows["versions_of_peers"]
    for name, row in rows.items():
        assert row["ours"]["median_seconds"] > 0
        if not name.endswith("forward and backward, 1 clouds") and not name.startswith("detection"):
            assert 0 < row["ours, on the GPU alone"]["median_seconds"] < row["ours"]["median_seconds"], name


def test_another_gpu_is_the_current_one_and_is_named(monkeypatch, tmp_path):
    """The record of the machine, kernels and events take the current device: it is the one of --device."""
    current, made = [0], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(device.index))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: f"GPU {current[-1]}")
    monkeypatch.setitem(benchmark.SUITES, "ops", lambda *args: made.append((*args, current[-1])) or {})
    assert benchmark.main(["ops", "--device", "cuda:1", "--json", str(tmp_path / "ops.json")]) == 0
    assert made == [(8192, 1, torch.device("cuda", 1), 20, 1)]
    assert json.loads((tmp_path / "ops.json").read_text())["provenance"]["machine"]["gpu"] == "GPU 1"


def with_missing_packages(folder: Path, *flags: str, missing: tuple[str, ...]) -> subprocess.CompletedProcess:
    """benchmark.py where these packages are not installed, nor in the processes that measure memory."""
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n")
    command, environment = [sys.executable, "benchmark.py", *flags], {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def test_model_on_a_machine_with_torch_and_numba_alone(tmp_path):
    flags = ["model", "--num-points", "256", "--repeats", "1", "--json", str(tmp_path / "model.json")]
    done = with_missing_packages(tmp_path, *flags, missing=NOT_NEEDED)
    assert (done.returncode, done.stderr) == (0, "") and "suite: model" in done.stdout
    result = json.loads((tmp_path / "model.json").read_text())
    assert set(result["times"]) == set(result["peak_bytes"]) == {"teacher", "student", "plain teacher"}
    assert result["flow_difference_m"]["max"] < 1e-4
    teacher = result["arithmetic"]["teacher"]
    assert teacher["parameters"] == 7_956_876 and teacher["flop"] == sum(teacher["flop_by_part"].values())
    assert set(result["share_of_best_rate"]) == {"teacher", "student"}
    assert 0 < result["share_of_best_rate"]["teacher"] < 1
    assert result["teacher_over_plain"] > 0 and result["student_over_teacher"] > 0
    assert not any("graph" in name for name in result)
    assert all(10**8 < size < 10**10 for size in result["peak_bytes"].values())
    for profile in result["seconds_on_one_thread"].values():
        assert all(0 < seconds < profile["total"] for name, seconds in profile.items() if name != "total")


def test_ratios_and_shares_of_cuda_graphs():
    """A GPU's targets are those of the graphs: seconds of the slower over seconds of the quicker."""
    seconds = {"teacher": 0.01, "student": 0.008, "plain teacher": 0.024}
    seconds |= {"teacher, CUDA graph": 0.003, "student, CUDA graph": 0.002}
    assert suite_networks._ratios(seconds) == pytest.approx(
        {
            "teacher_over_plain": 2.4,
            "student_over_teacher": 1.25,
            "teacher_graph_over_plain": 8,
            "student_graph_over_plain": 12,
            "student_graph_over_teacher_graph": 1.5,
        }
    )
    assert suite_networks._shares({"teacher": 27e9, "student": 16e9}, seconds, 5e13) == pytest.approx(
        {
            "teacher": 0.054,
            "student": 0.04,
            "teacher, CUDA graph": 0.18,
            "student, CUDA graph": 0.16,
        }
    )


def test_train(measured):
    result = measured("train", 128)
    assert set(result["extra_training_time"]) == {"none", *SERVED}
    assert {"teacher", "plain teacher", "student step, gamma 0", "student step, gamma 0.3"} == set(result["times"])
    assert set(result["pairs_per_second"]) == {"teacher", "plain teacher"}
    for name, pairs in result["pairs_per_second"].items():
        assert pairs == pytest.approx(1 / result["times"][name]["median_seconds"])  # a batch of one
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


def test_the_compiled_cpu_path_needs_numba(tmp_path):
    flags = ["model", "--num-points", "128", "--repeats", "1"]
    done = with_missing_packages(tmp_path, *flags, missing=(*NOT_NEEDED, "numba"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ops: the compiled CPU path needs numba: pip install numba")


def test_progress_lines_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    for call in (lambda: log.say("hello"), lambda: log.progress_bar(1, "training", "step")):
        with pytest.raises(InputError, match="^progress lines need tqdm: pip install tqdm$"):
            call()


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
