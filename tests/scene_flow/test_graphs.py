"""--cuda-graph and --ops cuda without a GPU: each is refused in one line. test_cuda_ops.py runs them on one."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

import evaluate
import predict
from lib import ops
from lib.cli import run_script
from lib.ops import InputError, describe_kernels
from models import FlowOutput, build_model
from models.scene_flow.cuda_graph import GraphedNetwork
from tests.runs import save_teacher


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("net") / "narrow.pt")


class Echo:
    """A network that claims to be on a GPU. Sampling finds a new point each time unless the cloud is all zero."""

    calls = 0

    def parameters(self):
        return iter([SimpleNamespace(device=torch.device("cuda"))])

    def eval(self):
        return self

    def __call__(self, xyz1, xyz2):
        self.calls += 1
        new = torch.stack([xyz1.sum() != 0, xyz2.sum() != 0]).all().long()
        index = new.expand(1, 5).clone()
        return FlowOutput([xyz1 + xyz2.sum(1, keepdim=True)], [None, index], [None, index])


@pytest.fixture
def recorder(monkeypatch):
    """Stands in for torch's CUDA graphs on a CPU: a replay computes into the tensors of the capture."""
    captures = []

    class Graph:
        def replay(self):
            graphed = captures[-1]
            again = graphed.net(graphed._xyz1, graphed._xyz2)
            graphed._output.flows[0].copy_(again.flows[0])
            graphed._differ.copy_(again.indices1[1].all())

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, stand_in in {
        "CUDAGraph": Graph,
        "Stream": lambda device: stream,
        "stream": lambda s: nullcontext(),
        "current_stream": lambda device: stream,
        "graph": lambda g, stream: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    real = GraphedNetwork._capture
    monkeypatch.setattr(GraphedNetwork, "_capture", lambda self, *a: captures.append(self) or real(self, *a))
    return captures


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_capture_replay_and_what_goes_round_the_graph(recorder):
    net = Echo()
    graphed = GraphedNetwork(net)
    for points in (6, 6, 7, 6):
        xyz1, xyz2 = torch.rand(1, points, 3), torch.rand(1, 6, 3)
        assert torch.equal(graphed(xyz1, xyz2).flows[0], xyz1 + xyz2.sum(1, keepdim=True))
    assert len(recorder) == 3  # the second pair found the graph of the first
    calls, zero = net.calls, torch.zeros(1, 6, 3)
    found = graphed(zero, zero)
    assert net.calls == calls + 2 and found is not graphed._output  # the replay, then the network itself
    with pytest.raises(InputError, match=r"network: xyz2 \(1, 6, 3\) holds NaN or infinite coordinates"):
        graphed(zero, zero / 0)
    assert net.calls == calls + 2


def refused(script, *flags, capsys) -> str:
    """The line on standard error of a script that ends with status 2."""
    with pytest.raises(SystemExit) as caught:
        run_script(lambda: script.main([*map(str, flags), "--device", "cpu"]))
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    return error


@pytest.fixture
def clouds(tmp_path):
    for name in ("a.xyz", "b.xyz"):
        (tmp_path / name).write_text("\n".join(f"{i % 7} {i % 11} {5 + i % 13}" for i in range(300)))
    return [tmp_path / "a.xyz", tmp_path / "b.xyz", "--out", tmp_path / "flow.npz"]


SYNTHETIC = ("--dataset", "synthetic-drive", "--num-scenes", 2, "--num-points", 128)
NEEDS_GPU = "error: --cuda-graph needs a GPU and the device is cpu: leave it out, or use --device cuda\n"
NO_KERNELS = "error: --ops cuda needs a GPU and the device is cpu: use --ops auto, or --device cuda\n"


def test_a_graph_needs_a_gpu(checkpoint, clouds, capsys):
    flags = ("--checkpoint", checkpoint, "--cuda-graph")
    assert refused(evaluate, *SYNTHETIC, *flags, capsys=capsys) == NEEDS_GPU
    assert refused(predict, *clouds, *flags, capsys=capsys) == NEEDS_GPU
    assert not clouds[-1].exists()
    with pytest.raises(InputError, match="--cuda-graph needs a GPU and the device is cpu"):
        GraphedNetwork(build_model("student-tiny"))


def test_a_graph_needs_a_network(capsys):
    line = "error: --cuda-graph records a network: use it with --checkpoint, not with --baseline\n"
    assert refused(evaluate, *SYNTHETIC, "--baseline", "zero", "--cuda-graph", capsys=capsys) == line


def test_kernels_need_a_gpu(checkpoint, clouds, capsys):
    assert refused(evaluate, *SYNTHETIC, "--baseline", "nearest", "--ops", "cuda", capsys=capsys) == NO_KERNELS
    assert refused(predict, *clouds, "--checkpoint", checkpoint, "--ops", "cuda", capsys=capsys) == NO_KERNELS


def test_kernels_refuse_tensors_in_cpu_memory():
    xyz = torch.rand(1, 8, 3)
    with ops.use_backend("cuda"), pytest.raises(InputError) as error:
        ops.furthest_point_sample(xyz, 3)
    assert str(error.value) == (
        "--ops cuda takes float32, float64 or bfloat16 on a GPU, got torch.float32 on cpu: use --ops auto"
    )


@pytest.mark.parametrize("name", ["auto", "fast", "reference"])
def test_a_cpu_has_no_line_about_kernels(name):
    assert describe_kernels(name, torch.device("cpu")) is None


def test_the_line_about_kernels(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("lib.ops.backend.nvrtc_version", lambda: "13.0")
    monkeypatch.setenv("POINT_OPS_CACHE", str(tmp_path))
    line = f"ops: CUDA kernels by NVRTC 13.0 for sm_90, kept in {tmp_path}"
    assert describe_kernels("auto", torch.device("cuda")) == describe_kernels("cuda", torch.device("cuda")) == line
    assert describe_kernels("fast", torch.device("cuda")) is None


def test_values_are_not_looked_at_while_recording(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    ops.check_finite("op", "xyz", torch.full((1, 2, 3), float("nan")))
    monkeypatch.undo()
    with pytest.raises(InputError):
        ops.check_finite("op", "xyz", torch.full((1, 2, 3), float("nan")))
