#!/usr/bin/env bash
# LiDAR detection in miniature, on synthetic streets made on the spot, on a CPU: a small PointPillars as the teacher,
# students of a quarter and a sixteenth of its multiply-adds, each from scratch and with PointDistiller; a table of
# average precisions and a picture. It starts afresh each time.
set -euo pipefail
cd "$(dirname "$0")/../.."

RUNS=runs/demo-lidar
STREET=(--task lidar-detection --dataset synthetic-lidar)
rm -rf "$RUNS"
mkdir -p "$RUNS"

python train_teacher.py "${STREET[@]}" --num-scenes 100 --steps 400 --eval-every 8 --workers 1 --out "$RUNS/teacher"
for size in 4x 16x; do
  for methods in output:0 output:0,pointdistiller; do
    name=student-$size-$([ "$methods" = output:0 ] && echo scratch || echo distilled)
    python train_student.py "${STREET[@]}" --teacher "$RUNS/teacher/best.pt" --student "small-$size" \
      --distill "$methods" --num-scenes 50 --steps 200 --eval-every 8 --workers 1 --out "$RUNS/$name"
  done
done

for run in teacher student-4x-{scratch,distilled} student-16x-{scratch,distilled}; do
  python evaluate.py --checkpoint "$RUNS/$run/best.pt" --dataset synthetic-lidar --json "$RUNS/$run.json"
done
python visualize.py --checkpoint "$RUNS/student-4x-distilled/best.pt" --dataset synthetic-lidar \
  --out "$RUNS/boxes.png" --out "$RUNS/boxes.html"

echo
python experiments/make_tables.py "$RUNS"/{teacher,student-{4x,16x}-{scratch,distilled}}.json
echo "picture: $RUNS/boxes.png; to turn, in a browser: $RUNS/boxes.html"
