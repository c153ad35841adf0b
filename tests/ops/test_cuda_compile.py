"""The CUDA sources without a GPU: they compile for every architecture, are cached on disk, and say what is missing."""

import io
import os
import re
import subprocess
import sys
import types
from contextlib import nullcontext

import pytest
import torch

from lib.ops import InputError
from lib.ops.cuda import launch, program
from tests.runs import ROOT

ON_GPU = ROOT / "benchmarks/on_gpu.sh"
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("source", list(program.KERNELS))
def test_every_kernel_compiles_without_a_warning_or_a_spill(source, arch):
    log = io.StringIO()
    options = {"ptxas_options": ["-v", "-warn-spills"]}
    binaries = program.compile_kernels(source, program.KERNELS[source], arch, log, **options)
    messages = log.getvalue()
    assert "warning" not in messages.lower(), messages
    spilled = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", messages)
    assert len(spilled) >= len(binaries) and set(spilled) == {("0", "0")}, messages
    assert all(
        binary.code.startswith(b"\x7fELF") and binary.symbol.encode() in binary.code for binary in binaries.values()
    )


def test_the_table_names_every_source():
    assert {path.stem for path in program.CSRC.glob("*.cu")} == set(program.KERNELS)


def test_a_source_that_does_not_compile_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken.cu").write_text("template <typename T> __global__ void broken(T* a) { a = nonsense; }")
    monkeypatch.setattr(program, "CSRC", tmp_path)
    with pytest.raises(Exception, match="nonsense"):
        program.compile_kernels("broken", ["broken<float>"], "sm_90")


@pytest.fixture
def compilations(tmp_path, monkeypatch):
    """An empty cache, and the list of kernels compiled since."""
    done, real = [], program.compile_kernels
    monkeypatch.setenv("POINT_OPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(program, "compile_kernels", lambda *a: done.append(a) or real(*a))
    return done


GATHER = ("gather", "gather<float>", "sm_90")


def test_a_kernel_is_compiled_once(compilations):
    first, second = program.cached_binary(*GATHER), program.cached_binary(*GATHER)
    assert first == second and len(compilations) == 1
    assert len(list(program.cache_folder().iterdir())) == 1  # no temporary file is left


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-9],
        lambda b: b"",
        lambda b: b"{}\n",
        lambda b: b"\xff" + b[1:],
        lambda b: b[:-1] + bytes([b[-1] ^ 1]),
        lambda b: b"[]\n" + b,
    ],
)
def test_a_damaged_cache_entry_is_compiled_again(compilations, damage):
    good = program.cached_binary(*GATHER)
    (path,) = program.cache_folder().iterdir()
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert program.cached_binary(*GATHER) == good and len(compilations) == 2
    assert path.read_bytes() == content


def test_the_key_covers_kernel_architecture_compiler_and_sources(tmp_path, monkeypatch):
    keys = {
        program._key(*GATHER),
        program._key("gather", "gather<double>", "sm_90"),
        program._key("gather", "gather<float>", "sm_80"),
    }
    monkeypatch.setattr(program, "nvrtc_version", lambda: "99.0")
    keys.add(program._key(*GATHER))
    for changed in ("gather.cu", program.HEADER):
        for name in ("gather.cu", program.HEADER):
            extra = "// changed" if name == changed else ""
            (tmp_path / name).write_text((program.CSRC / name).read_text() + extra)
        with monkeypatch.context() as patch:
            patch.setattr(program, "CSRC", tmp_path)
            keys.add(program._key(*GATHER))
    assert len(keys) == 6


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("POINT_OPS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert program.cache_folder() == tmp_path / "point-ops"
    monkeypatch.setenv("POINT_OPS_CACHE", str(tmp_path / "own"))
    assert program.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("POINT_OPS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert program.cache_folder() == tmp_path / ".cache/point-ops"


def test_a_cache_that_cannot_be_written_costs_a_warning_only(compilations, monkeypatch, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("POINT_OPS_CACHE", str(blocker / "cache"))
    with pytest.warns(UserWarning, match="cannot be kept in .*: set POINT_OPS_CACHE to a folder that can be written"):
        program.cached_binary(*GATHER)


def without(monkeypatch, module: str) -> None:
    """Imports of ``module`` fail, and nothing is remembered of earlier ones."""
    monkeypatch.setitem(sys.modules, module, None)
    for remembered in (program.core, program.nvrtc_version):
        remembered.cache_clear()


INSTALL = "pip install cuda-core nvidia-cuda-nvrtc, or choose --ops reference"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("cuda.core", "ops: the CUDA kernels need the package cuda-core: " + INSTALL),
        ("cuda.bindings", "ops: the CUDA kernels need NVRTC, package nvidia-cuda-nvrtc: " + INSTALL),
    ],
)
def test_missing_packages_are_named(monkeypatch, module, message):
    without(monkeypatch, module)
    with pytest.raises(InputError) as error:
        program.nvrtc_version()
    assert str(error.value) == message


def test_a_missing_nvrtc_library_is_named(monkeypatch):
    program.nvrtc_version.cache_clear()
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")

    def not_found():
        raise RuntimeError('Failure finding "libnvrtc.so"')

    monkeypatch.setattr(nvrtc, "nvrtcVersion", not_found)
    with pytest.raises(InputError, match="need NVRTC, package nvidia-cuda-nvrtc"):
        program.nvrtc_version()


def test_an_old_cuda_core_is_named(monkeypatch):
    monkeypatch.setattr(sys.modules["cuda.core"], "Program", None)
    monkeypatch.delattr(sys.modules["cuda.core"], "Program")
    program.core.cache_clear()
    with pytest.raises(InputError, match="the installed cuda-core is too old, 1.0 or later is needed"):
        program.core()


class Recorder(types.SimpleNamespace):
    """Stands in for cuda-core where there is no driver: keeps what it is asked for."""

    def __init__(self) -> None:
        self.calls = []
        super().__init__(
            LaunchConfig=lambda **shape: shape,
            Stream=types.SimpleNamespace(from_handle=lambda handle: ("stream", handle)),
            ObjectCode=types.SimpleNamespace(from_cubin=self.from_cubin),
            launch=lambda *call: self.calls.append(call),
            Device=lambda gpu: types.SimpleNamespace(set_current=lambda: self.calls.append(f"thread to GPU {gpu}")),
        )

    def from_cubin(self, code):
        return types.SimpleNamespace(get_kernel=lambda name: (name, code))


def test_a_launch_reaches_the_driver(monkeypatch):
    driver = Recorder()
    monkeypatch.setattr(program, "core", lambda: driver)
    program.start("kernel", 7, (16, 3), 256, 1, [1, 2])
    program.start("kernel", 7, (16, 3), 256, 8, [1, 2])
    assert driver.calls == [
        (("stream", 7), {"grid": (16, 3), "block": 256}, "kernel", 1, 2),
        (("stream", 7), {"grid": (2, 3), "block": 256, "cluster": 8}, "kernel", 1, 2),  # the grid counts clusters
    ]


def test_a_thread_has_a_context_before_it_launches(monkeypatch):
    """One that has not called CUDA before, as autograd's, has none: torch gives it none for GPU 0."""
    driver, gpu = Recorder(), torch.device("cuda:1")
    monkeypatch.setattr(program, "core", lambda: driver)
    monkeypatch.setattr(program, "load", lambda *kernel: driver.calls.append("load") or kernel)
    monkeypatch.setattr(launch, "hardware", lambda device: launch.Hardware(90, 132))
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=7))
    launch.execute(launch.Launch("gather", "gather<float>", (1, 1), 32, (3, None)), gpu)
    assert driver.calls[:2] == ["thread to GPU 1", "load"]
    assert driver.calls[2] == (("stream", 7), {"grid": (1, 1), "block": 32}, ("gather", "gather<float>", 90), 3, 0)


def test_everything_on_a_gpu_ends_within_nine_minutes(tmp_path):
    """The limits of its parts, two seconds to kill each and ten for the first look; without a GPU it says so."""
    text = ON_GPU.read_text()
    limits = [int(limit) for limit in re.findall(r'^ *part (?:"[^"$]*"|tests) (\d+) ', text, re.MULTILINE)]
    (both_tools,) = re.findall(r'part "\$tool" (\d+) ', text)
    limits += 2 * [int(both_tools)]
    assert len(limits) == 7 and sum(limits) + 2 * len(limits) + 10 <= 540 and "--kill-after=2 " in text
    if not torch.cuda.is_available():
        environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable}
        done = subprocess.run(["bash", ON_GPU], env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (2, "error: no usable GPU on this machine\n"), done.stderr


def test_a_kernel_is_loaded_by_its_symbol(monkeypatch):
    monkeypatch.setattr(program, "core", Recorder)
    monkeypatch.setattr(program, "cached_binary", lambda *a: program.Binary("_Zsymbol", b"code of " + a[2].encode()))
    program.load.cache_clear()
    assert program.load("gather", "gather<float>", 90) == ("_Zsymbol", b"code of sm_90")
    program.load.cache_clear()


@pytest.fixture(autouse=True)
def nothing_remembered():
    yield
    for remembered in (program.core, program.nvrtc_version):
        remembered.cache_clear()
