#!/usr/bin/env bash
# The main job in miniature, on synthetic data made on the spot, on a CPU, in a few minutes: a teacher on
# synthetic-things, two students on a small synthetic-drive set (distilled with gamma 0.3, and from scratch), three rows
# of metrics and a picture. It starts afresh each time.
set -euo pipefail
cd "$(dirname "$0")/../.."

POINTS=1024
RUNS=runs/demo
rm -rf "$RUNS"
mkdir -p "$RUNS"

python train_teacher.py --dataset synthetic-things --num-scenes 96 --num-points "$POINTS" --batch-size 4 \
  --steps 360 --lr-step 7 --lr-gamma 0.3 --eval-every 7 --workers 1 --out "$RUNS/teacher"
for gamma in 0.3 0; do
  python train_student.py --teacher "$RUNS/teacher/best.pt" --gamma "$gamma" --dataset synthetic-drive --num-scenes 16 \
    --num-points "$POINTS" --batch-size 4 --steps 100 --lr-step 12 --lr-gamma 0.3 --eval-every 12 --workers 1 \
    --out "$RUNS/student-gamma$gamma"
done

drive=(--dataset synthetic-drive --num-points "$POINTS")
python evaluate.py --baseline zero --dataset synthetic-things --num-points "$POINTS" --json "$RUNS/zero-on-things.json"
python evaluate.py --checkpoint "$RUNS/teacher/best.pt" --dataset synthetic-things --num-points "$POINTS" \
  --json "$RUNS/teacher-on-things.json"
for run in teacher student-gamma0.3 student-gamma0; do
  python evaluate.py --checkpoint "$RUNS/$run/best.pt" "${drive[@]}" --json "$RUNS/$run.json"
done
python visualize.py --checkpoint "$RUNS/student-gamma0.3/best.pt" "${drive[@]}" --out "$RUNS/flow.png" \
  --out "$RUNS/flow.html"

echo
python experiments/make_tables.py "$RUNS"/{zero-on-things,teacher-on-things,teacher,student-gamma0.3,student-gamma0}.json
echo "picture: $RUNS/flow.png; to turn and to play, in a browser: $RUNS/flow.html"
