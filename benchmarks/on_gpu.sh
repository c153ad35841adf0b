#!/usr/bin/env bash
# Everything that needs a GPU, in one call of a few minutes, from the checkout: the tests marked cuda, then a short
# distillation at the published size (8192 points, batch 8) on synthetic data with its rows under results/gpu.
#
#   OUT=results/gpu bash benchmarks/on_gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-results/gpu}
RUNS=${RUNS:-runs/on_gpu}
STEPS=${STEPS:-300}
mkdir -p "$OUT"

python - <<'E_PYTHON'
import importlib.util
import sys
missing = [name for name in ("torch", "numpy", "scipy", "numba", "tensorboardX", "tqdm", "matplotlib", "pytest")
           if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"error: missing packages: {', '.join(missing)}: pip install -r requirements.txt")
import torch
if not torch.cuda.is_available():
    sys.exit("error: no usable GPU on this machine")
print(torch.__version__, torch.cuda.get_device_name())
E_PYTHON

python -m pytest -m cuda tests | tee "$OUT/tests.txt"

python train_teacher.py --dataset synthetic-things --num-scenes 256 --steps "$STEPS" --lr-step 4 --eval-every 4 \
  --workers 8 --device cuda --resume --out "$RUNS/teacher"
for amp in off bf16; do
  python train_student.py --teacher "$RUNS/teacher/best.pt" --dataset synthetic-drive --num-scenes 64 \
    --steps "$STEPS" --lr-step 15 --eval-every 15 --workers 8 --device cuda --amp "$amp" --resume \
    --out "$RUNS/student-amp-$amp"
  cp "$RUNS/student-amp-$amp/log.jsonl" "$OUT/student-amp-$amp.log.jsonl"
done
for run in teacher student-amp-off student-amp-bf16; do
  python evaluate.py --checkpoint "$RUNS/$run/best.pt" --dataset synthetic-drive --device cuda --json "$OUT/$run.json"
done
python experiments/make_tables.py "$OUT"/{teacher,student-amp-off,student-amp-bf16}.json
