#!/usr/bin/env bash
# Real frames on a small machine: a teacher on the 24 FlyingThings3D training pairs of DATA (22 train, 2 choose the
# checkpoint), then a student with gamma 0.3 and one from scratch on the same pairs; scored on the 6 held-out pairs and
# on the KITTI pairs present. Few pairs, few points and short runs: this shows that the pipeline learns and transfers,
# it is not the published protocol. Stopped runs go on, finished ones are skipped.
#
#   DATA=folder-with-FlyingThings3D_subset_processed_35m bash experiments/real_frames.sh
set -euo pipefail
cd "$(dirname "$0")/.."

DATA=${DATA:-../shared/data}
POINTS=${POINTS:-2048}
BATCH=${BATCH:-4}
TEACHER_STEPS=${TEACHER_STEPS:-1500}
STUDENT_STEPS=${STUDENT_STEPS:-600}
RUNS=${RUNS:-runs/real_frames}
RESULTS=${RESULTS:-results/real_frames}
mkdir -p "$RESULTS"

common=(--dataset ft3d --subset full --data-root "$DATA" --num-points "$POINTS" --batch-size "$BATCH"
        --eval-every 20 --workers 1 --seed 0)

python train_teacher.py "${common[@]}" --steps "$TEACHER_STEPS" --lr-step 70 --resume --out "$RUNS/teacher"
for gamma in 0.3 0; do
  python train_student.py "${common[@]}" --steps "$STUDENT_STEPS" --lr-step 30 --resume \
    --teacher "$RUNS/teacher/best.pt" --gamma "$gamma" --out "$RUNS/student-gamma$gamma"
done

for run in teacher student-gamma0.3 student-gamma0; do
  cp "$RUNS/$run/config.json" "$RESULTS/$run.config.json"
  cp "$RUNS/$run/log.jsonl" "$RESULTS/$run.log.jsonl"
done

for data in "ft3d test" "kitti all"; do
  read -r dataset split <<<"$data"
  where=(--dataset "$dataset" --split "$split" --data-root "$DATA" --num-points "$POINTS")
  for baseline in zero nearest; do
    python evaluate.py --baseline "$baseline" "${where[@]}" --json "$RESULTS/$dataset-$baseline.json"
  done
  for run in teacher student-gamma0.3 student-gamma0; do
    python evaluate.py --checkpoint "$RUNS/$run/best.pt" "${where[@]}" --json "$RESULTS/$dataset-$run.json"
  done
done
python experiments/make_tables.py "$RESULTS"/{ft3d,kitti}-{zero,nearest,teacher,student-gamma0.3,student-gamma0}.json
