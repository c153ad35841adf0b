#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under nine minutes, from the checkout and without installing anything:
# the tests marked cuda, compute-sanitizer over the kernels, and the benchmarks on the GPU. What the machine lacks is
# named, and the parts that do without it go on. A part that fails or runs out of time does not stop the others.
#
#   OUT=results/gpu bash benchmarks/on_gpu.sh
#
# Writes summary.txt, log.txt (everything printed) and ops.json, model.json, train.json, scaling.json to $OUT.
# The status is 0 when every part that could run has passed. Golden values are looked for in ../shared, or DATA_SHARED.
set -uo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-results/gpu}
PYTHON=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 POINT_OPS_CACHE=${POINT_OPS_CACHE:-$PWD/runs/point-ops}
mkdir -p "$OUT" || exit 2
: > "$OUT/log.txt"
: > "$OUT/summary.txt"
failed=0

say() { echo "$*" | tee -a "$OUT/summary.txt" "$OUT/log.txt"; }

# part NAME SECONDS COMMAND...: runs it under a time limit; its last line and how it ended go into the summary.
part() {
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  echo "---- $name: $*" | tee -a "$OUT/log.txt"
  timeout --kill-after=2 "$limit" "$@" 2>&1 | tee "$OUT/.part" | tee -a "$OUT/log.txt"
  local status=${PIPESTATUS[0]} how=passed
  [ "$status" -eq 0 ] || { how="FAILED (status $status)"; failed=1; }
  [ "$status" -ne 124 ] || how="STOPPED after $limit s"
  say "$name: $how, $((SECONDS - start)) s: $(tail -n 1 "$OUT/.part")"
  rm -f "$OUT/.part"
}

"$PYTHON" - > "$OUT/.machine" 2>&1 <<'E_PYTHON'
import importlib.util
import sys

def missing(*names):
    return [name for name in names if importlib.util.find_spec(name.split(".")[0]) is None]

if missing("torch", "numpy"):
    sys.exit(f"error: missing packages: {', '.join(missing('torch', 'numpy'))}: nothing here runs without them")
import torch
if not torch.cuda.is_available():
    sys.exit("error: no usable GPU on this machine")
print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {sys.version.split()[0]}")
try:
    from lib.ops.cuda.program import core, nvrtc_version
    print(f"cuda-core {getattr(core(), '__version__', '?')}, NVRTC {nvrtc_version()}")
except ValueError as error:
    print(f"missing: {error}")
if missing("pytest"):
    print("missing: pytest, without which no test runs")
peers = missing("scipy", "pykdtree", "fpsample", "torch_cluster")
print(f"missing among the packages to compare with: {', '.join(peers) or 'none'}")
E_PYTHON
status=$?
while read -r line; do say "$line"; done < "$OUT/.machine"
rm -f "$OUT/.machine"
[ "$status" -eq 0 ] || exit 2

part tests 150 "$PYTHON" -m pytest -q -p no:cacheprovider -m cuda \
  tests/ops/test_cuda_ops.py tests/scene_flow/test_golden.py tests/test_benchmark.py

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
if [ -n "$sanitizer" ]; then
  # The small cases of every kernel: under the tool a kernel takes 10 to 100 times as long. Torch's own allocator would
  # hide a step beyond a tensor that stays within one of its large blocks.
  small="values_and_gradients or sizes_beyond_a_tile or (sampling and 33) or (knn and 33) or (from_memory and dtype0 and not 40)"
  for tool in memcheck racecheck; do
    part "$tool" 70 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --error-exitcode 9 \
      --print-limit 20 "$PYTHON" -m pytest -q -p no:cacheprovider -m cuda tests/ops/test_cuda_ops.py -k "$small"
  done
else
  say "memcheck, racecheck: compute-sanitizer is not on this machine"
fi

part "benchmark ops" 60 "$PYTHON" benchmark.py ops --device cuda --json "$OUT/ops.json"
part "benchmark model" 60 "$PYTHON" benchmark.py model --device cuda --json "$OUT/model.json"
part "benchmark train" 60 "$PYTHON" benchmark.py train --device cuda --batch-size 8 --json "$OUT/train.json"
part "benchmark scaling" 45 "$PYTHON" benchmark.py scaling --device cuda --json "$OUT/scaling.json"
say "took $SECONDS s"
exit "$failed"
