"""The compiled loops on processors with shorter vectors: tests of their values, with what LLVM makes for those."""

import os
import subprocess
import sys

import pytest

from lib.ops.cpu.compiled import cpu_features
from tests.runs import ROOT

TESTS = ("tests/ops/test_outer_sum.py", "tests/ops/test_flow_embedding.py", "tests/ops/test_inference.py")


@pytest.mark.parametrize(("name", "features"), [("generic", ""), ("haswell", "+avx2,+fma")])
def test_values_are_the_same(tmp_path, name, features):
    if not set(features.split(",")) - {""} <= set(cpu_features()):
        pytest.skip(f"this processor does not have {features}")
    other = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, "-k", "every_size or twin"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **other}, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
